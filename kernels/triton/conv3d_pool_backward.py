"""Gradients of 3-D convolution, activation and max-pool, from the winners of the windows alone.

A winner of 255 is no place of a window: nothing flows back through such a window.
"""

import triton
import triton.language as tl

from .implicit_gemm import decode, patch_corner, patches


@triton.jit
def conv3d_pool_weight_gradient(
    p_grad,  # (N, O, T', H', W'), contiguous
    p_winners,
    p_input,
    p_partial,  # (splits, O, K) float32
    rows,
    rows_of_split,  # a multiple of BLOCK_M
    outputs,
    groups,
    stride_n,  # of the input
    stride_c,
    stride_t,
    stride_h,
    stride_w,
    size,
    out_size,
    CHANNELS: tl.constexpr,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    DILATION: tl.constexpr,
    POOL_KERNEL: tl.constexpr,
    POOL_STRIDE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_K: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Each program: a block of weights, over one split of the windows.

    Channels win at different places, so the sum over windows is one product a place, of the gradients that won there
    with the patches there. The caller adds the splits: always in the same order, with no atomics.
    """
    INDEX: tl.constexpr = tl.int64 if WIDE else tl.int32
    strides = (stride_n, stride_c, stride_t, stride_h, stride_w)
    K: tl.constexpr = CHANNELS * KERNEL[0] * KERNEL[1] * KERNEL[2]
    PADDED: tl.constexpr = PADDING[0] + PADDING[1] + PADDING[2] > 0
    blocks = tl.cdiv(outputs, BLOCK_O)
    column = tl.program_id(0) % (blocks * groups)
    group = column // blocks
    k0 = tl.program_id(0) // (blocks * groups) % tl.cdiv(K, BLOCK_K) * BLOCK_K
    split = tl.program_id(0) // (blocks * groups * tl.cdiv(K, BLOCK_K))
    o_local = column % blocks * BLOCK_O + tl.arange(0, BLOCK_O)[:, None]
    o_out, m_out = group * outputs + o_local, o_local < outputs
    positions = out_size[0] * out_size[1] * out_size[2]

    b_acc = tl.zeros((BLOCK_K, BLOCK_O), tl.float32)
    first = split.to(INDEX) * rows_of_split
    for row in range(first, tl.minimum(first + rows_of_split, rows), BLOCK_M):
        o_row = row + tl.arange(0, BLOCK_M)[None, :]
        m_row = o_row < rows
        n, t, h, w = decode(o_row, out_size)
        o_grad = (n * (outputs * groups) + o_out) * positions + o_row % positions
        b_grad = tl.load(p_grad + o_grad, m_out & m_row, other=0.0)
        b_winner = tl.load(p_winners + o_grad, m_out & m_row, other=0).to(tl.int32)
        o_clip = n * strides[0] + (group * CHANNELS).to(INDEX) * strides[1]
        for place in range(0, POOL_KERNEL[0] * POOL_KERNEL[1] * POOL_KERNEL[2]):
            corner = patch_corner(t, h, w, place, STRIDE, PADDING, POOL_KERNEL, POOL_STRIDE)
            b_patch = patches(
                p_input, o_clip, corner, m_row, k0, strides, size,
                CHANNELS, KERNEL, DILATION, PADDED, BLOCK_K, INDEX,
            )  # fmt: skip
            b_won = tl.where(b_winner == place, b_grad, 0.0).to(b_patch.dtype)
            b_acc = tl.dot(b_patch, tl.trans(b_won), b_acc, input_precision=PRECISION)

    o_k = k0 + tl.arange(0, BLOCK_K)[None, :]
    o_partial = (split.to(INDEX) * (outputs * groups) + o_out) * K + o_k
    tl.store(p_partial + o_partial, tl.trans(b_acc), m_out & (o_k < K))


@triton.jit
def floor_div(a, B: tl.constexpr, LIFT: tl.constexpr):
    """Rounded down; a is at least -B * LIFT (a plain division would round towards 0)."""
    return (a + B * LIFT) // B - LIFT


@triton.jit
def residues(first, last, FULL: tl.constexpr):
    """Of consecutive numbers first ... last, the smallest and the largest value modulo FULL."""
    same = first // FULL == last // FULL
    return tl.where(same, first % FULL, 0), tl.where(same, last % FULL, FULL - 1)


@triton.jit
def reach(low, high, K: tl.constexpr, S: tl.constexpr, P: tl.constexpr, D: tl.constexpr):
    """The convolution's positions [first, behind the last) whose patch touches input positions low ... high."""
    SPAN: tl.constexpr = (K - 1) * D
    return floor_div(low + P - SPAN + S - 1, S, SPAN + 1), (high + P) // S + 1


@triton.jit
def tap(x, position, K: tl.constexpr, S: tl.constexpr, P: tl.constexpr, D: tl.constexpr):
    """(tap, whether there is one) through which that position of the convolution reads the input at x."""
    distance = x + P - position * S
    return distance // D, (distance >= 0) & (distance % D == 0) & (distance < K * D)


@triton.jit
def reach_of_block(
    first, last, CELL_H: tl.constexpr, CELL_W: tl.constexpr,
    KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr, DILATION: tl.constexpr,
):  # fmt: skip
    """`reach` in t, h and w of a cell's positions first ... last, numbered in the order t, h, w."""
    h_low, h_high = residues(first // CELL_W, last // CELL_W, CELL_H)
    w_low, w_high = residues(first, last, CELL_W)
    t_low, t_high = first // (CELL_H * CELL_W), last // (CELL_H * CELL_W)
    t_from, t_to = reach(t_low, t_high, KERNEL[0], STRIDE[0], PADDING[0], DILATION[0])
    h_from, h_to = reach(h_low, h_high, KERNEL[1], STRIDE[1], PADDING[1], DILATION[1])
    w_from, w_to = reach(w_low, w_high, KERNEL[2], STRIDE[2], PADDING[2], DILATION[2])
    return t_from, t_to, h_from, h_to, w_from, w_to


@triton.jit
def window_over(position, over, KERNEL: tl.constexpr, DILATION: tl.constexpr, POOL_STRIDE: tl.constexpr):
    """Of the windows over a position of the convolution, number `over` from behind: (window, place in it), in one dimension.

    The place is outside of the window where there is no such window.
    """
    window = floor_div(position, POOL_STRIDE, KERNEL * DILATION) - over
    return window, position - window * POOL_STRIDE


@triton.jit
def add_product(
    b_acc, p_grad, p_winners, p_weight, place, o_clip, o_window, m_window, o_tap, m_tap, group, outputs, positions,
    K: tl.constexpr, PRECISION: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """Adds the product of the gradients that won at a place (cells x channels) with one tap's weights, over all channels."""
    for o0 in range(0, outputs, BLOCK_O):
        o_local = o0 + tl.arange(0, BLOCK_O)[:, None]
        o_out, m_out = group * outputs + o_local, o_local < outputs
        o_grad = (o_clip + o_out) * positions + o_window
        b_winner = tl.load(p_winners + o_grad, m_out & m_window, other=0).to(tl.int32)
        b_grad = tl.load(p_grad + o_grad, m_out & m_window, other=0.0)
        b_weight = tl.load(p_weight + (o_out * K + o_tap), m_out & m_tap, other=0.0)
        b_won = tl.where(b_winner == place, b_grad, 0.0).to(b_weight.dtype)
        b_acc = tl.dot(tl.trans(b_won), b_weight, b_acc, input_precision=PRECISION)
    return b_acc


@triton.jit
def conv3d_pool_input_gradient(
    p_grad,  # (N, O, T', H', W'), contiguous
    p_winners,
    p_weight,  # (O, K)
    p_output,  # (N, C, T, H, W), contiguous
    rows,  # cells: N * their number in the input
    outputs,
    groups,
    size,
    out_size,
    cells,
    CHANNELS: tl.constexpr,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    DILATION: tl.constexpr,
    POOL_KERNEL: tl.constexpr,
    POOL_STRIDE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_O: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Each program: a block of cells by a block of what a cell holds.

    The step from window to window, POOL_STRIDE * STRIDE, divides the input into cells. Seen from its cell, a position is
    reached by the same places of the same windows through the same taps in every cell, so a product of gradients
    (cells x channels that won at a place) with weights (channels x positions and input channels of a cell) sums them;
    every element of the result belongs to one program, so overlapping windows need no atomics.
    """
    INDEX: tl.constexpr = tl.int64 if WIDE else tl.int32
    CELL_H: tl.constexpr = POOL_STRIDE[1] * STRIDE[1]
    CELL_W: tl.constexpr = POOL_STRIDE[2] * STRIDE[2]
    CELL: tl.constexpr = POOL_STRIDE[0] * STRIDE[0] * CELL_H * CELL_W
    K: tl.constexpr = CHANNELS * KERNEL[0] * KERNEL[1] * KERNEL[2]
    BLOCKS: tl.constexpr = (CELL * CHANNELS + BLOCK_N - 1) // BLOCK_N
    column = tl.program_id(0) % (BLOCKS * groups)
    group, first = column // BLOCKS, column % BLOCKS * BLOCK_N
    o_row = (tl.program_id(0) // (BLOCKS * groups)).to(INDEX) * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]
    m_row = o_row < rows
    n, t, h, w = decode(o_row, cells)  # a cell has the number of the window that begins with it
    o_inside = first + tl.arange(0, BLOCK_N)[None, :]
    c, o_place = o_inside % CHANNELS, o_inside // CHANNELS
    it, ih, iw = o_place // (CELL_H * CELL_W), o_place // CELL_W % CELL_H, o_place % CELL_W

    positions = out_size[0] * out_size[1] * out_size[2]
    last = tl.minimum(first + BLOCK_N, CELL * CHANNELS) - 1
    t_from, t_to, h_from, h_to, w_from, w_to = reach_of_block(
        first // CHANNELS, last // CHANNELS, CELL_H, CELL_W, KERNEL, STRIDE, PADDING, DILATION
    )
    OVER_T: tl.constexpr = (POOL_KERNEL[0] + POOL_STRIDE[0] - 1) // POOL_STRIDE[0]  # windows over one position
    OVER_H: tl.constexpr = (POOL_KERNEL[1] + POOL_STRIDE[1] - 1) // POOL_STRIDE[1]
    OVER_W: tl.constexpr = (POOL_KERNEL[2] + POOL_STRIDE[2] - 1) // POOL_STRIDE[2]
    b_acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for pt in range(t_from, t_to):
        kt, m_kt = tap(it, pt, KERNEL[0], STRIDE[0], PADDING[0], DILATION[0])
        for ph in range(h_from, h_to):
            kh, m_kh = tap(ih, ph, KERNEL[1], STRIDE[1], PADDING[1], DILATION[1])
            for pw in range(w_from, w_to):
                kw, m_kw = tap(iw, pw, KERNEL[2], STRIDE[2], PADDING[2], DILATION[2])
                o_tap = ((kt * KERNEL[1] + kh) * KERNEL[2] + kw) * CHANNELS + c
                m_tap = (o_inside < CELL * CHANNELS) & m_kt & m_kh & m_kw
                for over in range(0, OVER_T * OVER_H * OVER_W):
                    ut, qt = window_over(pt, over // (OVER_H * OVER_W), KERNEL[0], DILATION[0], POOL_STRIDE[0])
                    uh, qh = window_over(ph, over // OVER_W % OVER_H, KERNEL[1], DILATION[1], POOL_STRIDE[1])
                    uw, qw = window_over(pw, over % OVER_W, KERNEL[2], DILATION[2], POOL_STRIDE[2])
                    vt, vh, vw = t + ut, h + uh, w + uw
                    m_window = m_row & (vt >= 0) & (vt < out_size[0]) & (vh >= 0) & (vh < out_size[1])
                    m_window = m_window & (vw >= 0) & (vw < out_size[2])
                    if (qt < POOL_KERNEL[0]) & (qh < POOL_KERNEL[1]) & (qw < POOL_KERNEL[2]):
                        b_acc = add_product(
                            b_acc, p_grad, p_winners, p_weight, (qt * POOL_KERNEL[1] + qh) * POOL_KERNEL[2] + qw,
                            n * (outputs * groups), (vt * out_size[1] + vh) * out_size[2] + vw, m_window, o_tap, m_tap,
                            group, outputs, positions, K, PRECISION, BLOCK_O,
                        )  # fmt: skip

    xt, xh, xw = t * (POOL_STRIDE[0] * STRIDE[0]) + tl.trans(it), h * CELL_H + tl.trans(ih), w * CELL_W + tl.trans(iw)
    o_channel = n * (groups * CHANNELS) + group * CHANNELS + tl.trans(c)
    m_output = tl.trans(o_inside < CELL * CHANNELS) & m_row & (xt < size[0]) & (xh < size[1]) & (xw < size[2])
    o_output = ((o_channel * size[0] + xt) * size[1] + xh) * size[2] + xw
    tl.store(p_output + o_output, tl.trans(b_acc).to(p_output.dtype.element_ty), m_output)
