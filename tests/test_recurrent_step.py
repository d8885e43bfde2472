"""torch.ops.mer_fast.recurrent_step: a convolution with terms before and after its activation."""

import pytest
import torch
import torch.nn.functional as F

from mer_fast import nn
from mer_fast.reference.conv3d import ACTIVATIONS

from .kit import assert_near

STEP = torch.ops.mer_fast.recurrent_step


def plain(x, w, shift, before, after, activation):
    z = F.conv2d(x, w, shift, padding=(w.shape[2] // 2, w.shape[3] // 2))
    z = ACTIVATIONS[None if activation == "none" else activation](z if before is None else z + before)
    return z if after is None else z + after


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("side", [(1, 1), (3, 3), (5, 5), (7, 3), (1, 5)])
@pytest.mark.parametrize("size", [(1, 1), (5, 6), (13, 29), (20, 20)])
def test_every_term(dtype, side, size):
    for outputs in (3, 16, 37):
        x, w = torch.randn(2, 5, *size, dtype=dtype), torch.randn(outputs, 5, *side, dtype=dtype)
        shift, before, after = (torch.randn(s, dtype=dtype) for s in ((outputs,), (2, outputs, *size), (2, outputs, *size)))
        for terms in ((None, None, None), (shift, before, None), (None, None, after), (shift, before, after)):
            for activation in ("none", "relu"):
                out = STEP(x, w, *terms, activation, False)
                wide = [None if t is None else t.double() for t in terms]
                assert_near(out, plain(x.double(), w.double(), *wide, activation), dtype)


def test_terms_of_any_layout_and_nan():
    x, w = torch.randn(2, 4, 9, 11), torch.randn(6, 4, 3, 3)
    after = torch.randn(2, 9, 11, 6).permute(0, 3, 1, 2)
    assert torch.equal(STEP(x, w, None, None, after, "relu", False), STEP(x, w, None, None, after.contiguous(), "relu", False))
    x[0, 1, 4, 5] = float("nan")
    out = STEP(x, w, None, None, after, "relu", False)
    assert torch.equal(out.isnan(), plain(x, w, None, None, after, "relu").isnan())


def test_errors():
    x, w = torch.randn(2, 4, 9, 11), torch.randn(6, 4, 3, 3)
    for arguments, message in (
        ((x[0], w, None, None, None), "input must have 4 dimensions"),
        ((x, w[..., :2], None, None, None), "weight must have odd sides"),
        ((x, w, None, x, None), "before and the output must have one shape"),
        ((x, w, torch.zeros(5), None, None), r"bias must have shape \(6\)"),
        ((x.half(), w.half(), None, None, None), "input must be float32 or float64"),
    ):
        with pytest.raises(RuntimeError, match=f"recurrent_step: .*{message}"):
            STEP(*arguments, "relu", False)


def test_opcheck():
    x, w = torch.randn(2, 4, 5, 6), torch.randn(3, 4, 3, 3)
    term = torch.randn(2, 3, 5, 6)
    torch.library.opcheck(STEP.default, (x, w, torch.randn(3), term, term, "relu", False))


@pytest.mark.parametrize("injection", ["input", "feedforward"])
@pytest.mark.parametrize("norm", ["batch", None])
def test_a_section_in_evaluation_runs_on_it(monkeypatch, injection, norm):
    layer = nn.RecurrentConv2d(6, 6, 3, steps=2, injection=injection, norm=norm).eval()
    x = torch.randn(2, 6, 12, 13)
    with torch.no_grad():
        out = layer(x)
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")(x)
    trained = layer(x.requires_grad_())  # another way, for the gradient
    assert_near(out, trained, torch.float32)
    assert torch.equal(out, compiled)
    from mer_fast.ops import recurrent_conv2d  # the function; its module holds the seam

    calls = []
    module = __import__("sys").modules[recurrent_conv2d.__module__]
    monkeypatch.setattr(module, "fused_section", lambda *a: calls.append(1) or torch.zeros(2, 6, 12, 13))
    with torch.no_grad():
        layer(x)
    assert calls
