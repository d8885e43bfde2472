"""Steps of training whose operators are the same every time: on a GPU one CUDA graph in place of a hundred launches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

Results = tuple[torch.Tensor, tuple[torch.Tensor | None, ...]]  # losses, gradients


def captured(run: Callable[[], Results], device: torch.device) -> tuple[Callable[[], None], Results]:
    """(a call that fills the results again, results): `run` as a CUDA graph. What it does is done by that call alone."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph):  # a graph is of the current device's stream
        results = run()

    def replay() -> None:
        with torch.cuda.device(device):
            graph.replay()

    return replay, results


class Gradients:
    """Gives parameters the gradients of `compute(index, keys)`, losses (F,), whose tensors always have the same shapes.

    The first step runs as it stands, so that every kernel is compiled before a graph is made; each later one is a replay, which
    reads and fills the same memory: the losses that it returns hold until the next.

    Args:
        parameters: those that ask for a gradient.
        compute: waits for nothing, draws no random numbers, and changes no tensor but in place.
        graphed: on a GPU.
    """

    def __init__(
        self, parameters: Sequence[torch.nn.Parameter], compute: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        graphed: bool,
    ) -> None:  # fmt: skip
        self.parameters, self.compute, self.graphed = parameters, compute, graphed
        self._given: tuple[torch.Tensor, ...] = ()  # what a graph reads
        self._replay: Callable[[], None] | None = None
        self._losses = torch.empty(0)

    def __call__(self, index: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """The losses, detached."""
        if not self.graphed:
            return self._keep(self._run(index, keys))
        if not self._given:
            self._given = index.clone(), keys.clone()
            return self._keep(self._run(*self._given))
        for mine, one in zip(self._given, (index, keys), strict=True):
            mine.copy_(one)
        if self._replay is None:
            self._replay, results = captured(lambda: self._run(*self._given), index.device)
            self._losses = self._keep(results)
        self._replay()
        return self._losses

    def _run(self, index: torch.Tensor, keys: torch.Tensor) -> Results:
        losses = self.compute(index, keys)
        gradients = torch.autograd.grad(losses.sum(), self.parameters, allow_unused=True)
        # Laid out as the parameters are, as `backward` leaves them: an optimizer takes those together.
        return losses.detach(), tuple(None if one is None else one.contiguous() for one in gradients)

    def _keep(self, results: Results) -> torch.Tensor:
        losses, gradients = results
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        return losses
