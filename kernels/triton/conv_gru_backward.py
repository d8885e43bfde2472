"""Back through the time steps of a convolutional GRU."""

import triton
import triton.language as tl

from .recurrent import block_of, carried_gradient, load_gradient, runs, store_sum


@triton.jit(do_not_specialize=["first", "steps"])
def conv_gru_replay(
    p_gates,  # of the first step of a segment, (N, H, W, 4D); the next one's are 4 * stride further
    p_state,  # (N, H, W, D) float32: h before the segment
    p_lengths,
    p_states,  # (steps, N, H, W, D) float32: h before each step, in the order in which they run
    p_hidden,  # h before the first step, (N, H, W, D); the next one's is `stride` further
    first,  # the time of the first step
    steps,
    stride,  # N * H * W * D; negative in reverse
    count,  # N * H * W * D
    positions,  # H * W
    HIDDEN: tl.constexpr,
    REVERSE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    WIDE: tl.constexpr,
):
    """The states before every step of a segment, from its gates: all steps in one launch, since no position needs another."""
    INDEX: tl.constexpr = tl.int64 if WIDE else tl.int32
    e = tl.program_id(0).to(INDEX) * BLOCK_M + tl.arange(0, BLOCK_M)
    mask = e < count
    o_gate = e // HIDDEN * (4 * HIDDEN) + e % HIDDEN
    n = e // HIDDEN // positions
    b_h = tl.load(p_state + e, mask, other=0.0)
    step = tl.cast(stride, tl.int64)
    t = first
    for _ in range(0, steps):
        tl.store(p_states + e, b_h, mask)
        tl.store(p_hidden + e, b_h.to(p_hidden.dtype.element_ty), mask)
        b_z = tl.load(p_gates + o_gate + HIDDEN, mask, other=0.0).to(tl.float32)
        b_n = tl.load(p_gates + o_gate + 2 * HIDDEN, mask, other=0.0).to(tl.float32)
        b_h = tl.where(runs(p_lengths, n, t, mask), b_n + b_z * (b_h - b_n), b_h)
        p_states += tl.cast(count, tl.int64)
        p_hidden += step
        p_gates += 4 * step
        t = t - 1 if REVERSE else t + 1


@triton.jit(do_not_specialize=["t"])
def conv_gru_gradient(
    p_after,  # (N, H, W, 3D): gradients of the state's share of the step that ran after this one; None behind the last
    p_weight,  # (D, kh * kw * 3D): the state's weights, turned around
    p_grad,  # (N, D, H, W), any strides: gradient of this step's output
    p_carry,  # (N, H, W, D) float32: what reaches h past the convolution
    p_carried,  # the same of the step before
    p_gates,  # (N, H, W, 4D)
    p_before,  # (N, H, W, D) float32: h before this step
    p_lengths,
    p_input,  # (N, H, W, 3D): gradients of the input's share of r, z, n
    p_output,  # (N, H, W, 3D): of the state's share
    p_sums,  # (row blocks, 4, D) float32: sums over a block of the gradients of r, z, n and the state's share of n; or None
    t,
    rows,
    stride_n,  # of p_grad
    stride_d,
    stride_h,
    stride_w,
    size,
    HIDDEN: tl.constexpr,
    KERNEL: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_K: tl.constexpr,
    WIDE: tl.constexpr,
):
    """One step: the later step's gradients through the state's convolution, then back through the gates."""
    INDEX: tl.constexpr = tl.int64 if WIDE else tl.int32
    DTYPE: tl.constexpr = p_output.dtype.element_ty
    o_row, o_out = block_of(HIDDEN, BLOCK_M, BLOCK_O, INDEX)
    m_row, m_out = o_row < rows, o_out < HIDDEN
    b_carry = carried_gradient(
        p_after, p_weight, p_carry, o_row, m_row, o_out, m_out, size,
        3, HIDDEN, KERNEL, PRECISION, BLOCK_M, BLOCK_O, BLOCK_K, INDEX,
    )  # fmt: skip
    running = runs(p_lengths, o_row // (size[0] * size[1]), t, m_row)
    b_dh = b_carry + load_gradient(p_grad, o_row, running, o_out, m_out, (stride_n, stride_d, stride_h, stride_w), size)
    o_map, m_map = o_row * HIDDEN + o_out[None, :], m_row & m_out[None, :]
    b_dh = tl.where(running, b_dh, 0.0)
    o_gate = p_gates + (o_row * (4 * HIDDEN) + o_out[None, :])
    m_gate = m_map & running  # behind its end a sequence's gates may be anything
    b_r = tl.load(o_gate, m_gate, other=0.0).to(tl.float32)
    b_z = tl.load(o_gate + HIDDEN, m_gate, other=0.0).to(tl.float32)
    b_n = tl.load(o_gate + 2 * HIDDEN, m_gate, other=0.0).to(tl.float32)
    b_q = tl.load(o_gate + 3 * HIDDEN, m_gate, other=0.0).to(tl.float32)
    b_h = tl.load(p_before + o_map, m_map, other=0.0)
    b_dn = b_dh * (1 - b_z) * (1 - b_n * b_n)
    b_dz = b_dh * (b_h - b_n) * b_z * (1 - b_z)
    b_dr = b_dn * b_q * b_r * (1 - b_r)
    b_dq = b_dn * b_r
    tl.store(p_carried + o_map, tl.where(running, b_dh * b_z, b_carry), m_map)
    o_share = o_row * (3 * HIDDEN) + o_out[None, :]
    tl.store(p_input + o_share, b_dr.to(DTYPE), m_map)
    tl.store(p_input + o_share + HIDDEN, b_dz.to(DTYPE), m_map)
    tl.store(p_input + o_share + 2 * HIDDEN, b_dn.to(DTYPE), m_map)
    tl.store(p_output + o_share, b_dr.to(DTYPE), m_map)
    tl.store(p_output + o_share + HIDDEN, b_dz.to(DTYPE), m_map)
    tl.store(p_output + o_share + 2 * HIDDEN, b_dq.to(DTYPE), m_map)
    if p_sums is not None:
        p_block = p_sums + (tl.program_id(0) // tl.cdiv(HIDDEN, BLOCK_O)).to(tl.int64) * (4 * HIDDEN)
        store_sum(p_block, b_dr, o_out, m_out)
        store_sum(p_block + HIDDEN, b_dz, o_out, m_out)
        store_sum(p_block + 2 * HIDDEN, b_dn, o_out, m_out)
        store_sum(p_block + 3 * HIDDEN, b_dq, o_out, m_out)
