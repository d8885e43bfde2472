"""The `data` of a plan: where the clips come from, and the data set that is made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import data
from .data import Cache, CachedClips, NetworkInput, read_clips, read_composite, recognised
from .errors import MerFastError

Progress = Callable[[str, int, int | None], None]

# What each kind of source may say besides the setting that tells its kind.
KINDS: dict[str, tuple[str, ...]] = {
    "synthetic": (),
    "composite": ("frames", "clips_csv"),
    "folder": ("dataset", "labels", "frames", "clips_csv"),
}


@dataclass(frozen=True)
class Data:
    """Clips as they are trained on.

    Attributes:
        clips: each with its subject and frames.
        dataset: their inputs and labels.
        classes: names, in the order of the labels.
        notes: what is to be known about how many there are.
    """

    clips: Sequence[Any]
    dataset: CachedClips
    classes: tuple[str, ...]
    notes: tuple[str, ...]


def checked_data(given: Any) -> tuple[Mapping[str, Any], ...]:
    """The sources that `data` names, one or a list; nothing is read yet.

    Raises:
        MerFastError: a source of no kind, of two, or with a setting that does not go with its kind.
    """
    sources = tuple(given) if isinstance(given, list) else (given,)
    for source in sources:
        if not isinstance(source, Mapping):
            raise MerFastError(f"data must hold settings by name, one of them {', '.join(KINDS)}, got {source!r}")
        kinds = [kind for kind in KINDS if kind in source]
        if len(kinds) != 1:
            raise MerFastError(
                f"data must have one of {', '.join(KINDS)}, got {' and '.join(kinds) or ', '.join(source) or 'none'}"
            )
        known = (kinds[0], *KINDS[kinds[0]])
        unknown = [name for name in source if name not in known]
        if unknown:
            raise MerFastError(f"data.{unknown[0]} is no setting beside data.{kinds[0]}; there are {', '.join(known)}")
        _check_values(source)
    if not sources:
        raise MerFastError("data names no source")
    return sources


def _check_values(source: Mapping[str, Any]) -> None:
    kinds = {"folder": str, "dataset": str, "frames": str, "labels": (str, Mapping), "composite": (str, Mapping),
             "clips_csv": (str, bool), "synthetic": Mapping}  # fmt: skip
    for name, value in source.items():
        if name == "synthetic" and value is None:
            continue
        if not isinstance(value, kinds[name]):  # type: ignore[arg-type]
            raise MerFastError(f"data.{name} has a value of a wrong kind: {value!r}")


def read_data(sources: Sequence[Mapping[str, Any]], network_input: NetworkInput, cache: Path, progress: Progress) -> Data:
    """Reads the clips, and preprocesses those that the cache does not have.

    Raises:
        MerFastError: what the readers, preprocessing and the cache raise; sources of unlike classes.
    """
    read = [_read(source, progress) for source in sources]
    classes = {tuple(one.classes) for one in read}
    if len(classes) > 1:
        words = " and ".join(", ".join(names) for names in sorted(classes))
        raise MerFastError(f"data: the sources have classes of their own ({words}): give them labels alike, such as 3-class")
    clips = read[0] if len(read) == 1 else [clip for one in read for clip in one]
    if not len(clips):
        raise MerFastError("data: there is no clip that has one of the classes")
    targets = [target for one in read for target in one.targets]
    store = Cache(cache, network_input.settings)
    store.build(clips, progress)
    notes = tuple(line for one in read for line in getattr(one, "explanation", ()))
    return Data(clips, CachedClips(clips, store, network_input.make, targets), classes.pop(), notes)


def _read(source: Mapping[str, Any], progress: Progress) -> Any:
    others = {name: value for name, value in source.items() if name in ("labels", "frames", "clips_csv")}
    if "synthetic" in source:
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in (source["synthetic"] or {}).items()}
        try:
            return data.SyntheticSet(**given)
        except TypeError as error:
            raise MerFastError(f"data.synthetic: {error}") from error
    if "composite" in source:
        return read_composite(source["composite"], progress=progress, **others)
    folder = source["folder"]
    return read_clips(source.get("dataset") or recognised(folder).key, folder, progress=progress, **others)
