"""A time step of a convolutional LSTM: the state's convolution, the gates and the new state in one kernel."""

import triton
import triton.language as tl

from .recurrent import add_product, block_of, channels_first, dense, reach, runs, tanh


@triton.jit
def state_gates(
    p_h, p_weight, o_row, m_row, o_out, m_out, size,
    HIDDEN: tl.constexpr, KERNEL: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_K: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """The state's share of i, f, g and o, each (BLOCK_M, BLOCK_O) float32: four products with the same patches."""
    K: tl.constexpr = HIDDEN * KERNEL[0] * KERNEL[1]
    b_i = tl.zeros((BLOCK_M, BLOCK_O), tl.float32)
    b_f, b_g, b_o = b_i, b_i, b_i
    if p_h is not None:
        for k0 in range(0, K, BLOCK_K):
            o_patch, _, mask = reach(o_row, m_row, k0, dense(size, HIDDEN), size, HIDDEN, KERNEL, BLOCK_K, INDEX)
            b_patch = tl.load(p_h + o_patch, mask, other=0.0)
            b_i = add_product(b_i, b_patch, p_weight, o_out, m_out, k0, K, PRECISION, BLOCK_K)
            b_f = add_product(b_f, b_patch, p_weight + HIDDEN * K, o_out, m_out, k0, K, PRECISION, BLOCK_K)
            b_g = add_product(b_g, b_patch, p_weight + 2 * HIDDEN * K, o_out, m_out, k0, K, PRECISION, BLOCK_K)
            b_o = add_product(b_o, b_patch, p_weight + 3 * HIDDEN * K, o_out, m_out, k0, K, PRECISION, BLOCK_K)
    return b_i, b_f, b_g, b_o


@triton.jit
def add_input(b_gate, p_ahead, p_bias, o_gate, m_map, o_out, m_out):
    """The input's share and the bias added to a gate."""
    b_gate += tl.load(p_ahead + o_gate, m_map, other=0.0).to(tl.float32)
    if p_bias is not None:
        b_gate += tl.load(p_bias + o_out, m_out, other=0.0).to(tl.float32)[None, :]
    return b_gate


@triton.jit
def peep(b_gate, p_peephole, b_cell, o_out, m_out):
    """What a gate sees of the cell added to it."""
    return b_gate + tl.load(p_peephole + o_out, m_out, other=0.0).to(tl.float32)[None, :] * b_cell


@triton.jit(do_not_specialize=["t"])
def conv_lstm_step(
    p_ahead,  # (N, H, W, 4D): the input's share of the gates
    p_h,  # (N, H, W, D): the state before; None: zero
    p_weight,  # (4D, kh * kw * D)
    p_bias,  # (4D,) or None
    p_peephole,  # (3, D) or None
    p_lengths,  # (N,) int64 or None
    p_c,  # (N, H, W, D) float32: the cell before; None: zero
    p_next_h,  # (N, H, W, D): the state behind
    p_next_c,
    p_output,  # (N, D, H, W), or None
    p_gates,  # (N, H, W, 4D), takes the gates, or None
    p_kept,  # (2, N, H, W, D) float32, takes h and c behind the step, or None
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
    """Each program: a block of positions by a block of hidden channels, with all four gates of each."""
    INDEX: tl.constexpr = tl.int64 if WIDE else tl.int32
    DTYPE: tl.constexpr = p_next_h.dtype.element_ty
    o_row, o_out = block_of(HIDDEN, BLOCK_M, BLOCK_O, INDEX)
    m_row, m_out = o_row < rows, o_out < HIDDEN
    b_i, b_f, b_g, b_o = state_gates(
        p_h, p_weight, o_row, m_row, o_out, m_out, size, HIDDEN, KERNEL, PRECISION, BLOCK_M, BLOCK_O, BLOCK_K, INDEX
    )
    o_map, m_map = o_row * HIDDEN + o_out[None, :], m_row & m_out[None, :]
    o_gate = o_row * (4 * HIDDEN) + o_out[None, :]
    b_i = add_input(b_i, p_ahead, p_bias, o_gate, m_map, o_out, m_out)
    b_f = add_input(b_f, p_ahead, p_bias, o_gate + HIDDEN, m_map, HIDDEN + o_out, m_out)
    b_g = add_input(b_g, p_ahead, p_bias, o_gate + 2 * HIDDEN, m_map, 2 * HIDDEN + o_out, m_out)
    b_o = add_input(b_o, p_ahead, p_bias, o_gate + 3 * HIDDEN, m_map, 3 * HIDDEN + o_out, m_out)
    b_cell = tl.zeros((BLOCK_M, BLOCK_O), tl.float32)
    if p_c is not None:
        b_cell = tl.load(p_c + o_map, m_map, other=0.0)
    if p_peephole is not None:
        b_i = peep(b_i, p_peephole, b_cell, o_out, m_out)
        b_f = peep(b_f, p_peephole, b_cell, HIDDEN + o_out, m_out)
    b_i, b_f, b_g = tl.sigmoid(b_i), tl.sigmoid(b_f), tanh(b_g)
    b_new = b_f * b_cell + b_i * b_g
    if p_peephole is not None:
        b_o = peep(b_o, p_peephole, b_new, 2 * HIDDEN + o_out, m_out)
    b_o = tl.sigmoid(b_o)
    b_h = b_o * tanh(b_new)
    b_output = b_h
    if p_lengths is not None:  # behind its end a sequence holds its state, and puts out 0
        running = runs(p_lengths, o_row // (size[0] * size[1]), t, m_row)
        b_output = tl.where(running, b_h, 0.0)
        b_before = tl.zeros((BLOCK_M, BLOCK_O), tl.float32)
        if p_h is not None:
            b_before = tl.load(p_h + o_map, m_map, other=0.0).to(tl.float32)
        b_h, b_new = tl.where(running, b_h, b_before), tl.where(running, b_new, b_cell)
    tl.store(p_next_c + o_map, b_new, m_map)
    tl.store(p_next_h + o_map, b_h.to(DTYPE), m_map)
    if p_output is not None:
        o_output = channels_first(o_row, o_out, size, HIDDEN)
        tl.store(p_output + o_output, tl.trans(b_output).to(DTYPE), m_out[:, None] & tl.trans(m_row))
    if p_gates is not None:
        tl.store(p_gates + o_gate, b_i.to(DTYPE), m_map)
        tl.store(p_gates + o_gate + HIDDEN, b_f.to(DTYPE), m_map)
        tl.store(p_gates + o_gate + 2 * HIDDEN, b_g.to(DTYPE), m_map)
        tl.store(p_gates + o_gate + 3 * HIDDEN, b_o.to(DTYPE), m_map)
    if p_kept is not None:
        tl.store(p_kept + o_map, b_h, m_map)
        tl.store(p_kept + tl.cast(rows, tl.int64) * HIDDEN + o_map, b_new, m_map)
