"""losses.BalancedFocalLoss: against the formula, by hand, and against PyTorch's cross entropy."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import mer_fast
from mer_fast.losses import BalancedFocalLoss


def by_formula(logits, target, alpha, gamma):
    """Sample by sample, in NumPy."""
    total = 0.0
    for row, label in zip(logits.double().numpy(), target.tolist(), strict=True):
        p = (np.exp(row - row.max()) / np.exp(row - row.max()).sum())[label]
        total -= alpha[label] * (1 - p) ** gamma * math.log(p)
    return total / len(logits)


def balanced(counts):
    return [sum(counts) / (len(counts) * n) for n in counts]


def effective(counts, beta):
    weights = [(1 - beta) / (1 - beta**n) for n in counts]
    return [w * len(counts) / sum(weights) for w in weights]


TARGET = torch.tensor([0] * 6 + [1] * 3 + [2])


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("case", ["inverse", "effective", "tensor", "inverse, counts", "effective, counts", "list"])
def test_is_the_formula(case, gamma):
    logits = 2 * torch.randn(10, 3, dtype=torch.float64)
    loss, alpha = {
        "inverse": (BalancedFocalLoss("inverse", gamma), balanced([6, 3, 1])),
        "effective": (BalancedFocalLoss("effective", gamma), effective([6, 3, 1], 0.999)),
        "tensor": (BalancedFocalLoss(torch.tensor([0.25, 2.0, 0.5]), gamma), [0.25, 2, 0.5]),
        "list": (BalancedFocalLoss([0.0, 2.0, 0.5], gamma), [0, 2, 0.5]),
        "inverse, counts": (BalancedFocalLoss("inverse", gamma, counts=torch.tensor([30, 40, 50])), balanced([30, 40, 50])),
        "effective, counts": (BalancedFocalLoss("effective", gamma, counts=[30, 40, 5], beta=0.9), effective([30, 40, 5], 0.9)),
    }[case]
    assert loss(logits, TARGET).item() == pytest.approx(by_formula(logits, TARGET, alpha, gamma), rel=1e-6)


def test_by_hand():
    """p = 1/2 for the one sample of class 0, 3/4 for the three of class 1: alpha 4 / (2 * 1) and 4 / (2 * 3)."""
    logits = torch.tensor([[0.0, 0.0], [0.0, math.log(3)], [0.0, math.log(3)], [0.0, math.log(3)]], dtype=torch.float64)
    expected = (2 * 0.25 * math.log(2) + 3 * (2 / 3) * 0.0625 * math.log(4 / 3)) / 4
    assert BalancedFocalLoss()(logits, torch.tensor([0, 1, 1, 1])).item() == pytest.approx(expected, rel=1e-9)


def test_without_focus_and_balance_it_is_cross_entropy():
    logits = torch.randn(10, 3, requires_grad=True)
    results = []
    for loss in (BalancedFocalLoss(torch.ones(3), 0.0), F.cross_entropy):
        value = loss(logits, TARGET)
        results.append((value, torch.autograd.grad(value, logits)[0]))
    torch.testing.assert_close(*results)


def test_an_absent_class_is_left_out_of_a_batch():
    """The other classes weigh as if it did not exist."""
    logits = torch.randn(9, 4)
    logits[:, 3] = -1e9
    for kind in ("inverse", "effective"):
        four, three = (BalancedFocalLoss(kind)(logits[:, :c], TARGET[:9] % 2) for c in (4, 3))
        torch.testing.assert_close(four, three)
    seen = BalancedFocalLoss("inverse", counts=[0, 5, 5])
    assert seen.alpha.tolist() == pytest.approx([5, 1, 1])  # as if there was one


def test_rare_classes_weigh_more():
    for kind in ("inverse", "effective"):
        alpha = BalancedFocalLoss(kind, counts=[250, 109, 83]).alpha
        assert alpha[0] < alpha[1] < alpha[2]


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_gradients_are_finite_where_a_sample_is_right_or_hopeless(gamma):
    logits = torch.tensor([[300.0, 0.0, 0.0], [0.0, 300.0, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    value = BalancedFocalLoss("inverse", gamma)(logits, torch.tensor([0, 0, 1]))
    (gradient,) = torch.autograd.grad(value, logits)
    assert value.isfinite() and gradient.isfinite().all() and gradient[1].any()


def test_gradcheck():
    logits = torch.randn(10, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: BalancedFocalLoss("effective", 1.5)(x, TARGET), (logits,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_summed_in_float32(dtype):
    logits = torch.randn(10, 3).to(dtype)
    value = BalancedFocalLoss()(logits, TARGET)
    assert value.dtype == dtype
    torch.testing.assert_close(value, BalancedFocalLoss()(logits.float(), TARGET).to(dtype), rtol=0, atol=0)


def test_vmaps_and_compiles():
    logits, targets = torch.randn(4, 10, 3), torch.stack([TARGET[torch.randperm(10)] for _ in range(4)])
    loss = BalancedFocalLoss()
    out = torch.vmap(loss)(logits, targets)
    torch.testing.assert_close(out, torch.stack([loss(a, b) for a, b in zip(logits, targets, strict=True)]))
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(logits[0], TARGET), loss(logits[0], TARGET))


def test_alpha_is_a_buffer():
    loss = BalancedFocalLoss(torch.tensor([1.0, 2.0]))
    assert list(loss.state_dict()) == ["alpha"] and loss.double().alpha.dtype == torch.float64
    assert not BalancedFocalLoss("inverse").state_dict()
    assert repr(loss) == "BalancedFocalLoss(alpha=[1.0, 2.0], gamma=2.0)"
    assert repr(BalancedFocalLoss("effective", 1)) == "BalancedFocalLoss(alpha='effective', gamma=1.0)"


LOGITS = torch.randn(10, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BalancedFocalLoss("focal"), "alpha must be 'inverse', 'effective' or a tensor"),
        (lambda: BalancedFocalLoss(None), "alpha must be numbers from 0 on"),
        (lambda: BalancedFocalLoss(torch.tensor([1.0, -1.0])), "alpha must be numbers from 0 on"),
        (lambda: BalancedFocalLoss(torch.zeros(3)), "alpha must be numbers from 0 on, one a class, not all 0"),
        (lambda: BalancedFocalLoss(torch.ones(3, 1)), "alpha must be numbers"),
        (lambda: BalancedFocalLoss("inverse", -1), "gamma must lie between"),
        (lambda: BalancedFocalLoss("effective", beta=1.0), "beta must lie between"),
        (lambda: BalancedFocalLoss([1.0, 2.0], counts=[1, 2]), "counts are of no use with alpha given by hand"),
        (lambda: BalancedFocalLoss("inverse", counts=[-1, 2]), "counts must be numbers from 0 on"),
        (lambda: BalancedFocalLoss([1.0, 2.0])(LOGITS, TARGET), r"logits must have 2 classes as alpha or counts, got \(10, 3\)"),
        (lambda: BalancedFocalLoss()(LOGITS[0], TARGET), r"logits must be floats of shape \(N, C\), got \(3,\)"),
        (lambda: BalancedFocalLoss()(LOGITS, TARGET[:9]), r"target must be class indices of shape \(10,\), .* \(9,\)"),
        (lambda: BalancedFocalLoss()(LOGITS, TARGET.float()), "target must be class indices .* got torch.float32"),
    ],
)  # fmt: skip
def test_says_what_is_wrong(call, message):
    with pytest.raises(mer_fast.MerFastError, match=message):
        call()
