"""What ConvLSTM and ConvGRU share: layers, directions, parameters by name, states."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch

from ..ops._checks import require, require_count
from ..ops._recurrent import Lengths, odd_kernel

Size = int | Sequence[int]


def init_uniform(weights: dict[str, torch.Tensor], weight_hh: torch.Tensor) -> None:
    """As torch.nn.LSTM, whose bound is one over the root of what a gate sums of the state: here with the kernel's places."""
    bound = prod(weight_hh.shape[1:]) ** -0.5
    for weight in weights.values():
        torch.nn.init.uniform_(weight, -bound, bound)


class ConvRecurrent(torch.nn.Module):
    """Layers and directions of convolutional cells over time; subclasses give the parameters and the cell."""

    gates: int

    def __init__(
        self, in_channels: int, hidden_channels: int, kernel_size: Size, num_layers: int, bias: bool, batch_first: bool,
        bidirectional: bool, checkpoint: bool, device: Any, dtype: torch.dtype | None,
    ) -> None:  # fmt: skip
        super().__init__()
        layer = type(self).__name__
        for name, value in (("in_channels", in_channels), ("hidden_channels", hidden_channels), ("num_layers", num_layers)):
            require_count(layer, name, value)
        self.in_channels, self.hidden_channels, self.num_layers = in_channels, hidden_channels, num_layers
        self.kernel_size = odd_kernel(layer, kernel_size)
        self.bias, self.batch_first, self.bidirectional, self.checkpoint = bias, batch_first, bidirectional, checkpoint
        self.suffixes = [f"_l{k}{way}" for k in range(num_layers) for way in ("", "_reverse")[: self.directions]]
        for k, suffix in enumerate(self.suffixes):
            channels = in_channels if k < self.directions else hidden_channels * self.directions
            for name, shape in self.shapes(channels).items():
                weight = torch.nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
                self.register_parameter(name + suffix, weight)
        self.reset_parameters()

    def shapes(self, channels: int) -> dict[str, tuple[int, ...]]:
        """Names, without suffix, and shapes of the parameters of a layer with that many input channels, weights first."""
        outputs = self.gates * self.hidden_channels
        weight_hh = (outputs, self.hidden_channels, *self.kernel_size)
        return {"weight_ih": (outputs, channels, *self.kernel_size), "weight_hh": weight_hh}

    def reset_parameters(self) -> None:
        for suffix in self.suffixes:
            weights = self.weights(suffix)
            init_uniform(weights, weights["weight_hh"])

    def weights(self, suffix: str) -> dict[str, torch.Tensor]:
        """Parameters of a layer and direction by their names without suffix."""
        return {name: getattr(self, name + suffix) for name in self.shapes(0)}

    def cell(
        self, input: torch.Tensor, weights: dict[str, Any], state: list[torch.Tensor | None], **options: Any
    ) -> tuple[torch.Tensor, ...]:
        """Output and states of one layer and direction."""
        raise NotImplementedError

    def run(
        self, input: torch.Tensor, states: dict[str, torch.Tensor | None], lengths: Lengths | None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Output of the last layer, and each state of all layers and directions."""
        name = type(self).__name__
        order = "(N, T, C, H, W)" if self.batch_first else "(T, N, C, H, W)"
        require(isinstance(input, torch.Tensor) and input.dim() == 5, name, "x", "must be a tensor of shape {}, got {}",
                order, getattr(input, "shape", type(input).__name__))  # fmt: skip
        output = input.transpose(0, 1) if self.batch_first else input
        require(output.shape[2] == self.in_channels, name, "x", "must have {} channels, in_channels, got {}",
                self.in_channels, input.shape)  # fmt: skip
        wanted = (len(self.suffixes), output.shape[1], self.hidden_channels, *output.shape[3:])
        for state, value in states.items():
            require(value is None or (isinstance(value, torch.Tensor) and value.shape == wanted), name, state,
                    "must be a tensor of shape (layers * directions, N, hidden, h, w), here {}, got {}",
                    wanted, getattr(value, "shape", type(value).__name__))  # fmt: skip
        last: list[tuple[torch.Tensor, ...]] = []
        for start in range(0, len(self.suffixes), self.directions):
            ways = []
            for k in range(start, start + self.directions):
                own = [None if value is None else value[k] for value in states.values()]
                way, *after = self.cell(
                    output, self.weights(self.suffixes[k]), own, lengths=lengths, reverse=k > start, checkpoint=self.checkpoint
                )
                ways.append(way)
                last.append(tuple(after))
            output = ways[0] if len(ways) == 1 else torch.cat(ways, 2)
        stacked = [torch.stack(values) for values in zip(*last, strict=True)]
        return (output.transpose(0, 1) if self.batch_first else output), stacked

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    def extra_repr(self) -> str:
        told = f"{self.in_channels}, {self.hidden_channels}, kernel_size={self.kernel_size}, num_layers={self.num_layers}"
        options = {"bias": False, "batch_first": True, "bidirectional": True, "peephole": True, "checkpoint": True}
        return told + "".join(f", {name}={value}" for name, value in options.items() if getattr(self, name, None) is value)
