"""From what was given on the command line to clips, each with a name of its own in the output."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from mer_fast.data._capture import IMAGE_SUFFIXES, natural_order
from mer_fast.flows.clips import Clip, Failure, reason_of
from mer_fast.flows.lists import Entry, read_list

VIDEO_SUFFIXES = frozenset(
    (".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".webm", ".wmv")
)


def find_clips(
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    files: Callable[[str], Sequence[str]] = lambda name: [name],
) -> tuple[list[Clip], list[Failure]]:
    """The clips of videos, folders and `.txt` lists, in the order given, folders in natural order.

    A folder is walked through: each folder in it that holds images is a clip, and so is each file with a video's ending. Hidden
    files, and the output folder, are passed over. A single folder's clips are named by their path in it; those of several inputs
    by the input's name before it, with as many of its parent folders as tell it from the others.

    Args:
        inputs: videos, folders and lists.
        output: where the flow will go.
        files: what a clip of a name would have in the output; no two clips share one of them.

    Returns:
        The clips, and what could not be one: an unreadable folder or list, an image alone, a wrong line of a list.
    """
    entries: list[Entry] = []
    failures: list[Failure] = []
    for given in map(Path, inputs):
        try:
            for entry in read_list(given) if _is_list(given) else [Entry(given, Path(_own_name(given)))]:
                if isinstance(entry, Entry):
                    entries.append(entry)
                else:
                    failures.append(Failure(str(given), str(entry)))
        except OSError as error:
            failures.append(Failure(str(given), reason_of(error)))
    alone = len(inputs) == 1 and os.path.isdir(inputs[0])
    clips: list[Clip] = []
    for entry, label in zip(entries, _labels(entries), strict=True):
        for one in _clips(entry, "" if alone else label, os.path.realpath(output)):
            if isinstance(one, Clip):
                clips.append(one)
            else:
                failures.append(one)
    return _named_once(clips, files, failures), failures


def _is_list(path: Path) -> bool:
    return path.suffix.lower() == ".txt" and not os.path.isdir(path)


def _own_name(path: Path) -> str:
    return os.path.basename(os.path.abspath(path))


def _labels(entries: list[Entry]) -> list[str]:
    """The last parts of each path: as many as its label has, and more where another path has the same."""
    parts = [Path(os.path.abspath(entry.path)).parts[1:] for entry in entries]
    lengths = [len(entry.label.parts) for entry in entries]
    while True:
        labels = ["/".join(part[-length:]) for part, length in zip(parts, lengths, strict=True)]
        same = Counter(label for label, _ in {*zip(labels, parts, strict=True)})
        longer = [min(length + (same[label] > 1), len(part)) for label, length, part in zip(labels, lengths, parts, strict=True)]
        if longer == lengths:
            return labels
        lengths = longer


def _clips(entry: Entry, label: str, output: str) -> Iterator[Clip | Failure]:
    path = entry.path
    if entry.second is not None:
        yield Clip(f"{label}-{entry.second.name}", path, entry.second)
    elif os.path.isdir(path):
        found = list(_walk(path, label, _own_name(path), output, (os.path.realpath(path),)))
        if not found:
            yield Failure(str(path), f"{path} holds no video and no image: give a folder of clips")
        elif entry.onset is not None and len(found) > 1:
            yield Failure(label, f"{path} holds {len(found)} clips, and an onset is that of one: list each by itself")
        else:
            yield from (_numbered(one, entry) if isinstance(one, Clip) else one for one in found)
    elif path.suffix.lower() in IMAGE_SUFFIXES and os.path.isfile(path):
        yield Failure(label, f"{path} is one image: give two, or the folder that holds the clip's frames")
    else:
        yield _numbered(Clip(label, path), entry)


def _numbered(clip: Clip, entry: Entry) -> Clip:
    """A long video may have many expressions: each has its frames in its name."""
    frames = "-".join(str(frame) for frame in (entry.onset, entry.apex) if frame is not None)
    return replace(clip, name=f"{clip.name}.{frames}" if frames else clip.name, onset=entry.onset, apex=entry.apex)


def _walk(folder: Path, name: str, own: str, output: str, above: tuple[str, ...]) -> Iterator[Clip | Failure]:
    """`name` is the folder's in the output, `own` what the clip is called whose images the outermost folder holds itself."""
    try:
        shown = (child for child in folder.iterdir() if not child.name.startswith("."))
        children = sorted(shown, key=lambda child: natural_order(child.name))
    except OSError as error:
        yield Failure(name or own, reason_of(error))
        return
    folders = {child for child in children if os.path.isdir(child)}
    if any(child.suffix.lower() in IMAGE_SUFFIXES and child not in folders for child in children):
        yield Clip(name or own, folder)
    for child in children:
        inner = f"{name}/{child.name}" if name else child.name
        if child in folders:
            real = os.path.realpath(child)
            if real != output and real not in above:  # a link to a folder above would lead round for ever
                yield from _walk(child, inner, own, output, (*above, real))
        elif child.suffix.lower() in VIDEO_SUFFIXES:
            yield Clip(inner, child)


def _named_once(clips: list[Clip], files: Callable[[str], Sequence[str]], failures: list[Failure]) -> list[Clip]:
    """Drops what is given twice; of two that differ and would have one name, or one file, the second is a failure."""
    known: dict[str, Clip] = {}
    owners: dict[str, Clip] = {}
    for clip in clips:
        first = known.get(clip.name)
        if first is None:
            wanted = files(clip.name)
            shared = next((file for file in wanted if file in owners), None)
            if shared is None:
                known[clip.name] = clip
                owners.update(dict.fromkeys(wanted, clip))
            else:
                failures.append(Failure(clip.name, f"{clip.path}: {shared} is {owners[shared].path}'s too: rename one of them"))
        elif os.path.realpath(first.path) != os.path.realpath(clip.path) or first.second != clip.second:
            failures.append(Failure(clip.name, f"{clip.path}: {first.path} has the same name in the output: rename one of them"))
    return list(known.values())
