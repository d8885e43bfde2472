"""Training that can be repeated: recipes, a plain loop, checkpoints, logs."""

from .augmentation import AUGMENTATIONS, Augmentation
from .batches import collate, forward, predict
from .loop import Trained, fit
from .network_file import SavedNetwork, load_network, save_network
from .order import epoch_batches
from .recipe import Recipe
from .statistics import STATISTICS, Changes, Normalised, Standardised

__all__ = [
    "AUGMENTATIONS",
    "STATISTICS",
    "Augmentation",
    "Changes",
    "Normalised",
    "Recipe",
    "SavedNetwork",
    "Standardised",
    "Trained",
    "collate",
    "epoch_batches",
    "fit",
    "forward",
    "load_network",
    "predict",
    "save_network",
]
