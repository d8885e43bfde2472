"""What the tests of conv_lstm and conv_gru share."""

import torch

from .kit import assert_near

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


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
