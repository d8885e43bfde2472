"""ops.conv_norm_pool and its operators: every error names the argument."""

import pytest
import torch

import mer_fast
from mer_fast import ops


def called(x=None, **changes):
    x = torch.zeros(6, 3, 9, 8) if x is None else x
    given = {"weight": torch.zeros(2, 5, 3, 3, 3), "index": torch.zeros(2, 4, dtype=torch.int64), **changes}
    return lambda: ops.conv_norm_pool(x, **given)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (called(torch.zeros(3, 9, 8)), r"input must have shape \(M, C, H, W\) or \(F, B, C, H, W\), got \(3, 9, 8\)"),
        (called(torch.zeros(6, 3, 9, 8).long()), "input must be a float tensor"),
        (called(torch.zeros(6, 2, 9, 8)), r"input must have 3 channels for weight \(2, 5, 3, 3, 3\), got \(6, 2, 9, 8\)"),
        (called(torch.zeros(3, 4, 3, 9, 8)), "input must have 2 folds as weight"),
        (called(torch.zeros(6, 3, 9, 8).double()), "input and weight must have one dtype"),
        (called(weight=torch.zeros(5, 3, 3, 3)), r"weight must have shape \(F, O, C, kh, kw\), got \(5, 3, 3, 3\)"),
        (called(weight=torch.zeros(2, 0, 3, 3, 3)), "weight must not be empty"),
        (called(torch.zeros(6, 3, 2, 8)), r"weight of size \(3, 3\) does not fit into input \(6, 3, 2, 8\) with padding 0"),
        (called(bias=torch.zeros(5)), r"bias must have shape \(2, 5\), got \(5,\)"),
        (called(norm_weight=torch.zeros(2, 5).double()), "input and norm_weight must have one dtype"),
        (called(running_mean=torch.zeros(2, 5)), "running_mean and running_var must both be given, or neither"),
        (called(index=None), r"index must be given with clips of shape \(M, C, H, W\)"),
        (called(index=torch.zeros(3, 4, dtype=torch.int64)), r"index must be int64 of shape \(F, B\) for 2 folds"),
        (called(index=torch.zeros(2, 4)), "index must be int64"),
        (called(index=[[0], [1]]), "index must be int64 .* got list"),
        (called(index=torch.tensor([[0], [6]])), r"index must lie in -1..5 for input \(6, 3, 9, 8\)"),
        (called(index=torch.tensor([[0], [-2]])), "index must lie in -1..5"),
        (called(torch.zeros(2, 3, 3, 9, 8)), r"index must be int64 of shape \(F, B\)"),
        (called(padding=-1), "padding must be at least 0"),
        (called(pool_kernel=0), "pool_kernel must be at least 1"),
        (called(pool_padding=2), "pool_padding must be at most half of pool_kernel 3, got 2"),
        (called(torch.zeros(6, 3, 4, 8)), r"pool_kernel 3 is larger than the convolution's output \(2, 6\)"),
        (called(average=3), r"average 3 is larger than the pool's output \(2, 2\)"),
        (called(average=0), "average must be at least 1"),
        (called(dropout=1.5), "dropout must lie between"),
        (called(momentum=2), "momentum must lie between"),
        (called(eps=-1), "eps must lie between"),
        (called(dropout=0.5, dropout_key=torch.zeros(3, dtype=torch.int64)), r"dropout_key must be int64 of shape \(2,\)"),
        (called(torch.zeros(6, 3, 1, 1), padding=1, pool_kernel=1, index=torch.zeros(2, 1, dtype=torch.int64)),
         "input must have more than one value a channel in training"),
    ],
)  # fmt: skip
def test_says_what_is_wrong(call, message):
    with pytest.raises(mer_fast.MerFastError, match="conv_norm_pool: " + message):
        call()


FORWARD = {
    "input": torch.zeros(6, 3, 9, 8), "index": torch.zeros(2, 4, dtype=torch.int64), "weight": torch.zeros(2, 5, 3, 3, 3),
    "bias": None, "norm_weight": None, "norm_bias": None, "running_mean": None, "running_var": None, "eps": 1e-5, "padding": 1,
    "pool": [3, 3, 1], "dropout": 0.0, "dropout_key": None, "average": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": torch.zeros(6, 3, 9, 8).half()}, "input must be float32 or float64 on a CPU"),
        ({"input": torch.zeros(6, 3, 9)}, r"input must have shape \(M, C, H, W\)"),
        ({"input": torch.zeros(6, 4, 9, 8)}, r"input \(6, 4, 9, 8\) does not fit weight"),
        ({"input": torch.zeros(6, 3, 0, 8)}, "must hold a 3x3 kernel"),
        ({"index": None}, "index must be given with clips"),
        ({"index": torch.zeros(2, 4)}, "index must be int64 of shape"),
        ({"index": torch.full((2, 4), 6)}, r"index must lie in -1..5, got 6"),
        ({"weight": torch.zeros(2, 5, 3, 5, 3)}, "weight must have 3x3 kernels"),
        ({"weight": torch.zeros(2, 5, 3, 3)}, "weight must have 5 dimensions"),
        ({"weight": torch.zeros(2, 65, 3, 3, 3)}, "weight must have 1 to 64 channels"),
        ({"bias": torch.zeros(2, 4)}, r"bias must have shape \(2, 5\), got \(2, 4\)"),
        ({"norm_weight": torch.zeros(2, 5).double()}, "input and norm_weight must have one dtype"),
        ({"running_var": torch.zeros(2, 5)}, "running_mean and running_var must both be given"),
        ({"padding": 3}, "padding must be 0, 1 or 2, got 3"),
        ({"pool": [4, 1, 0]}, "pool must have a kernel of 2 or 3"),
        ({"pool": [3, 0, 0]}, "pool must have a kernel of 2 or 3, a stride from 1 on"),
        ({"pool": [3, 3]}, "pool must be kernel, stride and padding"),
        ({"pool": [3, 3, 0], "padding": 0, "input": torch.zeros(6, 3, 4, 4)}, "pool of 3 is larger than the map of 2x2"),
        ({"average": 4}, "average must lie in 1..3, got 4"),
        ({"dropout": 0.5}, r"dropout_key must be int64 of shape \(2\)"),
        ({"dropout": -0.5}, "dropout lie in 0..1"),
    ],
)
def test_the_operator_says_what_is_wrong(changes, message):
    with pytest.raises(RuntimeError, match="conv_norm_pool: .*" + message):
        torch.ops.mer_fast.conv_norm_pool(*{**FORWARD, **changes}.values())


def test_the_gradient_says_what_is_wrong():
    given = [FORWARD[name] for name in ("input", "index", "weight", "bias", "norm_weight")]
    rest = [FORWARD[name] for name in ("eps", "padding", "pool", "dropout", "dropout_key", "average")]
    out, winners, statistics = torch.ops.mer_fast.conv_norm_pool(*FORWARD.values())
    backward = torch.ops.mer_fast.conv_norm_pool_backward
    for grad, kept, moments, name in (
        (out[:1], winners, statistics, "grad"), (out, winners[..., :5], statistics, "winners"),
        (out, winners, statistics[:, :2], "statistics"),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match=f"conv_norm_pool_backward: {name} must be as the forward gives it"):
            backward(grad, *given, kept, moments, True, *rest, False)
    with pytest.raises(RuntimeError, match="input and grad must have one dtype"):
        backward(out.double(), *given, winners, statistics, True, *rest, False)
