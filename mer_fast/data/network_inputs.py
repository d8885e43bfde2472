"""What each published network reads: how its clips are preprocessed, and its input from what was made of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

from mer_fast.data.apex_time import apex_time_sequence
from mer_fast.data.cache import Entry
from mer_fast.data.crops import eyes_and_mouth
from mer_fast.data.preprocessing import Preprocessing
from mer_fast.errors import MerFastError

STSTNET_SIDE = 28


@dataclass(frozen=True)
class NetworkInput:
    """Preprocessing, and a function from an entry of the cache to the input of one clip."""

    settings: Preprocessing
    make: Callable[[Entry], Any]


def flow_and_strain(entry: Entry) -> torch.Tensor:
    """STSTNet's: u, v and strain of onset to apex, (3, 28, 28)."""
    maps = torch.cat([_kept(entry.flow), _kept(entry.strain)])
    return F.interpolate(maps[None], (STSTNET_SIDE, STSTNET_SIDE), mode="bilinear", antialias=True, align_corners=False)[0]


def flow(entry: Entry) -> torch.Tensor:
    """STRCN-G's: flow from onset to apex, (2, H, W)."""
    return _kept(entry.flow)


def gray_clip(entry: Entry) -> torch.Tensor:
    """STRCN-A's: gray frames, uint8 (T, H, W)."""
    return _kept(entry.clip)


def gray_volume(entry: Entry) -> torch.Tensor:
    """MicroExpSTCNN's: gray frames, float 0..1, (1, T, 64, 64)."""
    return _kept(entry.clip).unsqueeze(0) / 255


def eyes_and_mouth_volumes(entry: Entry) -> tuple[torch.Tensor, torch.Tensor]:
    """MicroExpFuseNet's: eyes and mouth, float 0..1, (1, T, 32, 32) each, as shares of the crop."""
    eyes, mouth = eyes_and_mouth(_kept(entry.clip))
    return eyes / 255, mouth / 255


def apex_and_sequence(entry: Entry) -> tuple[torch.Tensor, torch.Tensor]:
    """ATNet's: the apex frame, float 0..1, (1, 224, 224), and the motion around it, (64, 128)."""
    return _kept(entry.apex).unsqueeze(0) / 255, apex_time_sequence(_kept(entry.flow), entry.apex_index)


# Sizes and lengths as published. ATNet's paper does not tell which flow: here TV-L1, on frames as the apex stream sees them.
NETWORK_INPUTS = {
    "ststnet": NetworkInput(Preprocessing(size=(128, 128)), flow_and_strain),
    "strcn-g": NetworkInput(Preprocessing(size=(300, 245), keep=("flow",)), flow),
    "strcn-a": NetworkInput(Preprocessing(size=(64, 48), frames=30, keep=("clip",)), gray_clip),
    "microexpstcnn": NetworkInput(Preprocessing(size=(64, 64), frames=96, keep=("clip",)), gray_volume),
    "microexpfusenet": NetworkInput(Preprocessing(size=(128, 128), frames=96, keep=("clip",)), eyes_and_mouth_volumes),
    "atnet": NetworkInput(Preprocessing(size=(224, 224), pairs="steps", keep=("apex", "flow")), apex_and_sequence),
}


def network_input(network: str, **changes: Any) -> NetworkInput:
    """What a network reads, with some settings of `Preprocessing` changed, as `face`, `size` or `frames`.

    Lists, as JSON and YAML have them, do for tuples.

    Raises:
        MerFastError: no such network, no such setting, or one out of range.
    """
    known = NETWORK_INPUTS.get(network.lower()) if isinstance(network, str) else None
    if known is None:
        raise MerFastError(f"network_input: network must be one of {', '.join(NETWORK_INPUTS)}, got {network!r}")
    unknown = [name for name in changes if name not in Preprocessing.__dataclass_fields__]
    if unknown:
        raise MerFastError(
            f"network_input: {unknown[0]} is no setting; there are {', '.join(Preprocessing.__dataclass_fields__)}"
        )
    settings: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in changes.items()}
    return replace(known, settings=replace(known.settings, **settings))


def _kept(part: torch.Tensor | None) -> torch.Tensor:
    if part is None:
        raise MerFastError("the cache did not keep what this network reads: take the settings of network_input")
    return part
