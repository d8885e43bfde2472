"""A section of recurrent convolutions: the steps of evaluation, and of training with batch statistics."""

import triton
import triton.language as tl

from .recurrent import add_product, block_of, channels_first, convolve, dense, reach


@triton.jit
def relu(x):
    return tl.where(x < 0, 0.0, x)  # NaN stays NaN


@triton.jit
def recurrent_conv2d_step(
    p_input,
    p_weight,
    p_scale,  # (K,) float32 or None: 1
    p_shift,  # or None: 0
    p_before,  # (N, H, W, K), added to the convolution, or None
    p_after,  # (N, H, W, K), added behind ReLU, or None
    p_plain,  # (N, H, W, K), takes the convolution itself, or None
    p_output,  # (N, H, W, K), or (N, K, H, W) if CHANNELS_FIRST
    rows,  # N * H * W
    stride_n,  # of the input
    stride_c,
    stride_h,
    stride_w,
    size,
    CHANNELS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    KERNEL: tl.constexpr,
    CHANNELS_FIRST: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_K: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Each program: a block of positions by a block of maps."""
    INDEX: tl.constexpr = tl.int64 if WIDE else tl.int32
    o_row, o_out = block_of(OUTPUTS, BLOCK_M, BLOCK_O, INDEX)
    m_row, m_out = o_row < rows, o_out < OUTPUTS
    b_out = convolve(
        p_input, p_weight, o_row, m_row, o_out, m_out, (stride_n, stride_c, stride_h, stride_w), size,
        CHANNELS, KERNEL, PRECISION, BLOCK_M, BLOCK_O, BLOCK_K, INDEX,
    )  # fmt: skip
    DTYPE: tl.constexpr = p_output.dtype.element_ty
    o_map, m_map = o_row * OUTPUTS + o_out[None, :], m_row & m_out[None, :]
    if p_before is not None:
        b_out += tl.load(p_before + o_map, m_map, other=0.0).to(tl.float32)
    if p_plain is not None:
        tl.store(p_plain + o_map, b_out.to(DTYPE), m_map)
    if p_scale is not None:
        b_out *= tl.load(p_scale + o_out, m_out, other=0.0)[None, :]
    if p_shift is not None:
        b_out += tl.load(p_shift + o_out, m_out, other=0.0)[None, :]
    b_out = relu(b_out)
    if p_after is not None:
        b_out += tl.load(p_after + o_map, m_map, other=0.0).to(tl.float32)
    if CHANNELS_FIRST:
        m_output = m_out[:, None] & tl.trans(m_row)
        tl.store(p_output + channels_first(o_row, o_out, size, OUTPUTS), tl.trans(b_out).to(DTYPE), m_output)
    else:
        tl.store(p_output + o_map, b_out.to(DTYPE), m_map)


@triton.jit
def normalised(b_map, p_fold, c, m_c, CHANNELS: tl.constexpr):
    """(z - mean) * scale + bias of channels c, float32; z where there is no norm."""
    b_map = b_map.to(tl.float32)
    if p_fold is not None:
        b_mean = tl.load(p_fold + c, m_c, other=0.0)
        b_scale = tl.load(p_fold + CHANNELS + c, m_c, other=0.0)
        b_map = (b_map - b_mean) * b_scale + tl.load(p_fold + 2 * CHANNELS + c, m_c, other=0.0)
    return b_map


@triton.jit
def recurrent_conv2d_train(
    p_input,  # the section's input with its strides if STEM; else maps (N, H, W, C), normalised and rectified on the way in
    p_fold,  # (3, C) float32: mean, scale, bias of those maps; None: no norm
    p_added,  # (N, H, W, C), added to the rectified maps, or None
    p_weight,
    p_before,  # (N, H, W, K) or None
    p_maps,  # (N, H, W, K)
    p_partial,  # (row blocks, 2, K) float32: mean of a block, and sum of squares around it; None: not wanted
    rows,
    stride_n,
    stride_c,
    stride_h,
    stride_w,
    size,
    CHANNELS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    KERNEL: tl.constexpr,
    STEM: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_K: tl.constexpr,
    WIDE: tl.constexpr,
):
    """What goes into a norm, and its statistics over each block of positions; no state is ever stored."""
    INDEX: tl.constexpr = tl.int64 if WIDE else tl.int32
    K: tl.constexpr = CHANNELS * KERNEL[0] * KERNEL[1]
    DTYPE: tl.constexpr = p_maps.dtype.element_ty
    o_row, o_out = block_of(OUTPUTS, BLOCK_M, BLOCK_O, INDEX)
    m_row, m_out = o_row < rows, o_out < OUTPUTS
    strides = (stride_n, stride_c, stride_h, stride_w) if STEM else dense(size, CHANNELS)
    b_acc = tl.zeros((BLOCK_M, BLOCK_O), tl.float32)
    for k0 in range(0, K, BLOCK_K):
        o_patch, c, mask = reach(o_row, m_row, k0, strides, size, CHANNELS, KERNEL, BLOCK_K, INDEX)
        b_patch = tl.load(p_input + o_patch, mask, other=0.0)
        if not STEM:
            b_state = relu(normalised(b_patch, p_fold, c, c < CHANNELS, CHANNELS))
            if p_added is not None:
                b_state += tl.load(p_added + o_patch, mask, other=0.0).to(tl.float32)
            b_patch = tl.where(mask, b_state, 0.0).to(DTYPE)
        b_acc = add_product(b_acc, b_patch, p_weight, o_out, m_out, k0, K, PRECISION, BLOCK_K)
    o_map, m_map = o_row * OUTPUTS + o_out[None, :], m_row & m_out[None, :]
    if p_before is not None:
        b_acc += tl.load(p_before + o_map, m_map, other=0.0).to(tl.float32)
    b_map = b_acc.to(DTYPE)
    tl.store(p_maps + o_map, b_map, m_map)
    if p_partial is not None:  # of the values as they are stored
        BLOCKS: tl.constexpr = (OUTPUTS + BLOCK_O - 1) // BLOCK_O
        block = tl.program_id(0) // BLOCKS
        count = tl.minimum(rows - block.to(INDEX) * BLOCK_M, BLOCK_M).to(tl.float32)
        b_value = b_map.to(tl.float32)
        b_mean = tl.sum(tl.where(m_row, b_value, 0.0), 0) / count
        b_off = tl.where(m_row, b_value - b_mean[None, :], 0.0)
        o_partial = block.to(tl.int64) * (2 * OUTPUTS) + o_out
        tl.store(p_partial + o_partial, b_mean, m_out)
        tl.store(p_partial + OUTPUTS + o_partial, tl.sum(b_off * b_off, 0), m_out)


@triton.jit
def recurrent_conv2d_statistics(
    p_partial,  # (row blocks, 2, K)
    p_weight,  # (K,) float32 or None
    p_bias,
    p_statistics,  # (2, K): mean, biased variance
    p_fold,  # (3, K): mean, scale, bias
    rows,
    blocks,
    eps,
    OUTPUTS: tl.constexpr,
    ROWS: tl.constexpr,  # of a row block
    BLOCK_M: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """Statistics of all positions from those of the blocks, as Chan, Golub and LeVeque merge them; in one fixed order."""
    o_out = tl.program_id(0) * BLOCK_O + tl.arange(0, BLOCK_O)
    m_out = o_out < OUTPUTS
    pivot = tl.load(p_partial + o_out, m_out, other=0.0)  # near the mean, so that sums stay small
    total = tl.cast(rows, tl.float32)
    b_sum = tl.zeros((BLOCK_M, BLOCK_O), tl.float32)
    for block in range(0, blocks, BLOCK_M):
        o_block = block + tl.arange(0, BLOCK_M)[:, None]
        mask = (o_block < blocks) & m_out[None, :]
        count = tl.minimum(rows - o_block.to(tl.int64) * ROWS, ROWS).to(tl.float32)
        b_mean = tl.load(p_partial + o_block.to(tl.int64) * (2 * OUTPUTS) + o_out[None, :], mask, other=0.0)
        b_sum += tl.where(mask, count * (b_mean - pivot[None, :]), 0.0)
    mean = pivot + tl.sum(b_sum, 0) / total
    b_sum = tl.zeros((BLOCK_M, BLOCK_O), tl.float32)
    for block in range(0, blocks, BLOCK_M):
        o_block = block + tl.arange(0, BLOCK_M)[:, None]
        mask = (o_block < blocks) & m_out[None, :]
        count = tl.minimum(rows - o_block.to(tl.int64) * ROWS, ROWS).to(tl.float32)
        o_partial = o_block.to(tl.int64) * (2 * OUTPUTS) + o_out[None, :]
        b_off = tl.load(p_partial + o_partial, mask, other=0.0) - mean[None, :]
        b_squares = tl.load(p_partial + OUTPUTS + o_partial, mask, other=0.0)
        b_sum += tl.where(mask, b_squares + count * b_off * b_off, 0.0)
    variance = tl.sum(b_sum, 0) / total
    scale = 1 / tl.sqrt(variance + eps)
    if p_weight is not None:
        scale *= tl.load(p_weight + o_out, m_out, other=0.0)
    bias = tl.zeros((BLOCK_O,), tl.float32)
    if p_bias is not None:
        bias = tl.load(p_bias + o_out, m_out, other=0.0)
    tl.store(p_statistics + o_out, mean, m_out)
    tl.store(p_statistics + OUTPUTS + o_out, variance, m_out)
    tl.store(p_fold + o_out, mean, m_out)
    tl.store(p_fold + OUTPUTS + o_out, scale, m_out)
    tl.store(p_fold + 2 * OUTPUTS + o_out, bias, m_out)


@triton.jit
def recurrent_conv2d_state(
    p_maps,  # (N, H, W, K)
    p_fold,
    p_added,  # (N, H, W, K) or None
    p_output,  # (N, H, W, K), or (N, K, H, W) if CHANNELS_FIRST
    rows,
    size,
    OUTPUTS: tl.constexpr,
    CHANNELS_FIRST: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_O: tl.constexpr,
    WIDE: tl.constexpr,
):
    """The state made from what went into its norm."""
    INDEX: tl.constexpr = tl.int64 if WIDE else tl.int32
    o_row, o_out = block_of(OUTPUTS, BLOCK_M, BLOCK_O, INDEX)
    m_row, m_out = o_row < rows, o_out < OUTPUTS
    o_map, m_map = o_row * OUTPUTS + o_out[None, :], m_row & m_out[None, :]
    b_map = tl.load(p_maps + o_map, m_map, other=0.0)
    b_state = relu(normalised(b_map, p_fold, o_out[None, :], m_out[None, :], OUTPUTS))
    if p_added is not None:
        b_state += tl.load(p_added + o_map, m_map, other=0.0).to(tl.float32)
    b_state = b_state.to(p_output.dtype.element_ty)
    if CHANNELS_FIRST:
        m_output = m_out[:, None] & tl.trans(m_row)
        tl.store(p_output + channels_first(o_row, o_out, size, OUTPUTS), tl.trans(b_state), m_output)
    else:
        tl.store(p_output + o_map, b_state, m_map)
