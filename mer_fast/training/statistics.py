"""What a network has to know of its training clips before it trains: found from these alone, and kept with the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from ..data.crops import Normalisation
from ..errors import MerFastError
from ..models.atnet import SEQUENCE
from ..ops._checks import require
from .augmentation import are_gray_clips
from .batches import collate

LEAST_SPREAD = 0.05


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


class Changes(torch.nn.Module):
    """A network that reads how far the gray values of a clip are from its first frame's, over their deviation.

    What a face looks like is gone from its input, and what moves is left.

    Attributes:
        network: the network.
        deviation: one number for each input, kept in the state_dict: the root of the mean square of the training clips' changes.
    """

    deviation: torch.Tensor

    def __init__(self, network: torch.nn.Module, deviation: Iterable[float] = ()) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("deviation", torch.tensor(list(deviation), dtype=torch.float32))

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        weight = next(self.network.parameters())
        # Less the first frame before it is rounded: in half precision a change is lost in the gray value that it is of.
        wide = (x if x.dtype in (torch.float32, torch.float64) else x.float() for x in inputs)
        values = (change(x).to(weight.dtype) / self.deviation[k] for k, x in enumerate(wide))
        logits: torch.Tensor = self.network(*values)
        return logits


class Standardised(torch.nn.Module):
    """ATNet with sequences of which every column has mean 0 and deviation 1; rows without a frame stay zero.

    Angles go from -pi to pi and say nothing where little moves, and magnitudes are tenths of a pixel: as they are, the angles
    drown them.

    Attributes:
        network: the network, of (apex, sequence).
        offset, spread: (128,) each, kept in the state_dict.
    """

    offset: torch.Tensor
    spread: torch.Tensor

    def __init__(self, network: torch.nn.Module, offset: torch.Tensor, spread: torch.Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("offset", offset)
        self.register_buffer("spread", spread)

    def forward(self, apex: torch.Tensor, sequence: torch.Tensor) -> torch.Tensor:
        sequence = sequence.to(next(self.network.parameters()).dtype)
        there = (sequence != 0).any(-1, keepdim=True)
        logits: torch.Tensor = self.network(apex, torch.where(there, (sequence - self.offset) / self.spread, 0))
        return logits


def change(clips: torch.Tensor) -> torch.Tensor:
    """Every frame less the first one, of clips (..., T, H, W)."""
    return clips - clips[..., :1, :, :]


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


def gray_change(model: torch.nn.Module, clips: Any) -> torch.nn.Module:
    """Puts `Changes` around the network, with the deviation of each of its inputs, gray clips (..., T, H, W).

    Raises:
        MerFastError: an input without frames, or clips in which nothing moves.
    """
    inputs = len(collate([clips[0][0]]))
    total, count = [0.0] * inputs, [0] * inputs
    for i in range(len(clips)):
        for k, x in enumerate(collate([clips[i][0]])):
            fits = are_gray_clips(x)
            require(fits, "statistics", "gray_change", "is for gray clips (T, H, W) or (1, T, H, W), got {}", x.shape[1:])
            total[k] += float(change(x.double()).square().sum())
            count[k] += x.numel()
    require(all(total), "statistics", "gray_change", "needs clips in which something moves: these are still")
    wrapped = Changes(model, [(one / many) ** 0.5 for one, many in zip(total, count, strict=True)])
    wrapped.to(next(model.parameters()).device)
    return wrapped


def sequence_deviation(model: torch.nn.Module, clips: Any) -> torch.nn.Module:
    """Puts `Standardised` around ATNet, with the mean and deviation of each column of the sequences, over rows with a frame.

    No deviation is below a twentieth of the median of its kind, angles or magnitudes: a cell that hardly moved in the training
    clips would make any motion in another clip enormous.

    Raises:
        MerFastError: inputs that are not ATNet's.
    """
    inputs = [collate([clips[i][0]]) for i in range(len(clips))]
    fits = all(len(one) == 2 and one[1].shape[1:] == SEQUENCE for one in inputs)
    require(fits, "statistics", "sequence_deviation", "is for ATNet's inputs, an apex frame and a sequence {}", SEQUENCE)
    sequences = torch.cat([one[1] for one in inputs])
    rows = sequences[(sequences != 0).any(2)].double()
    require(len(rows) > 0, "statistics", "sequence_deviation", "needs clips in which something moves: these are still")
    kinds = rows.std(0, correction=0).unflatten(0, (-1, 2))  # cells by angle and magnitude
    spread = torch.maximum(kinds, LEAST_SPREAD * kinds.median(0).values).flatten()
    weight = next(model.parameters())
    spread = torch.where(spread > 0, spread, 1).to(weight)  # nothing ever changes
    return Standardised(model, rows.mean(0).to(weight), spread)


def as_in(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """A network with what these statistics put around it, as its state_dict tells."""
    if "mean" in tensors:
        return Normalised(model, tensors["mean"].tolist(), tensors["maximum"].tolist())
    if "deviation" in tensors:
        return Changes(model, tensors["deviation"].tolist())
    return Standardised(model, tensors["offset"], tensors["spread"]) if "spread" in tensors else model


# Each puts a module around the network: a file of weights tells of one.
AROUND = frozenset({"gray_range", "gray_change", "sequence_deviation"})

STATISTICS: dict[str, Callable[[torch.nn.Module, Any], torch.nn.Module]] = {
    "appearance_mask": appearance_mask,
    "gray_range": gray_range,
    "gray_change": gray_change,
    "sequence_deviation": sequence_deviation,
}
