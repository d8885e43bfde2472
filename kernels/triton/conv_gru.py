"""A time step of a convolutional GRU: the state's convolution, the gates and the new state in one kernel."""

import triton
import triton.language as tl

from .recurrent import add_product, block_of, channels_first, dense, reach, runs, tanh


@triton.jit
def state_gates(
    p_h, p_weight, o_row, m_row, o_out, m_out, size,
    HIDDEN: tl.constexpr, KERNEL: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_K: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """The state's share of r, z and n, each (BLOCK_M, BLOCK_O) float32: three products with the same patches."""
    K: tl.constexpr = HIDDEN * KERNEL[0] * KERNEL[1]
    b_r = tl.zeros((BLOCK_M, BLOCK_O), tl.float32)
    b_z, b_q = b_r, b_r
    if p_h is not None:
        for k0 in tl.range(0, K, BLOCK_K, disable_licm=True):  # what it would hoist takes all registers on sm_80
            o_patch, _, mask = reach(o_row, m_row, k0, dense(size, HIDDEN), size, HIDDEN, KERNEL, BLOCK_K, INDEX)
            b_patch = tl.load(p_h + o_patch, mask, other=0.0)
            b_r = add_product(b_r, b_patch, p_weight, o_out, m_out, k0, K, PRECISION, BLOCK_K)
            b_z = add_product(b_z, b_patch, p_weight + HIDDEN * K, o_out, m_out, k0, K, PRECISION, BLOCK_K)
            b_q = add_product(b_q, b_patch, p_weight + 2 * HIDDEN * K, o_out, m_out, k0, K, PRECISION, BLOCK_K)
    return b_r, b_z, b_q


@triton.jit
def add_bias(b_gate, p_bias, o_out, m_out):
    if p_bias is not None:
        b_gate += tl.load(p_bias + o_out, m_out, other=0.0).to(tl.float32)[None, :]
    return b_gate


@triton.jit(do_not_specialize=["t"])
def conv_gru_step(
    p_ahead,  # (N, H, W, 3D): the input's share of the gates
    p_h,  # (N, H, W, D): the state before; None: zero
    p_weight,  # (3D, kh * kw * D)
    p_bias_ih,  # (3D,) or None
    p_bias_hh,
    p_lengths,  # (N,) int64 or None
    p_state,  # (N, H, W, D) float32: the same, not rounded
    p_next,  # (N, H, W, D): the state behind
    p_next_state,
    p_output,  # (N, D, H, W), or None
    p_gates,  # (N, H, W, 4D), takes r, z, n and the state's share of n, or None
    p_kept,  # (N, H, W, D) float32, takes the state behind the step, or None
    t,
    rows,
    size,
    HIDDEN: tl.constexpr,
    KERNEL: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_K: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Each program: a block of positions by a block of hidden channels, with all three gates of each."""
    INDEX: tl.constexpr = tl.int64 if WIDE else tl.int32
    DTYPE: tl.constexpr = p_next.dtype.element_ty
    o_row, o_out = block_of(HIDDEN, BLOCK_M, BLOCK_O, INDEX)
    m_row, m_out = o_row < rows, o_out < HIDDEN
    b_r, b_z, b_q = state_gates(
        p_h, p_weight, o_row, m_row, o_out, m_out, size, HIDDEN, KERNEL, PRECISION, BLOCK_M, BLOCK_O, BLOCK_K, INDEX
    )
    o_map, m_map = o_row * HIDDEN + o_out[None, :], m_row & m_out[None, :]
    o_ahead = p_ahead + (o_row * (3 * HIDDEN) + o_out[None, :])
    b_r += tl.load(o_ahead, m_map, other=0.0).to(tl.float32)
    b_z += tl.load(o_ahead + HIDDEN, m_map, other=0.0).to(tl.float32)
    b_n = tl.load(o_ahead + 2 * HIDDEN, m_map, other=0.0).to(tl.float32)
    b_r = tl.sigmoid(add_bias(add_bias(b_r, p_bias_ih, o_out, m_out), p_bias_hh, o_out, m_out))
    b_z = tl.sigmoid(add_bias(add_bias(b_z, p_bias_ih, HIDDEN + o_out, m_out), p_bias_hh, HIDDEN + o_out, m_out))
    b_q = add_bias(b_q, p_bias_hh, 2 * HIDDEN + o_out, m_out)
    b_n = tanh(add_bias(b_n, p_bias_ih, 2 * HIDDEN + o_out, m_out) + b_r * b_q)
    b_before = tl.zeros((BLOCK_M, BLOCK_O), tl.float32)
    if p_state is not None:
        b_before = tl.load(p_state + o_map, m_map, other=0.0)
    b_h = b_n + b_z * (b_before - b_n)
    b_output = b_h
    if p_lengths is not None:  # behind its end a sequence holds its state, and puts out 0
        running = runs(p_lengths, o_row // (size[0] * size[1]), t, m_row)
        b_output, b_h = tl.where(running, b_h, 0.0), tl.where(running, b_h, b_before)
    tl.store(p_next_state + o_map, b_h, m_map)
    tl.store(p_next + o_map, b_h.to(DTYPE), m_map)
    if p_output is not None:
        o_output = channels_first(o_row, o_out, size, HIDDEN)
        tl.store(p_output + o_output, tl.trans(b_output).to(DTYPE), m_out[:, None] & tl.trans(m_row))
    if p_gates is not None:
        o_gate = p_gates + (o_row * (4 * HIDDEN) + o_out[None, :])
        tl.store(o_gate, b_r.to(DTYPE), m_map)
        tl.store(o_gate + HIDDEN, b_z.to(DTYPE), m_map)
        tl.store(o_gate + 2 * HIDDEN, b_n.to(DTYPE), m_map)
        tl.store(o_gate + 3 * HIDDEN, b_q.to(DTYPE), m_map)
    if p_kept is not None:
        tl.store(p_kept + o_map, b_h, m_map)
