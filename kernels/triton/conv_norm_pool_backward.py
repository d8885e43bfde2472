"""Gradients of the block of conv_norm_pool. The convolution is computed again: that takes less time than to write and read it.

A batch norm gives every place that ReLU lets through its share, not winners alone: such a place gets
`scale * (gradients of the windows it wins) + constant + slope * (its value less the mean)`.
"""

import triton
import triton.language as tl

from .conv_norm_pool import convolve, examples, patches, place_in_map, rectified, stays, weights


@triton.jit
def conv_norm_pool_open(
    p_grad,  # (F, B, O, averages), contiguous
    p_index,
    p_winners,  # (2, F, B, O, windows)
    p_statistics,  # (F, 3, O)
    p_scale,
    p_key,
    p_pulled,  # (F, B, O, windows): the gradients of the windows
    p_scale_grad,  # (F, O)
    p_shift_grad,
    p_slopes,  # (F, 3, O): scale, constant, slope
    slots,
    values,  # of an example's map
    pooled,
    eps,
    threshold,
    stretch,
    OUTPUTS: tl.constexpr,
    AVERAGE: tl.constexpr,
    BATCH: tl.constexpr,  # the statistics are the batch's
    BLOCK_M: tl.constexpr,
):
    """Each program: a channel of a fold: through average and dropout back to the windows, and the norm's gradients."""
    fold = (tl.program_id(0) // OUTPUTS).to(tl.int64)
    channel = tl.program_id(0) % OUTPUTS
    p_channel = p_statistics + fold * (3 * OUTPUTS) + channel
    low, mean = tl.load(p_channel), tl.load(p_channel + 2 * OUTPUTS)
    inverse = 1 / tl.sqrt(tl.load(p_channel + OUTPUTS) + eps)
    high, wide = pooled[0] // AVERAGE, pooled[1] // AVERAGE
    windows = pooled[0] * pooled[1]
    b_sum = tl.zeros((BLOCK_M,), tl.float32)
    b_product = tl.zeros((BLOCK_M,), tl.float32)
    b_count = tl.zeros((BLOCK_M,), tl.float32)
    for first in range(0, slots * windows, BLOCK_M):
        o_row = first + tl.arange(0, BLOCK_M)
        m_row = o_row < slots * windows
        slot, window = o_row // windows, o_row % windows
        row, column = window // pooled[1] // AVERAGE, window % pooled[1] // AVERAGE
        m_there = m_row
        if p_index is not None:
            m_there = tl.load(p_index + fold * slots + slot, m_row, other=-1) >= 0
        map_of_fold = slot.to(tl.int64) * OUTPUTS + channel
        place = map_of_fold * windows + window
        o_fold = fold * slots * OUTPUTS
        o_grad = (o_fold + map_of_fold) * (high * wide) + row * wide + column
        b_grad = tl.load(p_grad + o_grad, m_there & (row < high) & (column < wide), other=0.0) / (AVERAGE * AVERAGE)
        if p_key is not None:
            b_grad = tl.where(stays(tl.load(p_key + fold), place, threshold), b_grad * stretch, 0.0)
        tl.store(p_pulled + o_fold * windows + place, b_grad, m_row)
        b_sum += b_grad
        b_winner = tl.load(p_winners + o_fold * windows + place, m_there, other=0.0)
        b_product += tl.where(m_there, b_grad * (b_winner - mean - low), 0.0)
        b_count += (m_there & (window == 0)).to(tl.float32)

    o_channel = fold * OUTPUTS + channel
    scale = inverse
    if p_scale is not None:
        scale *= tl.load(p_scale + o_channel)
    of_shift, of_scale = tl.sum(b_sum, 0), tl.sum(b_product, 0) * inverse
    tl.store(p_shift_grad + o_channel, of_shift)
    tl.store(p_scale_grad + o_channel, of_scale)
    p_slope = p_slopes + fold * (3 * OUTPUTS) + channel
    tl.store(p_slope, scale)
    share = scale / tl.maximum(tl.sum(b_count, 0) * values, 1.0)
    tl.store(p_slope + OUTPUTS, -share * of_shift if BATCH else 0.0)
    tl.store(p_slope + 2 * OUTPUTS, -share * inverse * of_scale if BATCH else 0.0)


@triton.jit
def windows_of(p_winners, p_pulled, o_map, m_map, cell_h, cell_w, pooled, other):
    """(places that win, gradients) of the windows at these cells, (BLOCK_O, BLOCK_M); places are `other` behind values."""
    mask = m_map & (cell_h >= 0) & (cell_h < pooled[0]) & (cell_w >= 0) & (cell_w < pooled[1])
    o_window = o_map + (cell_h * pooled[1] + cell_w)
    return tl.load(p_winners + (other + o_window), mask, other=-1.0), tl.load(p_pulled + o_window, mask, other=0.0)


@triton.jit
def credited(
    b_credit, p_winners, p_pulled, o_map, m_map, cell_h, cell_w, i, j, pooled, other, OVER: tl.constexpr, POOL: tl.constexpr
):
    """Adds the gradients of the windows that place (i, j) of these cells wins, of OVER x OVER that lie over it."""
    for over in range(0, OVER * OVER):
        up, left = over // OVER, over % OVER
        q, r = i + up * POOL[1], j + left * POOL[1]  # the place in that window
        b_won, b_pulled = windows_of(p_winners, p_pulled, o_map, m_map, cell_h - up, cell_w - left, pooled, other)
        b_credit += tl.where((b_won == q * POOL[0] + r) & (q < POOL[0]) & (r < POOL[0]), b_pulled, 0.0)
    return b_credit


@triton.jit
def conv_norm_pool_map_gradient(
    p_input,  # as in the forward
    p_index,
    p_weight,
    p_bias,
    p_winners,
    p_pulled,
    p_statistics,
    p_slopes,
    p_maps,  # (F, B, O, H + 2, W + 2): takes the gradient of the map, in the middle of zeros; None where nobody asks
    p_partial,  # (F, blocks, O, K + 1): of weights and bias; None: not here
    rows,  # B * cells
    folds,
    slots,
    clips,
    border,  # of p_maps around the map
    size,
    map_size,
    cells,
    pooled,
    CHANNELS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    POOL: tl.constexpr,
    SHARED: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_K: tl.constexpr,  # with p_partial at least K
    WIDE: tl.constexpr,
):
    """Each program: a block of a fold's cells, place after place of them. The caller adds the blocks' shares, in one order."""
    INDEX: tl.constexpr = tl.int64 if WIDE else tl.int32
    K: tl.constexpr = CHANNELS * 9
    OVER: tl.constexpr = (POOL[0] + POOL[1] - 1) // POOL[1]  # windows over one place, in one dimension
    blocks = tl.cdiv(rows, BLOCK_M)
    fold = (tl.program_id(0) // blocks).to(tl.int64)
    o_row = tl.program_id(0) % blocks * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]
    m_row = o_row < rows
    cell_w, cell_h, slot = o_row % cells[1], o_row // cells[1] % cells[0], o_row // (cells[0] * cells[1])
    o_example, m_there, m_known = examples(p_index, fold, slot, m_row, slots, clips, SHARED, INDEX)
    o_clip = o_example * (CHANNELS * size[0] * size[1])
    o_out = tl.arange(0, BLOCK_O)[:, None]
    m_out = o_out < OUTPUTS
    p_channel, p_slope = p_statistics + fold * (3 * OUTPUTS) + o_out, p_slopes + fold * (3 * OUTPUTS) + o_out
    low, mean = tl.load(p_channel, m_out, other=0.0), tl.load(p_channel + 2 * OUTPUTS, m_out, other=0.0)
    scale, constant = tl.load(p_slope, m_out, other=0.0), tl.load(p_slope + OUTPUTS, m_out, other=0.0)
    slope = tl.load(p_slope + 2 * OUTPUTS, m_out, other=0.0)

    o_map = (fold * slots + slot) * OUTPUTS + o_out
    o_windows, m_windows = o_map * (pooled[0] * pooled[1]), m_out & m_row
    other = tl.cast(folds, tl.int64) * slots * OUTPUTS * (pooled[0] * pooled[1])
    if OVER == 1:
        b_won, b_pulled = windows_of(p_winners, p_pulled, o_windows, m_windows, cell_h, cell_w, pooled, other)
    b_weight_grad = tl.zeros((BLOCK_O, BLOCK_K), tl.float32)
    b_bias_grad = tl.zeros((BLOCK_O, BLOCK_M), tl.float32)
    for place in range(0, POOL[1] * POOL[1]):
        i, j = place // POOL[1], place % POOL[1]
        y, x, m_in = place_in_map(cell_h, cell_w, i, j, map_size, POOL[1], POOL[2])
        m_in = m_in & m_there
        o_corner, p_fold = o_clip + (y * size[1] + x), p_weight + fold * (OUTPUTS * K)
        if p_partial is not None:
            b_patch = patches(p_input, o_corner, m_in & m_known, 0, size, CHANNELS, BLOCK_K)
            b_acc = tl.zeros((BLOCK_O, BLOCK_M), tl.float32)
            b_acc = tl.dot(weights(p_fold, 0, K, OUTPUTS, BLOCK_O, BLOCK_K), b_patch, b_acc, input_precision=PRECISION)
        else:
            b_acc = convolve(
                p_input, p_fold, o_corner, m_in & m_known, size, CHANNELS, OUTPUTS, PRECISION, BLOCK_M, BLOCK_O, BLOCK_K
            )
        b_value = rectified(b_acc, p_bias, fold, m_there, m_known, OUTPUTS, BLOCK_O)
        if OVER == 1:
            inside = (i < POOL[0]) & (j < POOL[0])
            b_credit = tl.where((b_won == i * POOL[0] + j) & inside, b_pulled, 0.0)
        else:
            b_credit = tl.zeros((BLOCK_O, BLOCK_M), tl.float32)
            b_credit = credited(
                b_credit, p_winners, p_pulled, o_windows, m_windows, cell_h, cell_w, i, j, pooled, other, OVER, POOL
            )
        b_grad = b_credit * scale + constant + slope * (b_value - mean - low)
        b_grad = tl.where(m_in & (b_value != 0), b_grad, 0.0)
        if p_maps is not None:
            wide = map_size[1] + 2 * border
            o_grad = o_map * ((map_size[0] + 2 * border) * wide) + ((y + border) * wide + x + border)
            tl.store(p_maps + o_grad, b_grad, m_out & m_in)
        if p_partial is not None:
            b_bias_grad += b_grad
            b_weight_grad = tl.dot(b_grad, tl.trans(b_patch), b_weight_grad, input_precision=PRECISION)
    if p_partial is not None:
        store_weights(p_partial + tl.program_id(0).to(tl.int64) * (OUTPUTS * (K + 1)), b_weight_grad, 0, K, OUTPUTS)
        o_bias, m_bias = tl.arange(0, BLOCK_O) * (K + 1) + K, tl.arange(0, BLOCK_O) < OUTPUTS
        tl.store(p_partial + tl.program_id(0).to(tl.int64) * (OUTPUTS * (K + 1)) + o_bias, tl.sum(b_bias_grad, 1), m_bias)


@triton.jit
def store_weights(p_to, b_grad, k0, K: tl.constexpr, OUTPUTS: tl.constexpr):
    """Elements k0 ... of each output's weights, to (O, K + 1)."""
    o_out, o_k = tl.arange(0, b_grad.shape[0])[:, None], k0 + tl.arange(0, b_grad.shape[1])[None, :]
    tl.store(p_to + o_out * (K + 1) + o_k, b_grad, (o_out < OUTPUTS) & (o_k < K))


@triton.jit
def conv_norm_pool_weight_gradient(
    p_input,
    p_index,
    p_maps,  # (F, B, O, H + 2, W + 2)
    p_partial,  # (F, splits, O, K + 1)
    rows,  # B * places of the map
    rows_of_split,  # a multiple of BLOCK_M
    slots,
    clips,
    border,
    size,
    map_size,
    CHANNELS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    SHARED: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_K: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Each program: a block of a fold's weights, over one split of the places."""
    INDEX: tl.constexpr = tl.int64 if WIDE else tl.int32
    K: tl.constexpr = CHANNELS * 9
    BLOCKS: tl.constexpr = (K + BLOCK_K - 1) // BLOCK_K
    k0 = tl.program_id(0) % BLOCKS * BLOCK_K
    split = tl.program_id(0) // BLOCKS
    splits = tl.cdiv(rows, rows_of_split)
    fold, first = (split // splits).to(tl.int64), split % splits * rows_of_split
    o_out = tl.arange(0, BLOCK_O)[:, None]
    m_out = o_out < OUTPUTS
    wide = map_size[1] + 2 * border
    plane = (map_size[0] + 2 * border) * wide
    b_acc = tl.zeros((BLOCK_O, BLOCK_K), tl.float32)
    b_bias = tl.zeros((BLOCK_O, BLOCK_M), tl.float32)
    for row in range(first, tl.minimum(first + rows_of_split, rows), BLOCK_M):
        o_row = row + tl.arange(0, BLOCK_M)[None, :]
        m_row = o_row < rows
        x, y, slot = o_row % map_size[1], o_row // map_size[1] % map_size[0], o_row // (map_size[0] * map_size[1])
        o_example, m_there, m_known = examples(p_index, fold, slot, m_row, slots, clips, SHARED, INDEX)
        o_corner = o_example * (CHANNELS * size[0] * size[1]) + (y * size[1] + x)
        o_map = ((fold * slots + slot) * OUTPUTS + o_out) * plane + ((y + border) * wide + x + border)
        b_grad = tl.load(p_maps + o_map, m_out & m_there, other=0.0)
        b_patch = patches(p_input, o_corner, m_known, k0, size, CHANNELS, BLOCK_K)
        b_acc = tl.dot(b_grad, tl.trans(b_patch), b_acc, input_precision=PRECISION)
        b_bias += b_grad
    p_to = p_partial + split.to(tl.int64) * (OUTPUTS * (K + 1))
    store_weights(p_to, b_acc, k0, K, OUTPUTS)
    if k0 == 0:
        o_bias, m_bias = tl.arange(0, BLOCK_O) * (K + 1) + K, tl.arange(0, BLOCK_O) < OUTPUTS
        tl.store(p_to + o_bias, tl.sum(b_bias, 1), m_bias)


@triton.jit
def conv_norm_pool_total(
    p_partial,  # (F, splits, O, K + 1)
    p_weight_grad,  # (F, O, K)
    p_bias_grad,  # (F, O)
    splits,
    K: tl.constexpr,
    OUTPUTS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """Each program: a block of a fold's weights: the sum over its splits, in one fixed order."""
    COUNT: tl.constexpr = OUTPUTS * (K + 1)
    BLOCKS: tl.constexpr = (COUNT + BLOCK_O - 1) // BLOCK_O
    fold = (tl.program_id(0) // BLOCKS).to(tl.int64)
    o_element = tl.program_id(0) % BLOCKS * BLOCK_O + tl.arange(0, BLOCK_O)
    m_element = o_element < COUNT
    b_sum = tl.zeros((BLOCK_M, BLOCK_O), tl.float32)
    for first in range(0, splits, BLOCK_M):
        split = first + tl.arange(0, BLOCK_M)[:, None]
        o_partial = (fold * splits + split) * COUNT + o_element[None, :]
        b_sum += tl.load(p_partial + o_partial, (split < splits) & m_element[None, :], other=0.0)
    total = tl.sum(b_sum, 0)
    o_channel, o_k = fold * OUTPUTS + o_element // (K + 1), o_element % (K + 1)
    tl.store(p_weight_grad + (o_channel * K + o_k), total, m_element & (o_k < K))
    tl.store(p_bias_grad + o_channel, total, m_element & (o_k == K))


@triton.jit
def conv_norm_pool_input_gradient(
    p_maps,  # (F, B, O, H + 2, W + 2)
    p_weight,  # (F, C, O * 9): turned around
    p_output,  # (F, B, C, H, W)
    rows,  # B * H * W
    slots,
    size,  # of a map with its border
    CHANNELS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_O: tl.constexpr,  # a block of channels
    BLOCK_K: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Each program: a block of the places of a fold's examples, all channels: the maps' gradients convolved back."""
    INDEX: tl.constexpr = tl.int64 if WIDE else tl.int32
    blocks = tl.cdiv(rows, BLOCK_M)
    fold = (tl.program_id(0) // blocks).to(tl.int64)
    o_row = tl.program_id(0) % blocks * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]
    high, wide = size[0] - 2, size[1] - 2
    x, y, slot = o_row % wide, o_row // wide % high, o_row // (high * wide)
    o_example = (fold * slots + slot).to(INDEX)
    o_corner = o_example * (OUTPUTS * size[0] * size[1]) + (y * size[1] + x)
    b_acc = convolve(
        p_maps, p_weight + fold * (OUTPUTS * CHANNELS * 9), o_corner, o_row < rows, size, OUTPUTS, CHANNELS, PRECISION,
        BLOCK_M, BLOCK_O, BLOCK_K,
    )  # fmt: skip
    c = tl.arange(0, BLOCK_O)[:, None]
    o_output = (o_example * CHANNELS + c) * (high * wide) + (y * wide + x)
    tl.store(p_output + o_output, b_acc, (c < CHANNELS) & (o_row < rows))
