"""Readers of licensed data sets in their owners' folders and tables; what each expects is in the docstring of its class."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from mer_fast.data.readers.base import Progress, Reader
from mer_fast.data.readers.casme import Casme
from mer_fast.data.readers.casme2 import CasmeTwo
from mer_fast.data.readers.casme3 import CasmeThree
from mer_fast.data.readers.casme_sq import CasmeSquared
from mer_fast.data.readers.clip import Clip, ClipSet
from mer_fast.data.readers.dfme import Dfme
from mer_fast.data.readers.faults import Fault, FaultReport, Kind
from mer_fast.data.readers.finding import recognise
from mer_fast.data.readers.fourdme import FourDme
from mer_fast.data.readers.labels import LabelMap
from mer_fast.data.readers.mmew import Mmew
from mer_fast.data.readers.override import Listing, find_listing, read_listing, squeezed_name, write_clips
from mer_fast.data.readers.samm import Samm
from mer_fast.data.readers.smic import Smic
from mer_fast.errors import MerFastError

__all__ = [
    "READERS", "Clip", "ClipSet", "Fault", "FaultReport", "Kind", "LabelMap", "Reader", "read_clips", "reader_of", "recognised",
    "write_clips",
]  # fmt: skip

READERS: dict[str, Reader] = {
    reader.key: reader
    for reader in (Smic(), Casme(), CasmeTwo(), CasmeSquared(), Samm(), Mmew(), CasmeThree(), FourDme(), Dfme())
}
_ALIASES = {"cas(me2": "casme_sq", "cas(me^3": "casme3", "cas(me3": "casme3", "casme3a": "casme3"}
SPELLINGS: dict[str, str] = {
    **{squeezed_name(name): reader.key for reader in READERS.values() for name in (reader.key, reader.title)},
    **_ALIASES,
}


def reader_of(dataset: str) -> Reader:
    """The reader of a data set, by its key or its owners' name in any spelling ("casme2", "CASME II").

    Raises:
        MerFastError: there is no such data set.
    """
    key = SPELLINGS.get(squeezed_name(dataset))
    if key is None:
        raise MerFastError(f'dataset "{dataset}" is not known: choose one of {", ".join(READERS)}')
    return READERS[key]


def recognised(folder: str | os.PathLike[str]) -> Reader:
    """The reader of the data set that lies in a folder, told by its table, its folders' names and its layout.

    Raises:
        MerFastError: it is none of them, or may be two.
    """
    if not Path(folder).is_dir():
        raise MerFastError(f"{folder} is not a folder: give the folder of a data set")
    found = recognise(READERS.values(), Path(folder))
    if not found:
        known = ", ".join(READERS)
        raise MerFastError(f"{folder} looks like none of the data sets ({known}): name its data set, or give its own folder")
    likeliest = [reader.key for score, reader in found if score == found[0][0]]
    if len(likeliest) > 1:
        raise MerFastError(f"{folder} may be {' or '.join(likeliest)}, as there is no table that tells: name its data set")
    return found[0][1]


def listing_of(path: Path | None, reader: Reader) -> Callable[[FaultReport], Listing | None]:
    """What reads a data set's rows of a clips.csv; nothing where there is no such file."""

    def read(faults: FaultReport) -> Listing | None:
        return None if path is None else read_listing(path, reader, SPELLINGS, faults)

    return read


def read_clips(
    dataset: str,
    folder: str | os.PathLike[str],
    labels: str | LabelMap = "3-class",
    *,
    frames: str | None = None,
    clips_csv: str | os.PathLike[str] | bool = True,
    strict: bool = True,
    verify: bool = False,
    progress: Progress = lambda stage, done, total: None,
) -> ClipSet:
    """Reads a data set from the folder that its owners ship.

    Args:
        dataset: "smic", "casme", "casme2", "casme_sq", "samm", "mmew", "casme3", "4dme" or "dfme".
        folder: the folder with the annotation table and the frames; what is expected there is in the docstring of the reader,
            `reader_of(dataset)`.
        labels: "original", "3-class", "4-class", "5-class" where the set has it, or a mapping {emotion: class}. Clips whose
            emotion has no class are not among the result, but counted in `left_out`.
        frames: part of the name of the folder whose frames are read, such as "Cropped", where there are several versions.
        clips_csv: a clips.csv that chooses and labels the clips; True takes the one in the folder if there is one, False none.
        strict: raise when a fault costs clips; otherwise the good clips are returned, and the faults in `faults`.
        verify: look into every image whether it is whole, not only at its size.
        progress: is told the stage, how much is done, and of how much.

    Returns:
        The clips, in the order of the table.

    Raises:
        MerFastError: an unknown data set or label map, no such folder, pandas or openpyxl is not installed, or, with `strict`,
            faults that cost clips: the first few, and how many there are.
    """
    reader = reader_of(dataset)
    listing = listing_of(find_listing(Path(folder), clips_csv), reader)
    return reader.read(folder, labels, frames=frames, listing=listing, strict=strict, verify=verify, progress=progress)
