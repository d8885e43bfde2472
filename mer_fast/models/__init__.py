"""The published networks, built on `mer_fast.nn` where it is faster. All give logits (N, num_classes)."""

from __future__ import annotations

from typing import Any

import torch

from ..errors import MerFastError
from .atnet import ATNet
from .microexpfusenet import MicroExpFuseNet
from .microexpstcnn import MicroExpSTCNN
from .strcna import STRCNA
from .strcng import STRCNG
from .ststnet import STSTNet

__all__ = ["STRCNA", "STRCNG", "ATNet", "MicroExpFuseNet", "MicroExpSTCNN", "STSTNet", "create"]

_NETWORKS: dict[str, type[torch.nn.Module]] = {
    "atnet": ATNet,
    "microexpstcnn": MicroExpSTCNN,
    "microexpfusenet": MicroExpFuseNet,
    "strcn-a": STRCNA,
    "strcn-g": STRCNG,
    "ststnet": STSTNet,
}


def create(name: str, num_classes: int, **kwargs: Any) -> torch.nn.Module:
    """A network by its name.

    Args:
        name: "strcn-g", "strcn-a", "microexpstcnn", "microexpfusenet", "atnet" or "ststnet", in any case.
        num_classes: how many logits.
        kwargs: of the network's class.

    Raises:
        MerFastError: unknown name, or what the class raises.
    """
    network = _NETWORKS.get(name.lower()) if isinstance(name, str) else None
    if network is None:
        raise MerFastError(f"models.create: name must be one of {', '.join(sorted(_NETWORKS))}, got {name!r}")
    return network(num_classes, **kwargs)
