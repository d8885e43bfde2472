"""What the tests of recurrent_conv2d, conv_lstm and conv_gru share."""

from contextlib import contextmanager
from functools import partial

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mer_fast import ops

from .kit import assert_near

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
STEPS = 2  # of the sections, after the first state


def made(kind, channels=3, maps=5, size=(6, 7), kernel=(3, 3), batch=2, steps=4, **options):
    """Named float32 tensors for `run` of a kind: "batch" and "none", sections with that norm; "lstm" and "gru".

    With `smooth=True` the norms of a section put whole maps on one side of its ReLU, which rounding then cannot cross.
    """
    taps = kernel[0] * kernel[1]
    if kind in ("batch", "none"):
        tensors = {
            "input": torch.randn(batch, channels, *size),
            "input_weight": torch.randn(maps, channels, *kernel) / (channels * taps) ** 0.5,
            "recurrent_weight": torch.randn(maps, maps, *kernel) * 0.7 / (maps * taps) ** 0.5,
        }
        if kind == "batch":
            on = torch.where(torch.rand(STEPS + 1, maps) < 0.8, 1.0, -1.0)
            smooth = options.get("smooth", False)
            tensors["norm_weights"] = torch.rand(STEPS + 1, maps) * 0.2 + (0.1 if smooth else 0.8)
            tensors["norm_biases"] = on * 2 if smooth else torch.randn(STEPS + 1, maps) * 0.5
        return tensors
    gates, scale = {"lstm": 4, "gru": 3}[kind], 0.7 / taps**0.5
    tensors = {
        "input": torch.randn(steps, batch, channels, *size),
        "weight_ih": torch.randn(gates * maps, channels, *kernel) * scale / channels**0.5,
        "weight_hh": torch.randn(gates * maps, maps, *kernel) * scale / maps**0.5,
    }
    names = ("bias",) if kind == "lstm" else ("bias_ih", "bias_hh")
    tensors |= {name: torch.randn(gates * maps) * 0.5 for name in names}
    if kind == "lstm":
        tensors["peephole"] = torch.randn(3, maps, 1, 1) * 0.5
    return tensors | {name: torch.randn(batch, maps, *size).tanh() for name in (("h0", "c0") if kind == "lstm" else ("h0",))}


def run(kind, module=ops, **arguments):
    """All results of the op of `made`'s tensors, of mer_fast.ops or mer_fast.reference; norms take the batch's statistics."""
    if kind in ("lstm", "gru"):
        return getattr(module, f"conv_{kind}")(**arguments)
    norm = {name: arguments.pop(name).unbind() for name in ("norm_weights", "norm_biases") if name in arguments}
    norm |= {"norm": "batch", "training": True} if kind == "batch" else {"norm": None}
    first, recurrent = arguments.pop("input_weight"), arguments.pop("recurrent_weight")
    return (module.recurrent_conv2d(arguments.pop("input"), first, [recurrent], steps=STEPS, **norm, **arguments),)


def of(kind, module=ops, **options):
    """`run` of tensors by their names alone."""
    return partial(run, kind, module, **options)


class Ran(TorchDispatchMode):
    """The names of the operators of torch.ops.mer_fast that run meanwhile."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "mer_fast":
            self.names.append(func._schema.name.removeprefix("mer_fast::"))
        return func(*args, **(kwargs or {}))


@contextmanager
def threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def deterministic(on=True):
    """Sums in the order of the formula, and new memory full of NaN."""
    torch.use_deterministic_algorithms(on)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def enough(shape, size, lengths):
    """Whether there are so many values that none near zero, which a half cannot tell from its rounding, decides the error."""
    steps, batch, _, hidden = shape
    return batch * hidden * size[0] * size[1] >= 100 and (lengths is None or int(lengths.sum()) * 2 >= steps * batch)


def values_and_gradients(call, tensors):
    """All results of a call on a dict of tensors, and their gradients for fixed weights of the results."""
    tensors = {name: None if one is None else one.detach().requires_grad_() for name, one in tensors.items()}
    results = call(**tensors)
    weights = (torch.linspace(-1, 1.5, one.numel(), dtype=torch.float64).view(one.shape).to(one) for one in results)
    total = sum((one * weight).sum() for one, weight in zip(results, weights, strict=True))
    given = {name: one for name, one in tensors.items() if one is not None}
    gradients = torch.autograd.grad(total, list(given.values()), allow_unused=True, materialize_grads=True)
    return [one.detach() for one in results], dict(zip(given, gradients, strict=True))


def assert_agree(call, truth, tensors, dtype):
    """`call` in its dtype is as near as that allows to `truth` in float64."""
    wide = {name: None if one is None else one.double() for name, one in tensors.items()}
    got, got_gradients = values_and_gradients(call, tensors)
    want, want_gradients = values_and_gradients(truth, wide)
    half = dtype in (torch.float16, torch.bfloat16)
    if half and any(one.norm() < 0.05 * one.numel() ** 0.5 for one in want):
        return  # shares that cancel: what is left of a half is rounding, PyTorch's own form is off by 4e-2 there
    with torch.no_grad():
        plain = call(**tensors)  # which may work in place
    for a, b, c in zip(got, want, plain, strict=True):
        assert a.dtype == c.dtype == dtype
        assert_near(a, b, dtype)
        assert_near(c, b, dtype)
    for name, gradient in want_gradients.items():
        try:
            assert_near(got_gradients[name], gradient, dtype, gradient=True)
        except AssertionError as error:
            raise AssertionError(f"gradient of {name}: {error}") from error


def assert_finite_where(out, ref, everywhere, told):
    """`out` is as `ref` where that is finite, and not finite elsewhere, or with `everywhere=False` perhaps not.

    A gate of 0 makes NaN of an infinite state, and one of 1e-35, which a kernel's sigmoid ends at, does not.
    """
    finite = ref.isfinite()
    torch.testing.assert_close(out[finite].double(), ref[finite].double(), rtol=0.02, atol=0.02, msg=told)
    assert not everywhere or torch.equal(out.isfinite(), finite), told
