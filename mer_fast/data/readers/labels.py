"""Label maps: from the owner's emotion to the classes that papers report.

"original" keeps the owner's words. "3-class" is negative, positive, surprise by the rule of the MEGC2019 composite: for CASME II
disgust and repression are negative and sadness, fear and others have no class; for every other set whose words are basic
emotions, anger, contempt, disgust, sadness and fear are negative. "4-class" is that and others. "5-class" is the set's five
usual words.

Uncertain, since published code disagrees: whether CASME II's sadness and fear are negative (seven and two clips), and in four
classes whether repression is negative (here, as in three) or others; for CASME and MMEW, whose three and four classes no
protocol fixes, repression is negative and tense others (CASME), and MMEW's repression is its others. Pass a mapping of your own
{emotion: class} as `labels` for anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mer_fast.errors import MerFastError

THREE = ("negative", "positive", "surprise")
FOUR = (*THREE, "others")

LabelMap = Mapping[str, str]

_NEGATIVE = ("anger", "contempt", "disgust", "sadness", "fear")


def grouped(negative: tuple[str, ...] = _NEGATIVE, others: tuple[str, ...] = ("others",)) -> dict[str, LabelMap]:
    """The 3-class and 4-class maps of a set whose words are basic emotions."""
    three = {**dict.fromkeys(negative, "negative"), "happiness": "positive", "surprise": "surprise"}
    return {"3-class": three, "4-class": {**three, **dict.fromkeys(others, "others")}}


def same(*words: str) -> LabelMap:
    """A map that keeps these words and has no class for the rest."""
    return {word: word for word in words}


def classes_of(labels: LabelMap) -> tuple[str, ...]:
    """The classes of a map: negative, positive, surprise, others in this order, other classes in that of the map."""
    found = tuple(dict.fromkeys(labels.values()))
    return tuple(name for name in FOUR if name in found) if set(found) <= set(FOUR) else found


def chosen_map(
    title: str, maps: Mapping[str, LabelMap], labels: str | LabelMap, emotion_of: Callable[[str], str | None]
) -> LabelMap:
    """The map that `labels` names, or `labels` itself with its emotions in the spelling of the data set's clips.

    Args:
        title: of the data set.
        maps: its maps by name; that of "original" has all its emotions.
        labels: a name, or {emotion: class}.
        emotion_of: gives the one spelling of an emotion, None where it is none.

    Raises:
        MerFastError: this data set has no such map or no such emotion, an emotion has two classes, or a class is no name.
    """
    if not isinstance(labels, str):
        return _own_map(title, labels, emotion_of, ", ".join(maps["original"]))
    if labels not in maps:
        raise MerFastError(f'labels="{labels}" is not defined for {title}: choose {", ".join(maps)}, or give {{emotion: class}}')
    return maps[labels]


def _own_map(title: str, labels: LabelMap, emotion_of: Callable[[str], str | None], known: str) -> LabelMap:
    if not isinstance(labels, Mapping) or not labels:
        raise MerFastError(f"labels must be the name of a map or {{emotion: class}}, got {labels!r}")
    found: dict[str, str] = {}
    for word, name in labels.items():
        emotion = emotion_of(word) if isinstance(word, str) else None
        if emotion is None:
            raise MerFastError(f"labels: {word!r} is no emotion of {title}: they are {known}")
        if not isinstance(name, str) or not name:
            raise MerFastError(f"labels: the class of {word!r} must be a name, got {name!r}")
        if found.setdefault(emotion, name) != name:
            raise MerFastError(f'labels: {emotion} has two classes, "{found[emotion]}" and "{name}": give it one')
    return found
