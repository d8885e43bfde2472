"""3-D convolution, bias, activation and max-pool."""

import triton
import triton.language as tl

from .implicit_gemm import activate, convolve, decode, patch_corner


@triton.jit
def conv3d_pool(
    p_input,
    p_weight,
    p_bias,
    p_output,  # (N, O, T', H', W'), contiguous
    p_winners,  # the same shape, uint8; 255 where nothing wins after ReLU
    rows,  # windows: N * T' * H' * W'
    outputs,  # output channels of one group
    groups,
    stride_n,  # of the input
    stride_c,
    stride_t,
    stride_h,
    stride_w,
    size,
    out_size,
    CHANNELS: tl.constexpr,  # input channels of one group
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    DILATION: tl.constexpr,
    POOL_KERNEL: tl.constexpr,
    POOL_STRIDE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    KEEP_WINNERS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_K: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Each program: a block of windows by a block of one group's output channels, place after place of the windows."""
    INDEX: tl.constexpr = tl.int64 if WIDE else tl.int32
    strides = (stride_n, stride_c, stride_t, stride_h, stride_w)
    blocks = tl.cdiv(outputs, BLOCK_O)
    column = tl.program_id(0) % (blocks * groups)
    group = column // blocks
    o_row = (tl.program_id(0) // (blocks * groups)).to(INDEX) * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]
    o_local = column % blocks * BLOCK_O + tl.arange(0, BLOCK_O)
    o_out, m_out, m_row = group * outputs + o_local, o_local < outputs, o_row < rows

    n, t, h, w = decode(o_row, out_size)
    o_clip = n * strides[0] + (group * CHANNELS).to(INDEX) * strides[1]
    PADDED: tl.constexpr = PADDING[0] + PADDING[1] + PADDING[2] > 0

    b_best = tl.full((BLOCK_M, BLOCK_O), float("-inf"), tl.float32)
    b_winner = tl.zeros((BLOCK_M, BLOCK_O), tl.int32)
    b_before = b_best  # with GELU, the value at the winner before it
    for place in range(0, POOL_KERNEL[0] * POOL_KERNEL[1] * POOL_KERNEL[2]):
        corner = patch_corner(t, h, w, place, STRIDE, PADDING, POOL_KERNEL, POOL_STRIDE)
        b_value = convolve(
            p_input, p_weight, p_bias, o_clip, corner, m_row, o_out, m_out, strides, size,
            CHANNELS, KERNEL, DILATION, PADDED, PRECISION, BLOCK_M, BLOCK_O, BLOCK_K, INDEX,
        )  # fmt: skip
        b_active = activate(b_value, ACTIVATION)
        better = (b_active > b_best) | (b_active != b_active)  # the first of equals; any NaN, as PyTorch's pool has it
        b_best = tl.where(better, b_active, b_best)
        if ACTIVATION == "gelu":
            b_before = tl.where(better, b_value, b_before)
        if KEEP_WINNERS:
            b_winner = tl.where(better, place, b_winner)

    positions = out_size[0] * out_size[1] * out_size[2]
    o_output = (n * (outputs * groups) + o_out[:, None]) * positions + o_row % positions
    m_output = m_out[:, None] & m_row
    b_out = tl.trans(b_before if ACTIVATION == "gelu" else b_best)  # windows last, as in memory
    tl.store(p_output + o_output, b_out.to(p_output.dtype.element_ty), m_output)
    if KEEP_WINNERS:
        if ACTIVATION == "relu":
            b_winner = tl.where(b_best <= 0, 255, b_winner)
        tl.store(p_winners + o_output, tl.trans(b_winner).to(tl.uint8), m_output)
