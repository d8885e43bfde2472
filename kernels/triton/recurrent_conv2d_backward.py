"""The gradient of a section's norms and ReLU; those of its convolutions are the library's."""

import triton
import triton.language as tl

from .recurrent import block_of
from .recurrent_conv2d import normalised


@triton.jit
def recurrent_conv2d_sums(
    p_grad,  # (N, H, W, K): gradient of a state
    p_maps,  # (N, H, W, K): what went into its norm
    p_fold,  # (4, K): mean, scale, bias, 1 / deviation
    p_partial,  # (splits, 2, K) float32
    rows,
    rows_of_split,  # a multiple of BLOCK_M
    OUTPUTS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_O: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Sums of the gradient in front of ReLU, and of that times the normalised map, over one split of the positions.

    The caller adds the splits: always in the same order, with no atomics.
    """
    INDEX: tl.constexpr = tl.int64 if WIDE else tl.int32
    BLOCKS: tl.constexpr = (OUTPUTS + BLOCK_O - 1) // BLOCK_O
    split = tl.program_id(0) // BLOCKS
    o_out = tl.program_id(0) % BLOCKS * BLOCK_O + tl.arange(0, BLOCK_O)
    m_out = o_out < OUTPUTS
    b_mean = tl.load(p_fold + o_out, m_out, other=0.0)[None, :]
    b_inverse = tl.load(p_fold + 3 * OUTPUTS + o_out, m_out, other=0.0)[None, :]
    b_bias = tl.zeros((BLOCK_M, BLOCK_O), tl.float32)
    b_weight = tl.zeros((BLOCK_M, BLOCK_O), tl.float32)
    first = split.to(INDEX) * rows_of_split
    for row in range(first, tl.minimum(first + rows_of_split, rows), BLOCK_M):
        o_row = row + tl.arange(0, BLOCK_M)[:, None]
        o_map, m_map = o_row * OUTPUTS + o_out[None, :], (o_row < rows) & m_out[None, :]
        b_map = tl.load(p_maps + o_map, m_map, other=0.0).to(tl.float32)
        b_grad = tl.load(p_grad + o_map, m_map, other=0.0).to(tl.float32)
        off = normalised(b_map, p_fold, o_out[None, :], m_out[None, :], OUTPUTS) <= 0
        b_grad = tl.where(off, 0.0, b_grad)
        b_bias += b_grad
        b_weight += b_grad * ((b_map - b_mean) * b_inverse)
    o_partial = split.to(tl.int64) * (2 * OUTPUTS) + o_out
    tl.store(p_partial + o_partial, tl.sum(b_bias, 0), m_out)
    tl.store(p_partial + OUTPUTS + o_partial, tl.sum(b_weight, 0), m_out)


@triton.jit
def recurrent_conv2d_gradient(
    p_grad,
    p_maps,
    p_fold,  # None: no norm
    p_sums,  # (2, K) float32: the splits added
    p_output,  # (N, H, W, K): gradient of what went into the norm
    p_total,  # (N, H, W, K): takes the output added to it, or None
    rows,
    OUTPUTS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_O: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Back through ReLU and the norm."""
    INDEX: tl.constexpr = tl.int64 if WIDE else tl.int32
    o_row, o_out = block_of(OUTPUTS, BLOCK_M, BLOCK_O, INDEX)
    m_out = o_out < OUTPUTS
    o_map, m_map = o_row * OUTPUTS + o_out[None, :], (o_row < rows) & m_out[None, :]
    b_map = tl.load(p_maps + o_map, m_map, other=0.0).to(tl.float32)
    b_grad = tl.load(p_grad + o_map, m_map, other=0.0).to(tl.float32)
    off = normalised(b_map, p_fold, o_out[None, :], m_out[None, :], OUTPUTS) <= 0
    b_grad = tl.where(off, 0.0, b_grad)
    if p_fold is not None:
        share = 1 / tl.cast(rows, tl.float32)
        b_mean = tl.load(p_fold + o_out, m_out, other=0.0)[None, :]
        b_scale = tl.load(p_fold + OUTPUTS + o_out, m_out, other=0.0)[None, :]
        b_inverse = tl.load(p_fold + 3 * OUTPUTS + o_out, m_out, other=0.0)[None, :]
        b_bias = tl.load(p_sums + o_out, m_out, other=0.0)[None, :] * share
        b_weight = tl.load(p_sums + OUTPUTS + o_out, m_out, other=0.0)[None, :] * share
        b_grad = b_scale * (b_grad - b_bias - (b_map - b_mean) * b_inverse * b_weight)
    DTYPE: tl.constexpr = p_output.dtype.element_ty
    tl.store(p_output + o_map, b_grad.to(DTYPE), m_map)
    if p_total is not None:
        b_total = b_grad + tl.load(p_total + o_map, m_map, other=0.0).to(tl.float32)
        tl.store(p_total + o_map, b_total.to(DTYPE), m_map)
