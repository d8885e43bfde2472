"""4DME (Li et al., "4DME: a spontaneous 4D micro-expression dataset with multimodalities", IEEE Trans. Affective Computing 14(4),
2023)."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import ClassVar

from mer_fast.data.readers.base import Reader
from mer_fast.data.readers.frames import has_images
from mer_fast.data.readers.labels import LabelMap, same
from mer_fast.data.readers.sheets import Column
from mer_fast.data.readers.tree import Tree

_WORDS = ("negative", "positive", "surprise", "repression", "others")
_STEMS = {"negativ": "negative", "positiv": "positive", "surpris": "surprise", "repress": "repression", "other": "others"}
_SINGLE = {"negative": "negative", "repression": "negative", "positive": "positive", "surprise": "surprise"}


def _blended(single: LabelMap) -> LabelMap:
    """The map of words and of pairs whose two words have one class."""
    pairs = itertools.combinations(sorted(_WORDS), 2)
    same_class = {"+".join(pair): single[pair[0]] for pair in pairs if single.get(pair[0]) == single.get(pair[1]) is not None}
    return {**single, **same_class}


class FourDme(Reader):
    """4DME's micro-expressions, 60 frames a second.

    Expected: `4DME_Labelling_Micro*.xlsx` (sub_ID, fold_name, Emotion, Onset, Apex, Offset, AUs) and the gray frames,
    `gray_micro/{sub_ID}/{fold_name}/*.jpg`, somewhere below the folder. A clip may have two emotions: they are joined by "+" in
    alphabetical order ("negative+surprise"), and such a clip has a class only where both words have the same. Uncertain: how the
    table writes two emotions, and the names of the images.
    """

    key = "4dme"
    title = "4DME"
    fps = 60.0
    columns = (
        Column("subject", "sub_ID", ("Subject",)),
        Column("name", "fold_name", ("Filename", "folder_name")),
        Column("emotion", "Emotion", ()),
        Column("onset", "Onset", ()),
        Column("apex", "Apex", (), needed=False),
        Column("offset", "Offset", ()),
        Column("action_units", "AUs", ("AU",), needed=False),
    )
    extras = ("fold", "eye blink", "Positive", "Negative", "Surprise", "Repression", "Others", "Total", "Length")
    sheet_name = re.compile(r"4d.*me")
    folder_hint = re.compile(r"4d_?m|^gray_micro")
    layout = "sub_ID/fold_name"
    subject_folder = re.compile(r"(?!)")
    subject_example = "its folder's name"
    emotions: ClassVar = {
        **{word: word for word in _WORDS},
        **{name: name for pair in itertools.combinations(sorted(_WORDS), 2) for name in ["+".join(pair)]},
    }
    three_four_five: ClassVar = {
        "3-class": _blended(_SINGLE), "4-class": _blended({**_SINGLE, "others": "others"}), "5-class": same(*_WORDS),
    }  # fmt: skip

    def subject_of(self, text: str) -> str | None:
        return text

    def emotion_of(self, text: str) -> str | None:
        parts = [part for part in re.split(r"[\s+,/&;]+|\band\b", text.casefold()) if part]
        words = {next((word for stem, word in _STEMS.items() if part.startswith(stem)), part) for part in parts}
        return self.emotions.get("+".join(sorted(words)))

    def is_root(self, tree: Tree, folder: Path) -> bool:
        subjects = [folder / name for name in tree.children(folder)[:3]]
        return any(has_images(subject / name) for subject in subjects for name in tree.children(subject)[:3])
