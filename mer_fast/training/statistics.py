"""What a network has to know of its training clips before it trains: found from these alone, and kept with the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from ..data.crops import Normalisation
from ..errors import MerFastError
from .batches import collate


class Normalised(torch.nn.Module):
    """A network whose inputs are brought about zero first: minus the mean of the training clips, over the maximum of the rest.

    Attributes:
        network: the network.
        mean, maximum: one number for each input, kept in the state_dict.
    """

    mean: torch.Tensor
    maximum: torch.Tensor

    def __init__(self, network: torch.nn.Module, mean: Iterable[float] = (), maximum: Iterable[float] = ()) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32))
        self.register_buffer("maximum", torch.tensor(list(maximum), dtype=torch.float32))

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        weight = next(self.network.parameters())
        values = ((x.to(weight.dtype) - self.mean[k]) / self.maximum[k] for k, x in enumerate(inputs))
        logits: torch.Tensor = self.network(*values)
        return logits


def appearance_mask(model: torch.nn.Module, clips: Any) -> torch.nn.Module:
    """Lets the network find its mask (`models.STRCNA.fit_mask`) from the clips (T, H, W)."""
    fit_mask = getattr(model, "fit_mask", None)
    if fit_mask is None:
        raise MerFastError(f"statistics: appearance_mask is for a network with fit_mask, as STRCNA, got {type(model).__name__}")
    fit_mask(collate([clips[i][0]])[0][0] for i in range(len(clips)))
    return model


def gray_range(model: torch.nn.Module, clips: Any) -> torch.nn.Module:
    """Puts `Normalised` around the network, with the numbers of each of its inputs (`data.Normalisation`)."""
    inputs = len(collate([clips[0][0]]))
    found = [Normalisation.of(collate([clips[i][0]])[k] for i in range(len(clips))) for k in range(inputs)]
    weight = next(model.parameters())
    wrapped = Normalised(model, [one.mean for one in found], [one.maximum for one in found])
    wrapped.to(weight.device)
    return wrapped


STATISTICS: dict[str, Callable[[torch.nn.Module, Any], torch.nn.Module]] = {
    "appearance_mask": appearance_mask,
    "gray_range": gray_range,
}
