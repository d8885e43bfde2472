"""What the kernels of the recurrent operators share: convolutions that keep height and width, as matrix products.

Maps lie in memory as (N, H, W, C). Rows are positions, columns are output channels; the reduction goes over the weights
in the order (kh, kw, c), in which the launcher packs them. A tile of patches, (BLOCK_M, BLOCK_K), is never stored.
"""

import triton
import triton.language as tl


@triton.jit
def block_of(COLUMNS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_O: tl.constexpr, INDEX: tl.constexpr):
    """This program's row numbers (BLOCK_M, 1) and columns (BLOCK_O,)."""
    BLOCKS: tl.constexpr = (COLUMNS + BLOCK_O - 1) // BLOCK_O
    o_row = (tl.program_id(0) // BLOCKS).to(INDEX) * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    return o_row, tl.program_id(0) % BLOCKS * BLOCK_O + tl.arange(0, BLOCK_O)


@triton.jit
def dense(size, CHANNELS: tl.constexpr):
    """Strides of (n, c, h, w) in memory (N, H, W, C)."""
    return size[0] * size[1] * CHANNELS, 1, size[1] * CHANNELS, CHANNELS


@triton.jit
def channels_first(o_row, o_out, size, COLUMNS: tl.constexpr):
    """(BLOCK_O, BLOCK_M) offsets in memory (N, K, H, W): neighbouring threads take neighbouring positions."""
    o_position = tl.trans(o_row)
    positions = size[0] * size[1]
    return (o_position // positions * COLUMNS + o_out[:, None]) * positions + o_position % positions


@triton.jit
def reach(
    o_row, m_row, k0, strides, size, CHANNELS: tl.constexpr, KERNEL: tl.constexpr, BLOCK_K: tl.constexpr, INDEX: tl.constexpr
):  # fmt: skip
    """Elements k0 ... of the patches around positions: their offsets, their channels, and which lie inside."""
    K: tl.constexpr = CHANNELS * KERNEL[0] * KERNEL[1]
    if CHANNELS % BLOCK_K == 0:  # one tap a tile: what depends on the tap is found once a position
        o_tap = tl.full((1, 1), k0 // CHANNELS, tl.int32)
        c = (k0 - k0 // CHANNELS * CHANNELS) + tl.arange(0, BLOCK_K)[None, :]  # k0 % CHANNELS would hide its alignment
        mask = m_row
    else:
        o_k = k0 + tl.arange(0, BLOCK_K)[None, :]
        o_tap = o_k // CHANNELS
        c = o_k % CHANNELS
        mask = m_row & (o_k < K)
    h, w = o_row // size[1] % size[0], o_row % size[1]
    dh, dw = o_tap // KERNEL[1] - KERNEL[0] // 2, o_tap % KERNEL[1] - KERNEL[1] // 2
    if KERNEL[0] > 1:
        mask = mask & (h + dh >= 0) & (h + dh < size[0])
    if KERNEL[1] > 1:
        mask = mask & (w + dw >= 0) & (w + dw < size[1])
    o_position = o_row // (size[1] * size[0]) * strides[0] + h * strides[2] + w * strides[3]
    o_tap = dh.to(INDEX) * strides[2] + dw.to(INDEX) * strides[3]
    return o_position + (o_tap + c.to(INDEX) * strides[1]), c, mask


@triton.jit
def weights(p_weight, o_out, m_out, k0, K: tl.constexpr, BLOCK_K: tl.constexpr):
    """(BLOCK_K, BLOCK_O): weights k0 ... of these outputs, of (O, K)."""
    o_k = k0 + tl.arange(0, BLOCK_K)[None, :]
    mask = m_out[:, None]
    if K % BLOCK_K != 0:
        mask = mask & (o_k < K)
    return tl.trans(tl.load(p_weight + (o_out[:, None] * K + o_k), mask, other=0.0))


@triton.jit
def add_product(
    b_acc, b_patch, p_weight, o_out, m_out, k0, K: tl.constexpr, PRECISION: tl.constexpr, BLOCK_K: tl.constexpr
):  # fmt: skip
    """Adds the product of a tile of patches with weights k0 ... of (O, K)."""
    return tl.dot(b_patch, weights(p_weight, o_out, m_out, k0, K, BLOCK_K), b_acc, input_precision=PRECISION)


@triton.jit
def convolve(
    p_input,
    p_weight,  # (O, K)
    o_row,
    m_row,
    o_out,
    m_out,
    strides,  # of the input's (n, c, h, w)
    size,
    CHANNELS: tl.constexpr,
    KERNEL: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_K: tl.constexpr,
    INDEX: tl.constexpr,
):
    """(BLOCK_M, BLOCK_O) float32: the convolution at these positions."""
    K: tl.constexpr = CHANNELS * KERNEL[0] * KERNEL[1]
    b_acc = tl.zeros((BLOCK_M, BLOCK_O), tl.float32)
    for k0 in range(0, K, BLOCK_K):
        o_patch, _, mask = reach(o_row, m_row, k0, strides, size, CHANNELS, KERNEL, BLOCK_K, INDEX)
        b_patch = tl.load(p_input + o_patch, mask, other=0.0)
        b_acc = add_product(b_acc, b_patch, p_weight, o_out, m_out, k0, K, PRECISION, BLOCK_K)
    return b_acc


@triton.jit
def tanh(x):
    """Also near 0, where the quotient would lose digits; NaN stays NaN."""
    e = tl.exp(-2 * tl.abs(x))
    far = (1 - e) / (1 + e)
    s = x * x
    near = x * (1 + s * (-0.33333333333 + s * (0.13333333333 + s * (-0.053968253968 + s * 0.021869488536))))
    return tl.where(tl.abs(x) < 0.25, near, tl.where(x < 0, -far, far))


@triton.jit
def runs(p_lengths, n, t, mask):
    """Whether sequence n has not ended at step t; all have not where there are no lengths."""
    if p_lengths is not None:
        mask = mask & (t < tl.load(p_lengths + n, mask, other=0))
    return mask


@triton.jit
def carried_gradient(
    p_after,  # (N, H, W, G * D): gradients of the gates of the step that ran after this one; None behind the last
    p_weight,  # (D, kh * kw * G * D): the state's weights, turned around
    p_carry,  # (N, H, W, D) float32: what reaches the state past the gates; None: nothing
    o_row,
    m_row,
    o_out,
    m_out,
    size,
    GATES: tl.constexpr,
    HIDDEN: tl.constexpr,
    KERNEL: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_K: tl.constexpr,
    INDEX: tl.constexpr,
):
    """(BLOCK_M, BLOCK_O) float32: what the later steps send back to the state behind a step."""
    WIDTH: tl.constexpr = GATES * HIDDEN
    if p_after is None:
        b_acc = tl.zeros((BLOCK_M, BLOCK_O), tl.float32)
    else:
        b_acc = convolve(
            p_after, p_weight, o_row, m_row, o_out, m_out, dense(size, WIDTH), size,
            WIDTH, KERNEL, PRECISION, BLOCK_M, BLOCK_O, BLOCK_K, INDEX,
        )  # fmt: skip
    if p_carry is not None:
        b_acc += tl.load(p_carry + (o_row * HIDDEN + o_out[None, :]), m_row & m_out[None, :], other=0.0)
    return b_acc


@triton.jit
def load_gradient(p_grad, o_row, m_row, o_out, m_out, strides, size):
    """(BLOCK_M, BLOCK_O) float32 of a gradient (N, D, H, W) with any strides."""
    o_position = tl.trans(o_row)
    n, h, w = o_position // (size[0] * size[1]), o_position // size[1] % size[0], o_position % size[1]
    o_grad = n * strides[0] + h * strides[2] + w * strides[3] + o_out[:, None] * strides[1]
    return tl.trans(tl.load(p_grad + o_grad, m_out[:, None] & tl.trans(m_row), other=0.0)).to(tl.float32)


@triton.jit
def store_sum(p_sums, b_value, o_out, m_out):
    """Stores the sum over a block's positions; the caller adds the blocks, with no atomics."""
    tl.store(p_sums + o_out, tl.sum(b_value, 0), m_out)


@triton.jit
def first_state_gradient(
    p_after,
    p_weight,
    p_carry,
    p_output,  # (N, D, H, W), contiguous
    rows,
    size,
    GATES: tl.constexpr,
    HIDDEN: tl.constexpr,
    KERNEL: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_K: tl.constexpr,
    WIDE: tl.constexpr,
):
    """The gradient of the state with which the first step began."""
    INDEX: tl.constexpr = tl.int64 if WIDE else tl.int32
    o_row, o_out = block_of(HIDDEN, BLOCK_M, BLOCK_O, INDEX)
    m_row, m_out = o_row < rows, o_out < HIDDEN
    b_grad = carried_gradient(
        p_after, p_weight, p_carry, o_row, m_row, o_out, m_out, size,
        GATES, HIDDEN, KERNEL, PRECISION, BLOCK_M, BLOCK_O, BLOCK_K, INDEX,
    )  # fmt: skip
    o_output = channels_first(o_row, o_out, size, HIDDEN)
    tl.store(p_output + o_output, tl.trans(b_grad).to(p_output.dtype.element_ty), m_out[:, None] & tl.trans(m_row))
