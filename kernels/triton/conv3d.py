"""3-D convolution, bias and activation."""

import triton
import triton.language as tl

from .implicit_gemm import activate, convolve, decode


@triton.jit
def conv3d(
    p_input,
    p_weight,
    p_bias,
    p_output,  # (N, O, T', H', W'), contiguous
    rows,  # N * T' * H' * W'
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
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_K: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Each program: a block of positions by a block of one group's output channels."""
    INDEX: tl.constexpr = tl.int64 if WIDE else tl.int32
    strides = (stride_n, stride_c, stride_t, stride_h, stride_w)
    blocks = tl.cdiv(outputs, BLOCK_O)
    column = tl.program_id(0) % (blocks * groups)
    group = column // blocks
    o_row = (tl.program_id(0) // (blocks * groups)).to(INDEX) * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]
    o_local = column % blocks * BLOCK_O + tl.arange(0, BLOCK_O)
    o_out, m_out, m_row = group * outputs + o_local, o_local < outputs, o_row < rows

    n, t, h, w = decode(o_row, out_size)
    corner = (t * STRIDE[0] - PADDING[0], h * STRIDE[1] - PADDING[1], w * STRIDE[2] - PADDING[2])
    o_clip = n * strides[0] + (group * CHANNELS).to(INDEX) * strides[1]
    PADDED: tl.constexpr = PADDING[0] + PADDING[1] + PADDING[2] > 0
    b_out = convolve(
        p_input, p_weight, p_bias, o_clip, corner, m_row, o_out, m_out, strides, size,
        CHANNELS, KERNEL, DILATION, PADDED, PRECISION, BLOCK_M, BLOCK_O, BLOCK_K, INDEX,
    )  # fmt: skip
    b_out = tl.trans(activate(b_out, ACTIVATION))  # positions last, as in memory

    positions = out_size[0] * out_size[1] * out_size[2]
    o_output = (n * (outputs * groups) + o_out[:, None]) * positions + o_row % positions
    tl.store(p_output + o_output, b_out.to(p_output.dtype.element_ty), m_out[:, None] & m_row)
