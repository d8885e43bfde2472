"""Back through the time steps of a convolutional LSTM."""

import triton
import triton.language as tl

from .recurrent import block_of, carried_gradient, load_gradient, runs, store_sum, tanh


@triton.jit(do_not_specialize=["first", "steps"])
def conv_lstm_replay(
    p_gates,  # of the first step of a segment, (N, H, W, 4D); the next one's are 4 * stride further
    p_states,  # (2, N, H, W, D) float32: h and c before the segment
    p_lengths,
    p_cells,  # (steps, N, H, W, D) float32: c before each step, in the order in which they run
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
    b_h = tl.load(p_states + e, mask, other=0.0)
    b_c = tl.load(p_states + tl.cast(count, tl.int64) + e, mask, other=0.0)
    step = tl.cast(stride, tl.int64)
    t = first
    for _ in range(0, steps):
        tl.store(p_cells + e, b_c, mask)
        tl.store(p_hidden + e, b_h.to(p_hidden.dtype.element_ty), mask)
        b_i = tl.load(p_gates + o_gate, mask, other=0.0).to(tl.float32)
        b_f = tl.load(p_gates + o_gate + HIDDEN, mask, other=0.0).to(tl.float32)
        b_g = tl.load(p_gates + o_gate + 2 * HIDDEN, mask, other=0.0).to(tl.float32)
        b_o = tl.load(p_gates + o_gate + 3 * HIDDEN, mask, other=0.0).to(tl.float32)
        b_new = b_f * b_c + b_i * b_g
        running = runs(p_lengths, n, t, mask)
        b_h, b_c = tl.where(running, b_o * tanh(b_new), b_h), tl.where(running, b_new, b_c)
        p_cells += tl.cast(count, tl.int64)
        p_hidden += step
        p_gates += 4 * step
        t = t - 1 if REVERSE else t + 1


@triton.jit(do_not_specialize=["t"])
def conv_lstm_gradient(
    p_after,  # (N, H, W, 4D): gradients of the gates of the step that ran after this one; None behind the last
    p_weight,  # (D, kh * kw * 4D): the state's weights, turned around
    p_grad,  # (N, D, H, W), any strides: gradient of this step's output
    p_carry,  # (N, H, W, D) float32: what reaches h past the gates, or None
    p_carried,  # the same of the step before; None: nothing
    p_cell,  # (N, H, W, D) float32: gradient of c
    p_next_cell,  # the same of the step before
    p_gates,  # (N, H, W, 4D)
    p_before,  # (N, H, W, D) float32: c before this step
    p_peephole,
    p_lengths,
    p_output,  # (N, H, W, 4D): gradients of the gates, in front of their activations
    p_sums,  # (row blocks, 7, D) float32: sums of those over a block's positions, and of the peepholes'; None: not wanted
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
    """One step: the later step's gradients through the state's convolution, then back through h, c and the gates."""
    INDEX: tl.constexpr = tl.int64 if WIDE else tl.int32
    DTYPE: tl.constexpr = p_output.dtype.element_ty
    o_row, o_out = block_of(HIDDEN, BLOCK_M, BLOCK_O, INDEX)
    m_row, m_out = o_row < rows, o_out < HIDDEN
    b_carry = carried_gradient(
        p_after, p_weight, p_carry, o_row, m_row, o_out, m_out, size,
        4, HIDDEN, KERNEL, PRECISION, BLOCK_M, BLOCK_O, BLOCK_K, INDEX,
    )  # fmt: skip
    running = runs(p_lengths, o_row // (size[0] * size[1]), t, m_row)
    b_dh = b_carry + load_gradient(p_grad, o_row, running, o_out, m_out, (stride_n, stride_d, stride_h, stride_w), size)
    o_map, m_map = o_row * HIDDEN + o_out[None, :], m_row & m_out[None, :]
    o_gate = o_row * (4 * HIDDEN) + o_out[None, :]
    m_gate = m_map & running  # with all gates 0 nothing flows back through a step that was not taken
    b_i = tl.load(p_gates + o_gate, m_gate, other=0.0).to(tl.float32)
    b_f = tl.load(p_gates + o_gate + HIDDEN, m_gate, other=0.0).to(tl.float32)
    b_g = tl.load(p_gates + o_gate + 2 * HIDDEN, m_gate, other=0.0).to(tl.float32)
    b_o = tl.load(p_gates + o_gate + 3 * HIDDEN, m_gate, other=0.0).to(tl.float32)
    b_c = tl.load(p_before + o_map, m_map, other=0.0)
    b_new = b_f * b_c + b_i * b_g
    b_tanh = tanh(b_new)
    b_do = b_dh * b_tanh * b_o * (1 - b_o)
    b_held = tl.load(p_cell + o_map, m_map, other=0.0)
    b_dc = b_held + b_dh * b_o * (1 - b_tanh * b_tanh)
    if p_peephole is not None:
        b_dc += b_do * tl.load(p_peephole + 2 * HIDDEN + o_out, m_out, other=0.0).to(tl.float32)[None, :]
    b_di = b_dc * b_g * b_i * (1 - b_i)
    b_df = b_dc * b_c * b_f * (1 - b_f)
    b_dg = b_dc * b_i * (1 - b_g * b_g)
    b_dc *= b_f
    if p_peephole is not None:
        b_dc += b_di * tl.load(p_peephole + o_out, m_out, other=0.0).to(tl.float32)[None, :]
        b_dc += b_df * tl.load(p_peephole + HIDDEN + o_out, m_out, other=0.0).to(tl.float32)[None, :]
    tl.store(p_next_cell + o_map, tl.where(running, b_dc, b_held), m_map)
    if p_carried is not None:
        tl.store(p_carried + o_map, tl.where(running, 0.0, b_carry), m_map)
    tl.store(p_output + o_gate, b_di.to(DTYPE), m_map)
    tl.store(p_output + o_gate + HIDDEN, b_df.to(DTYPE), m_map)
    tl.store(p_output + o_gate + 2 * HIDDEN, b_dg.to(DTYPE), m_map)
    tl.store(p_output + o_gate + 3 * HIDDEN, b_do.to(DTYPE), m_map)
    if p_sums is not None:
        p_block = p_sums + (tl.program_id(0) // tl.cdiv(HIDDEN, BLOCK_O)).to(tl.int64) * (7 * HIDDEN)
        store_sum(p_block, b_di, o_out, m_out)
        store_sum(p_block + HIDDEN, b_df, o_out, m_out)
        store_sum(p_block + 2 * HIDDEN, b_dg, o_out, m_out)
        store_sum(p_block + 3 * HIDDEN, b_do, o_out, m_out)
        if p_peephole is not None:
            store_sum(p_block + 4 * HIDDEN, b_di * b_c, o_out, m_out)
            store_sum(p_block + 5 * HIDDEN, b_df * b_c, o_out, m_out)
            store_sum(p_block + 6 * HIDDEN, b_do * b_new, o_out, m_out)
