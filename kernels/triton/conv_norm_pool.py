"""A block of several folds' small networks: 3x3 convolution, ReLU, batch norm, max-pool, dropout, average-pool.

Tiles are (channels, places), places last, as in memory. A fold's places go slot after slot, and are cut into blocks whatever
the number of slots and of other folds, so that neither changes a sum. The map of a convolution is cut into cells, one a
window, each as large as the pool's stride: every place lies in one cell, and a window is what lies around its cell's corner.
"""

import triton
import triton.language as tl


# --- examples and their convolution ---------------------------------------------------------------------------------------
@triton.jit
def examples(p_index, fold, slot, m_row, slots, clips, SHARED: tl.constexpr, INDEX: tl.constexpr):
    """(number of a slot's example in the input, whether the slot is taken, whether the input has that example)."""
    o_slot = fold * slots + slot
    o_example, m_there, m_known = o_slot.to(INDEX), m_row, m_row
    if p_index is not None:
        clip = tl.load(p_index + o_slot, m_row, other=-1)
        m_there = clip >= 0
        m_known = m_there
        if SHARED:
            o_example, m_known = clip.to(INDEX), m_there & (clip < clips)
    return o_example, m_there, m_known


@triton.jit
def patches(p_input, o_corner, m_row, k0, size, CHANNELS: tl.constexpr, BLOCK_K: tl.constexpr):
    """(BLOCK_K, BLOCK_M): elements k0 ... of each patch, in the order (c, kh, kw); 0 behind the last."""
    o_k = k0 + tl.arange(0, BLOCK_K)[:, None]
    c, tap = o_k // 9, o_k % 9
    o_element = (c * size[0] + tap // 3) * size[1] + tap % 3
    mask = m_row
    if CHANNELS * 9 % BLOCK_K != 0:
        mask = m_row & (o_k < CHANNELS * 9)
    return tl.load(p_input + (o_corner + o_element), mask, other=0.0)


@triton.jit
def weights(p_weight, k0, K: tl.constexpr, OUTPUTS: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_K: tl.constexpr):
    """(BLOCK_O, BLOCK_K) of a fold's (O, K)."""
    o_out, o_k = tl.arange(0, BLOCK_O)[:, None], k0 + tl.arange(0, BLOCK_K)[None, :]
    return tl.load(p_weight + (o_out * K + o_k), (o_out < OUTPUTS) & (o_k < K), other=0.0)


@triton.jit
def convolve(
    p_input, p_weight, o_corner, m_row, size, CHANNELS: tl.constexpr, OUTPUTS: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """(BLOCK_O, BLOCK_M): the convolution with a fold's weights of the patches that begin at these corners."""
    K: tl.constexpr = CHANNELS * 9
    b_acc = tl.zeros((BLOCK_O, BLOCK_M), tl.float32)
    for k0 in range(0, K, BLOCK_K):
        b_patch = patches(p_input, o_corner, m_row, k0, size, CHANNELS, BLOCK_K)
        b_weight = weights(p_weight, k0, K, OUTPUTS, BLOCK_O, BLOCK_K)
        b_acc = tl.dot(b_weight, b_patch, b_acc, input_precision=PRECISION)
    return b_acc


@triton.jit
def rectified(b_acc, p_bias, fold, m_there, m_known, OUTPUTS: tl.constexpr, BLOCK_O: tl.constexpr):
    """ReLU of a convolution and its bias; NaN stays, and is what a clip gives that there is not."""
    o_out = tl.arange(0, BLOCK_O)[:, None]
    if p_bias is not None:
        b_acc += tl.load(p_bias + fold * OUTPUTS + o_out, o_out < OUTPUTS, other=0.0)
    b_acc = tl.where(m_there & (m_known == 0), float("nan"), b_acc)
    return tl.where(b_acc < 0, 0.0, b_acc)


@triton.jit
def place_in_map(cell_h, cell_w, i, j, map_size, STRIDE: tl.constexpr, PADDING: tl.constexpr):
    """(row, column, whether the map has it) of place (i, j) of cells."""
    y, x = cell_h * STRIDE - PADDING + i, cell_w * STRIDE - PADDING + j
    return y, x, (y >= 0) & (y < map_size[0]) & (x >= 0) & (x < map_size[1])


@triton.jit
def stays(key, place, threshold):
    """Which elements dropout keeps: those whose hash is not below the threshold (reference/conv_norm_pool.py has the same)."""
    x = place.to(tl.uint32) ^ key.to(tl.uint32)
    x = x ^ (x >> 16)
    x = x * 0x7FEB352D
    x = x ^ (x >> 15)
    x = x + (key >> 32).to(tl.uint32)
    x = x * 0x846CA68B
    x = x ^ (x >> 16)
    return x >= tl.cast(threshold, tl.uint32)


# --- forward --------------------------------------------------------------------------------------------------------------
@triton.jit
def conv_norm_pool_maps(
    p_input,  # (examples, C, H + 2 * padding, W + 2 * padding), contiguous
    p_index,  # (F, B) int64 or None
    p_weight,  # (F, O, K)
    p_bias,  # (F, O) or None
    p_scale,  # (F, O), the norm's weight, or None
    p_winners,  # (2, F, B, O, windows): what wins in each window, and at which place of it
    p_partial,  # (F, blocks, 3, O): mean of a block, squared deviations from it, number of values; None where nobody asks
    rows,  # B * cells
    folds,
    slots,
    clips,
    size,  # of the input
    map_size,
    cells,
    pooled,
    CHANNELS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    POOL: tl.constexpr,  # kernel, stride, padding
    SHARED: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_K: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Each program: a block of a fold's cells, place after place of them and of their windows."""
    INDEX: tl.constexpr = tl.int64 if WIDE else tl.int32
    SPAN: tl.constexpr = POOL[0] if POOL[0] > POOL[1] else POOL[1]
    blocks = tl.cdiv(rows, BLOCK_M)
    fold = (tl.program_id(0) // blocks).to(tl.int64)
    o_row = tl.program_id(0) % blocks * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]
    m_row = o_row < rows
    cell_w, cell_h, slot = o_row % cells[1], o_row // cells[1] % cells[0], o_row // (cells[0] * cells[1])
    o_example, m_there, m_known = examples(p_index, fold, slot, m_row, slots, clips, SHARED, INDEX)
    o_clip = o_example * (CHANNELS * size[0] * size[1])
    o_out = tl.arange(0, BLOCK_O)[:, None]
    m_out = o_out < OUTPUTS
    sign = tl.full((BLOCK_O, 1), 1.0, tl.float32)
    if p_scale is not None:
        scale = tl.load(p_scale + fold * OUTPUTS + o_out, m_out, other=1.0)
        sign = (scale > 0).to(tl.float32) - (scale < 0).to(tl.float32)

    b_mean = tl.zeros((BLOCK_O, BLOCK_M), tl.float32)  # of each cell, as Welford updates it
    b_squares = tl.zeros((BLOCK_O, BLOCK_M), tl.float32)
    b_winner = tl.zeros((BLOCK_O, BLOCK_M), tl.float32)
    b_place = tl.zeros((BLOCK_O, BLOCK_M), tl.float32)
    count = tl.zeros((1, BLOCK_M), tl.float32)
    seen = tl.zeros((1, BLOCK_M), tl.int32)
    for place in range(0, SPAN * SPAN):
        i, j = place // SPAN, place % SPAN
        y, x, m_in = place_in_map(cell_h, cell_w, i, j, map_size, POOL[1], POOL[2])
        m_in = m_in & m_there
        b_acc = convolve(
            p_input, p_weight + fold * (OUTPUTS * CHANNELS * 9), o_clip + (y * size[1] + x), m_in & m_known, size,
            CHANNELS, OUTPUTS, PRECISION, BLOCK_M, BLOCK_O, BLOCK_K,
        )  # fmt: skip
        b_value = rectified(b_acc, p_bias, fold, m_there, m_known, OUTPUTS, BLOCK_O)
        if p_partial is not None:
            m_own = m_in & (i < POOL[1]) & (j < POOL[1])
            count += m_own.to(tl.float32)
            share = 1 / tl.maximum(count, 1.0)
            b_off = b_value - b_mean
            b_mean = tl.where(m_own, b_mean + b_off * share, b_mean)
            b_squares = tl.where(m_own, b_squares + b_off * (b_value - b_mean), b_squares)
        # The first of equals; any NaN, as PyTorch's pool has it. Where the norm turns the map around the least wins.
        m_window = m_in & (i < POOL[0]) & (j < POOL[0])
        better = (b_value * sign > b_winner * sign) | (b_value != b_value) | (seen == 0)
        better = better & m_window
        b_winner = tl.where(better, b_value, b_winner)
        b_place = tl.where(better, tl.cast(i * POOL[0] + j, tl.float32), b_place)
        seen += m_window.to(tl.int32)

    windows = pooled[0] * pooled[1]
    o_winner = ((fold * slots + slot) * OUTPUTS + o_out) * windows + (cell_h * pooled[1] + cell_w)
    m_winner = m_out & m_row & (cell_h < pooled[0]) & (cell_w < pooled[1])
    tl.store(p_winners + o_winner, b_winner, m_winner)
    tl.store(p_winners + (tl.cast(folds, tl.int64) * slots * OUTPUTS * windows + o_winner), b_place, m_winner)
    if p_partial is not None:
        total = tl.sum(count, 1)
        mean = tl.sum(count * b_mean, 1) / tl.maximum(total, 1.0)
        b_off = b_mean - mean[:, None]
        squares = tl.sum(b_squares + count * b_off * b_off, 1)
        o_partial = tl.program_id(0).to(tl.int64) * (3 * OUTPUTS) + tl.arange(0, BLOCK_O)
        m_partial = tl.arange(0, BLOCK_O) < OUTPUTS
        tl.store(p_partial + o_partial, mean, m_partial)
        tl.store(p_partial + OUTPUTS + o_partial, squares, m_partial)
        tl.store(p_partial + 2 * OUTPUTS + o_partial, total + tl.zeros_like(mean), m_partial)


@triton.jit
def conv_norm_pool_statistics(
    p_partial,  # (F, blocks, 3, O)
    p_statistics,  # (F, 3, O): the mean's low part, biased variance, mean
    blocks,
    OUTPUTS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """Each program: a fold's statistics from those of its blocks, as Chan, Golub and LeVeque merge them; in one fixed order."""
    fold = tl.program_id(0).to(tl.int64)
    o_out = tl.arange(0, BLOCK_O)
    m_out = o_out < OUTPUTS
    mean = tl.zeros((BLOCK_O,), tl.float32)
    total = tl.zeros((BLOCK_O,), tl.float32)
    for step in tl.static_range(2):  # the mean as far as float32 has it; then what is left of it, and the deviations from it
        b_sum = tl.zeros((BLOCK_M, BLOCK_O), tl.float32)
        b_count = tl.zeros((BLOCK_M, BLOCK_O), tl.float32)
        b_squares = tl.zeros((BLOCK_M, BLOCK_O), tl.float32)
        for block in range(0, blocks, BLOCK_M):
            o_block = block + tl.arange(0, BLOCK_M)[:, None]
            mask = (o_block < blocks) & m_out[None, :]
            o_partial = (fold * blocks + o_block) * (3 * OUTPUTS) + o_out[None, :]
            count = tl.load(p_partial + 2 * OUTPUTS + o_partial, mask, other=0.0)
            off = tl.load(p_partial + o_partial, mask, other=0.0) - mean[None, :]
            b_count += count
            b_sum += count * off
            if step == 1:
                b_squares += tl.load(p_partial + OUTPUTS + o_partial, mask, other=0.0) + count * off * off
        total = tl.maximum(tl.sum(b_count, 0), 1.0)
        if step == 0:
            mean = tl.sum(b_sum, 0) / total
    low = tl.sum(b_sum, 0) / total
    variance = tl.sum(b_squares, 0) / total - low * low
    variance = tl.where(variance < 0, 0.0, variance)  # NaN stays
    o_statistics = fold * (3 * OUTPUTS) + o_out
    tl.store(p_statistics + o_statistics, low, m_out)
    tl.store(p_statistics + OUTPUTS + o_statistics, variance, m_out)
    tl.store(p_statistics + 2 * OUTPUTS + o_statistics, mean, m_out)


@triton.jit
def conv_norm_pool_close(
    p_winners,  # (2, F, B, O, windows)
    p_index,
    p_statistics,
    p_scale,
    p_shift,
    p_key,  # (F,) int64, or None: no dropout
    p_output,  # (F, B, O, averages), contiguous
    count,  # of a fold's output
    slots,
    pooled,
    eps,
    threshold,  # dropout * 2^32
    stretch,  # 1 / (1 - dropout)
    OUTPUTS: tl.constexpr,
    AVERAGE: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Each program: a block of a fold's output: norm, dropout and average of the winners; 0 in empty slots."""
    blocks = tl.cdiv(count, BLOCK_M)
    fold = (tl.program_id(0) // blocks).to(tl.int64)
    o_output = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    m_output = o_output < count
    high, wide = pooled[0] // AVERAGE, pooled[1] // AVERAGE
    column, row = o_output % wide, o_output // wide % high
    map_of_fold = o_output // (high * wide)
    o_out, slot = map_of_fold % OUTPUTS, map_of_fold // OUTPUTS
    o_channel = fold * (3 * OUTPUTS) + o_out
    low = tl.load(p_statistics + o_channel, m_output, other=0.0)
    scale = 1 / tl.sqrt(tl.load(p_statistics + OUTPUTS + o_channel, m_output, other=1.0) + eps)
    mean = tl.load(p_statistics + 2 * OUTPUTS + o_channel, m_output, other=0.0)
    if p_scale is not None:
        scale *= tl.load(p_scale + fold * OUTPUTS + o_out, m_output, other=0.0)
    shift = tl.zeros((BLOCK_M,), tl.float32)
    if p_shift is not None:
        shift = tl.load(p_shift + fold * OUTPUTS + o_out, m_output, other=0.0)

    windows = pooled[0] * pooled[1]
    b_sum = tl.zeros((BLOCK_M,), tl.float32)
    for k in range(0, AVERAGE * AVERAGE):
        o_window = (row * AVERAGE + k // AVERAGE) * pooled[1] + (column * AVERAGE + k % AVERAGE)
        place = map_of_fold * windows + o_window
        winner = tl.load(p_winners + fold * slots * OUTPUTS * windows + place, m_output, other=0.0)
        b_value = (winner - mean - low) * scale + shift
        if p_key is not None:
            b_value = tl.where(stays(tl.load(p_key + fold), place, threshold), b_value * stretch, 0.0)
        b_sum += b_value
    if p_index is not None:
        b_sum = tl.where(tl.load(p_index + fold * slots + slot, m_output, other=-1) >= 0, b_sum, 0.0)
    tl.store(p_output + fold * count + o_output, b_sum / (AVERAGE * AVERAGE), m_output)
