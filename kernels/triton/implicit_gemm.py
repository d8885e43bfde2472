"""A convolution as a matrix product whose left matrix, every position's patch of the input, is gathered and never stored.

Rows are positions, columns are output channels; the reduction goes over the weights in the order (kt, kh, kw, c), in
which the launcher packs them. Triples are (t, h, w). A tile of patches is gathered as (BLOCK_K, BLOCK_M), positions
last: neighbouring threads then read neighbouring positions, which are neighbours in memory unless channels are.
"""

import triton
import triton.language as tl


@triton.jit
def decode(o_row, size):
    """(n, t, h, w) of a row number, rows in the order n, t, h, w."""
    w = o_row % size[2]
    h = o_row // size[2] % size[1]
    t = o_row // (size[2] * size[1]) % size[0]
    return o_row // (size[2] * size[1] * size[0]), t, h, w


@triton.jit
def patch_corner(
    t, h, w, place, STRIDE: tl.constexpr, PADDING: tl.constexpr, POOL_KERNEL: tl.constexpr, POOL_STRIDE: tl.constexpr
):
    """(t, h, w) in the input where the patch at a place of window (t, h, w) begins."""
    qt = place // (POOL_KERNEL[1] * POOL_KERNEL[2])
    qh = place // POOL_KERNEL[2] % POOL_KERNEL[1]
    qw = place % POOL_KERNEL[2]
    return (
        (t * POOL_STRIDE[0] + qt) * STRIDE[0] - PADDING[0],
        (h * POOL_STRIDE[1] + qh) * STRIDE[1] - PADDING[1],
        (w * POOL_STRIDE[2] + qw) * STRIDE[2] - PADDING[2],
    )


@triton.jit
def patches(
    p_input,
    o_clip,  # (1, BLOCK_M) offset of a clip's first element
    corner,  # (t, h, w) of a patch's first element, each (1, BLOCK_M); padding may put it outside
    m_row,  # (1, BLOCK_M)
    k0,
    strides,  # of the input's (n, c, t, h, w)
    size,
    CHANNELS: tl.constexpr,
    KERNEL: tl.constexpr,
    DILATION: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK_K: tl.constexpr,
    INDEX: tl.constexpr,
):
    """(BLOCK_K, BLOCK_M): elements k0 ... of each patch, 0 in the padding and behind the last weight."""
    K: tl.constexpr = CHANNELS * KERNEL[0] * KERNEL[1] * KERNEL[2]
    if CHANNELS % BLOCK_K == 0:  # one tap a tile: what depends on the tap is found once a position
        o_tap = tl.full((1, 1), k0 // CHANNELS, tl.int32)
        c = (k0 - k0 // CHANNELS * CHANNELS) + tl.arange(0, BLOCK_K)[:, None]  # k0 % CHANNELS would hide its alignment
        mask = m_row
    else:
        o_k = k0 + tl.arange(0, BLOCK_K)[:, None]
        o_tap = o_k // CHANNELS
        c = o_k % CHANNELS
        mask = m_row & (o_k < K)
    dt = o_tap // (KERNEL[1] * KERNEL[2]) * DILATION[0]
    dh = o_tap // KERNEL[2] % KERNEL[1] * DILATION[1]
    dw = o_tap % KERNEL[2] * DILATION[2]
    if PADDED:
        t, h, w = corner[0] + dt, corner[1] + dh, corner[2] + dw
        mask = mask & (t >= 0) & (t < size[0]) & (h >= 0) & (h < size[1]) & (w >= 0) & (w < size[2])
    o_patch = o_clip + corner[0] * strides[2] + corner[1] * strides[3] + corner[2] * strides[4]
    o_element = dt.to(INDEX) * strides[2] + dh.to(INDEX) * strides[3] + dw.to(INDEX) * strides[4] + c.to(INDEX) * strides[1]
    return tl.load(p_input + (o_patch + o_element), mask, other=0.0)


@triton.jit
def convolve(
    p_input,
    p_weight,  # (O, K)
    p_bias,
    o_clip,
    corner,
    m_row,
    o_out,  # (BLOCK_O,)
    m_out,
    strides,
    size,
    CHANNELS: tl.constexpr,
    KERNEL: tl.constexpr,
    DILATION: tl.constexpr,
    PADDED: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_K: tl.constexpr,
    INDEX: tl.constexpr,
):
    """(BLOCK_M, BLOCK_O) float32: the convolution at these positions, its bias added."""
    K: tl.constexpr = CHANNELS * KERNEL[0] * KERNEL[1] * KERNEL[2]
    b_acc = tl.zeros((BLOCK_M, BLOCK_O), tl.float32)
    for k0 in range(0, K, BLOCK_K):
        b_patch = patches(
            p_input, o_clip, corner, m_row, k0, strides, size, CHANNELS, KERNEL, DILATION, PADDED, BLOCK_K, INDEX
        )
        o_k = k0 + tl.arange(0, BLOCK_K)[None, :]
        b_weight = tl.load(p_weight + (o_out[:, None] * K + o_k), m_out[:, None] & (o_k < K), other=0.0)
        b_acc = tl.dot(tl.trans(b_patch), tl.trans(b_weight), b_acc, input_precision=PRECISION)
    if p_bias is not None:
        b_acc += tl.load(p_bias + o_out, m_out, other=0.0).to(tl.float32)[None, :]
    return b_acc


@triton.jit
def activate(x, ACTIVATION: tl.constexpr):
    """PyTorch's activation of that name; NaN stays NaN."""
    if ACTIVATION == "relu":
        x = tl.where(x < 0, 0.0, x)
    elif ACTIVATION == "leaky_relu":
        x = tl.where(x < 0, 0.01 * x, x)
    elif ACTIVATION == "gelu":
        x = 0.5 * x * (1 + tl.math.erf(x * 0.7071067811865476))
    return x
