"""Each reader names each fault planted in its folder: which kind, which clip, which row, and goes on with the good clips."""

from __future__ import annotations

import shutil
import zipfile
from collections import Counter

import pytest

from mer_fast.data import make_example_folder, read_clips
from mer_fast.data.readers import READERS, Kind
from mer_fast.errors import MerFastError

from .planted import Folder, plants_for

CASES = [pytest.param(key, plant, id=f"{key}-{plant.__name__}") for key in READERS for plant in plants_for(key)]
CLIPS = 9


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """An example folder of each data set with nothing wrong, and its clips."""
    made = {}

    def get(key):
        if key not in made:
            folder = make_example_folder(key, tmp_path_factory.mktemp("sound") / key, clips=CLIPS, seed=5)
            made[key] = folder, read_clips(key, folder, "original")
        return made[key]

    return get


@pytest.fixture
def folder(sound, tmp_path, request):
    """A copy to spoil; the clip that suffers is one that shares its subject with no other."""
    key = request.getfixturevalue("key")
    top = tmp_path / key
    shutil.copytree(sound(key)[0], top)
    clips = read_clips(key, top, "original")
    alone = Counter(clips.subjects)
    clip = next(clip for clip in list(clips)[CLIPS // 2 :] if alone[clip.subject] == 1)
    return Folder(key, top, clip)


@pytest.mark.parametrize(("key", "plant"), CASES)
def test_a_planted_fault_is_named(key, plant, folder):
    told = plant(folder)
    clips = read_clips(key, folder.top, "original", strict=False)
    named = [fault for fault in clips.faults if fault.kind is told.kind]
    assert named, [str(fault) for fault in clips.faults]
    assert len(clips.faults) == 1 or told.clips_lost == -1, [str(fault) for fault in clips.faults]
    assert all(word in str(named[0]) for word in told.words), str(named[0])
    assert named[0].row == told.row and named[0].dataset == key
    assert len(clips) == (0 if told.clips_lost == -1 else CLIPS - told.clips_lost)
    assert named[0].clip_kept == (told.clips_lost == 0 and plant.__name__ not in ("duplicate_row", "repeated_name"))
    if clips.faults.costly:
        with pytest.raises(MerFastError, match="cost") as error:
            read_clips(key, folder.top, "original")
        assert str(named[0]) in str(error.value)
        assert "\n" not in str(error.value) and "strict=False" in str(error.value)
    else:
        assert read_clips(key, folder.top, "original").clips == clips.clips


def test_all_faults_are_collected_and_the_first_few_raised(tmp_path):
    top = make_example_folder("samm", tmp_path / "samm", clips=CLIPS)
    for clip in read_clips("samm", top, "original"):
        clip.frames[0].unlink()
    clips = read_clips("samm", top, "original", strict=False)
    assert len(clips) == 0 and len(clips.faults) == CLIPS
    with pytest.raises(MerFastError, match=rf"SAMM in .*: {CLIPS} faults cost clips: .* and {CLIPS - 3} more"):
        read_clips("samm", top, "original")


def spoilt(key, tmp_path, **cells):
    """An example folder with cells of its third clip overwritten; that clip as it was, and what is read now."""
    top = make_example_folder(key, tmp_path / key, clips=CLIPS)
    clip = read_clips(key, top, "original")[2]
    for role, value in cells.items():
        Folder(key, top, clip).set(role, value)
    return clip, read_clips(key, top, "original", strict=False)


def test_the_second_apex_of_casme_stands_in_for_the_first(tmp_path):
    clip, clips = spoilt("casme", tmp_path, apex="", apex2=0)
    assert [fault.kind for fault in clips.faults] == [Kind.missing_apex] and clips[2].apex is None
    clip, clips = spoilt("casme", tmp_path / "second", apex="/", apex2=clip.apex + 1)
    assert len(clips.faults) == 0 and clips[2].apex_index == clip.apex_index + 1


def test_a_row_that_is_neither_micro_nor_macro_is_told(tmp_path):
    _, clips = spoilt("casme_sq", tmp_path, kind="mirco-expresion")
    assert [str(fault.kind.value) for fault in clips.faults] == ["missing value"] and len(clips) == CLIPS - 1
    assert 'type "mirco-expresion" is neither' in str(clips.faults.faults[0]) and clips.faults.faults[0].column == "type"


def test_a_frame_rate_that_is_none_is_told(tmp_path):
    _, clips = spoilt("dfme", tmp_path, fps="fast")
    assert '"fast" is no frame rate: 200 is taken' in str(clips.faults.faults[0]) and clips[2].fps == 200


def test_without_offset_a_clip_of_a_longer_video_is_lost(tmp_path):
    clip, clips = spoilt("casme3", tmp_path, offset="")
    assert len(clips) == CLIPS - 1 and "has no offset: left out" in str(clips.faults.faults[0])
    clip, clips = spoilt("samm", tmp_path, offset="")
    assert clips[2].offset == clip.offset and f"last frame {clip.offset}" in str(clips.faults.faults[0])


def test_a_clip_of_smic_in_the_wrong_emotions_folder(tmp_path):
    top = make_example_folder("smic", tmp_path / "smic", clips=CLIPS)
    clip = next(clip for clip in read_clips("smic", top) if clip.emotion == "negative")
    other = clip.folder.parent.parent / "positive"
    other.mkdir(exist_ok=True)
    clip.folder.rename(other / clip.name)
    clips = read_clips("smic", top, strict=False)
    assert len(clips) == CLIPS - 1
    assert f"{clip.key} is called negative and lies in the folder positive" in str(clips.faults.faults[0])


def test_a_label_map_takes_any_spelling_and_no_unknown_word(tmp_path):
    top = make_example_folder("casme2", tmp_path / "casme2", clips=30)
    plain = read_clips("casme2", top, {"surprise": "sudden", "others": "rest"}).counts()
    assert min(plain.values()) > 0 and read_clips("casme2", top, {" Surprise": "sudden", "other": "rest"}).counts() == plain
    for labels, message in [
        ({"happy": "good"}, "labels: 'happy' is no emotion of CASME II: they are happiness, "),
        ({True: "good"}, "labels: True is no emotion"),
        ({"happiness": 1}, "labels: the class of 'happiness' must be a name, got 1"),
        ({"others": "a", "other": "b"}, 'labels: others has two classes, "a" and "b"'),
        ({}, "labels must be the name of a map or"),
    ]:
        with pytest.raises(MerFastError, match=message):
            read_clips("casme2", top, labels)


def damage(path, inner, content, flip=False):
    """Replaces a part of an .xlsx file, or breaks its compressed bytes."""
    with zipfile.ZipFile(path) as book:
        parts = {name: book.read(name) for name in book.namelist()}
    parts[inner] = content or parts[inner]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
        for name, part in parts.items():
            book.writestr(name, part)
        start = book.getinfo(inner).header_offset + 30 + len(inner)
    if flip:
        data = bytearray(path.read_bytes())
        data[start : start + 20] = b"\xff" * 20
        path.write_bytes(data)


@pytest.mark.parametrize("flip", [False, True])
def test_a_damaged_workbook_is_a_fault_that_names_it(tmp_path, flip):
    top = make_example_folder("casme2", tmp_path / "casme2", clips=3)
    sheet = next(top.glob("*.xlsx"))
    damage(sheet, "xl/worksheets/sheet1.xml", b"" if flip else b"<worksheet><sheetData><row>", flip)
    with pytest.raises(MerFastError, match=f"{sheet.name}: is not a readable .xlsx file"):
        read_clips("casme2", top)


def test_a_text_table_with_an_endless_field_is_a_fault_that_names_it(tmp_path):
    top = make_example_folder("casme2", tmp_path / "casme2", clips=3)
    sheet = next(top.glob("*.xlsx"))
    table = sheet.with_suffix(".csv")
    sheet.unlink()
    table.write_text('Subject,Filename,OnsetFrame\n"' + "1,2,3\n" * 30_000)
    with pytest.raises(MerFastError, match=f"{table.name}: is not a readable .csv file"):
        read_clips("casme2", top)
