"""Readers of licensed data sets: every clip of an example folder found, and the ways in which copies of a set differ."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import openpyxl
import pytest

from mer_fast.data import make_example_folder, read_clips, recognised
from mer_fast.data._optional import require
from mer_fast.data.readers import READERS, Kind, reader_of
from mer_fast.data.readers.examples import EXAMPLES
from mer_fast.data.readers.frames import is_whole_image, ranges
from mer_fast.data.readers.published import PUBLISHED
from mer_fast.data.readers.sheets import Column, read_worksheets, renamed, whole_number, with_header
from mer_fast.errors import MerFastError

from .clips import listing

WHOLE = {key: None if key != "dfme" else 300 for key in READERS}


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """The example folder of a data set with all its clips; DFME's with 300."""
    made: dict[str, Path] = {}

    def get(key: str) -> Path:
        if key not in made:
            made[key] = make_example_folder(key, tmp_path_factory.mktemp("example") / key, clips=WHOLE[key], frames=3)
        return made[key]

    return get


@pytest.mark.parametrize("key", READERS)
def test_every_clip_of_the_example_is_found(example, key):
    clips = read_clips(key, example(key), "original", verify=True)
    published = PUBLISHED[key]
    assert len(clips.faults) == 0
    assert len(clips) == (WHOLE[key] or published.clips)
    assert len({clip.key for clip in clips}) == len(clips)
    assert all(path.is_file() for clip in clips for path in clip.frames)
    subjects = published.subjects or published.likely_subjects
    assert len(set(clips.subjects)) == (subjects if WHOLE[key] is None and subjects else len(set(clips.subjects)))
    emotions = published.emotions or published.likely_emotions
    if emotions is not None:
        assert Counter(clip.emotion for clip in clips) == emotions
    images = [path for path in example(key).rglob("*") if path.suffix in (".jpg", ".png", ".bmp")]
    assert len(images) == 3 * len(clips) == sum(len(clip.files) for clip in clips)


@pytest.mark.full
def test_every_clip_of_dfme_is_found(tmp_path):
    clips = read_clips("dfme", make_example_folder("dfme", tmp_path / "dfme", frames=3), "original")
    assert len(clips) == 7526 and len(set(clips.subjects)) == 671 and len(clips.faults) == 0


@pytest.mark.parametrize("key", READERS)
def test_frame_numbers_lead_to_the_files(example, key):
    for clip in read_clips(key, example(key), "original"):
        assert (clip.onset_index, clip.offset_index) == (0, len(clip.files) - 1)
        shown = [int("".join(c for c in name.split("_")[-1] if c.isdigit())) for name in clip.files]
        start = 0 if key == "dfme" else clip.onset
        assert shown == list(range(start, start + clip.offset - clip.onset + 1))
        if key == "smic":
            assert clip.apex is None and clip.apex_index is None and clip.peak_index == 1
        else:
            assert clip.apex - clip.onset == clip.apex_index == clip.peak_index


def test_clips_know_their_rates_units_and_subjects(example):
    rates = {key: {clip.fps for clip in read_clips(key, example(key), "original")} for key in READERS}
    assert rates == {
        "smic": {100}, "casme": {60}, "casme2": {200}, "casme_sq": {30}, "samm": {200}, "mmew": {90}, "casme3": {30},
        "4dme": {60}, "dfme": {200, 300, 500},
    }  # fmt: skip
    subjects = {key: read_clips(key, example(key), "original")[0].subject for key in READERS}
    assert subjects == {
        "smic": "smic/s01", "casme": "casme/sub01", "casme2": "casme2/sub01", "casme_sq": "casme_sq/s15", "samm": "samm/006",
        "mmew": "mmew/S01", "casme3": "casme3/spNO.1", "4dme": "4dme/S1", "dfme": "dfme/001",
    }  # fmt: skip
    units = {clip.emotion: clip.action_units for clip in read_clips("casme2", example("casme2"), "original")}
    assert units["surprise"] == ("1", "2") and units["disgust"] == ("4", "R9") and units["happiness"] == ("12",)


def test_label_maps(example):
    def counts(key: str, labels: object) -> dict[str, int]:
        return read_clips(key, example(key), labels).counts()

    assert counts("casme2", "3-class") == {"negative": 90, "positive": 32, "surprise": 25}
    assert counts("casme2", "4-class") == {"negative": 90, "positive": 32, "surprise": 25, "others": 99}
    assert counts("casme2", "5-class") == {"happiness": 32, "disgust": 63, "surprise": 25, "repression": 27, "others": 99}
    assert counts("samm", "3-class") == {"negative": 92, "positive": 26, "surprise": 15}
    assert counts("samm", "5-class") == {"anger": 57, "contempt": 12, "happiness": 26, "surprise": 15, "others": 26}
    assert counts("smic", "3-class") == counts("smic", "original") == {"negative": 70, "positive": 51, "surprise": 43}
    assert counts("casme3", "4-class") == {"negative": 457, "positive": 55, "surprise": 187, "others": 161}
    assert counts("4dme", "3-class") == {"negative": 148, "positive": 34, "surprise": 30}
    assert counts("casme2", {"disgust": "bad", "happiness": "good"}) == {"bad": 63, "good": 32}
    left = read_clips("casme2", example("casme2")).left_out
    assert left == {"others": 99, "sadness": 7, "fear": 2}


def test_targets_are_indices_into_the_classes(example):
    clips = read_clips("casme2", example("casme2"))
    assert clips.classes == ("negative", "positive", "surprise")
    assert [clips.classes[target] for target in clips.targets] == [clip.label for clip in clips]
    assert repr(clips) == "ClipSet(147 clips of 24 subjects: negative 90, positive 32, surprise 25; 0 faults)"
    assert clips.subjects == [clip.subject for clip in clips] and len(clips[:5]) == 5


def test_an_unknown_label_map_or_data_set_is_an_error(example):
    with pytest.raises(MerFastError, match='labels="5-class" is not defined for SMIC-HS: choose original, 3-class'):
        read_clips("smic", example("smic"), "5-class")
    with pytest.raises(MerFastError, match='dataset "fer2013" is not known: choose one of smic, casme'):
        read_clips("fer2013", example("smic"))
    with pytest.raises(MerFastError, match="nowhere is not a folder"):
        read_clips("smic", "nowhere")


@pytest.mark.parametrize(
    ("name", "key"),
    [("CASME II", "casme2"), ("casme-2", "casme2"), ("CAS(ME)^2", "casme_sq"), ("CAS(ME)^3", "casme3"), ("SMIC-HS", "smic"),
     ("casme_sq", "casme_sq"), ("4DME", "4dme"), ("CAS(ME)^3 A", "casme3")],
)  # fmt: skip
def test_data_sets_go_by_their_owners_names(name, key):
    assert reader_of(name).key == key


@pytest.mark.parametrize("key", READERS)
def test_a_folder_is_recognised(example, key):
    assert recognised(example(key)).key == key


@pytest.mark.parametrize("key", [key for key in READERS if EXAMPLES[key].sheet])
def test_a_table_of_any_name_is_recognised_and_read(key, tmp_path):
    top = make_example_folder(key, tmp_path / "data", clips=8)
    sheet = top / EXAMPLES[key].sheet
    sheet.rename(top / f"labels{sheet.suffix}")
    assert recognised(top).key == key
    assert len(read_clips(key, top, "original")) == 8


def test_recognition_says_when_it_cannot_tell(tmp_path):
    with pytest.raises(MerFastError, match="looks like none of the data sets"):
        recognised(tmp_path)
    (tmp_path / "sub01" / "EP01_1").mkdir(parents=True)
    with pytest.raises(MerFastError, match="may be casme or casme2"):
        recognised(tmp_path)


@pytest.mark.parametrize("key", [key for key in READERS if EXAMPLES[key].sheet and key != "dfme"])
def test_a_table_saved_as_csv_gives_the_same_clips(key, tmp_path):
    """Semicolons, a byte-order mark, blanks and other case in the titles, and numbers as text: all as spreadsheets save them."""
    top = make_example_folder(key, tmp_path / key, clips=20)
    before = read_clips(key, top, "original")
    assert len(before) == 20
    sheet = top / EXAMPLES[key].sheet
    rows = [["" if cell is None else cell for cell in row] for row in openpyxl.load_workbook(sheet).worksheets[0].values]
    if EXAMPLES[key].titles:
        header = rows[EXAMPLES[key].notes]
        header[:] = [f" {str(title).upper()}  " for title in header]
    sheet.unlink()
    with sheet.with_suffix(".csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file, delimiter=";").writerows(rows)
    assert list(read_clips(key, top, "original")) == list(before)


def test_names_differ_in_case_and_zeros(example, tmp_path):
    top = tmp_path / "casme2"
    shutil.copytree(example("casme2"), top)
    before = read_clips("casme2", top)
    for folder in sorted((top / "CASME2_RAW_selected").iterdir()):
        folder.rename(folder.with_name(f"Sub{int(folder.name[3:])}"))
    after = read_clips("casme2", top)
    assert [clip.key for clip in after] == [clip.key for clip in before]


def test_cropped_frames_are_read_when_asked_for(example, tmp_path):
    top = tmp_path / "casme2"
    shutil.copytree(example("casme2"), top)
    shutil.copytree(top / "CASME2_RAW_selected", top / "Cropped")
    video = top / "A_videos" / "sub01"
    video.mkdir(parents=True)
    (video / "EP02_01f.avi").touch()
    assert read_clips("casme2", top).root == top / "CASME2_RAW_selected"
    cropped = read_clips("casme2", top, frames="cropped")
    assert cropped.root == top / "Cropped" and len(cropped) == 147
    with pytest.raises(MerFastError, match=r'frames="aligned": .* has frames of CASME II in CASME2_RAW_selected, Cropped'):
        read_clips("casme2", top, frames="aligned")


def test_of_two_tables_the_later_is_read_and_excels_lock_file_is_none(example, tmp_path):
    top = tmp_path / "casme2"
    shutil.copytree(example("casme2"), top)
    earlier = (top / EXAMPLES["casme2"].sheet).rename(top / "CASME2-coding-20140508.xlsx")
    later = shutil.copy(earlier, top / "CASME2-coding-20190701.xlsx")
    (top / "~$CASME2-coding-20190701.xlsx").write_bytes(b"lock")
    assert read_clips("casme2", top).sheet == Path(later)


def test_the_owners_known_gaps_cost_no_clip(tmp_path):
    """An offset of 0 (CASME II has one), an apex outside the clip and an inner frame missing: kept, and told."""
    top = make_example_folder("casme2", tmp_path / "casme2", clips=6, frames=6)
    book = openpyxl.load_workbook(top / EXAMPLES["casme2"].sheet)
    page = book.worksheets[0]
    page["F3"] = 0
    page["E4"] = 0
    book.save(top / EXAMPLES["casme2"].sheet)
    whole = read_clips("casme2", make_example_folder("casme2", tmp_path / "whole", clips=6, frames=6), "original")
    clips = read_clips("casme2", top, "original")
    assert [fault.kind for fault in clips.faults] == [Kind.missing_apex, Kind.missing_offset]
    assert clips[1].offset == whole[1].offset and clips[2].apex is None
    assert clips[2].peak_index == 2


def test_headerless_table_keeps_its_first_row_and_tells_macro_expressions_apart(example):
    rows = read_worksheets(example("casme_sq") / EXAMPLES["casme_sq"].sheet)["CASFEcode_final"]
    assert len(rows) == 57 + 57 and rows[0][7] == "micro-expression"
    assert read_clips("casme_sq", example("casme_sq"), "original")[0].name == rows[0][1]


def test_frames_of_whole_videos_of_cas_me_squared(tmp_path):
    """rawpic: the folder of a video is found by the naming rules, and a clip has the frames from onset to offset."""
    top = make_example_folder("casme_sq", tmp_path / "sq", clips=8)
    clips = read_clips("casme_sq", top, "original")
    for clip in clips:
        code = {"disgust1": "0101", "anger1": "0401", "happy1": "0502"}[clip.name.split("_")[0]]
        subject = clip.subject.split("/")[1]
        video = top / "rawpic" / subject / f"{subject[1:]}_{code}something"
        video.mkdir(parents=True, exist_ok=True)
        for number in range(clip.onset - 3, clip.offset + 4):
            shutil.copy(clip.frames[0], video / f"img{number}.jpg")
    shutil.rmtree(top / "selectedpic")
    again = read_clips("casme_sq", top, "original")
    assert [(c.key, c.files, c.apex_index) for c in again] == [(c.key, c.files, c.apex_index) for c in clips]
    assert again.root == top / "rawpic"


def test_repeated_file_names_of_cas_me_cubed(tmp_path):
    """Two clips of one video; and the layout of the owners' cut clips, whose folders are written spNo."""
    top = make_example_folder("casme3", tmp_path / "c3", clips=400, frames=3)
    clips = read_clips("casme3", top, "original")
    assert max(Counter(clip.folder for clip in clips).values()) > 1
    for clip in clips:
        cut = top / "frame" / f"spNo.{clip.subject.split('.')[1]}_{clip.name}"
        cut.mkdir(parents=True)
        for path in clip.frames:
            shutil.copy(path, cut)
    shutil.rmtree(top / "part_A")
    again = read_clips("casme3", top, "original")
    assert [(c.key, c.files) for c in again] == [(c.key, c.files) for c in clips]
    shutil.rmtree(again[0].folder)
    fault = next(iter(read_clips("casme3", top, "original", strict=False).faults))
    assert again[1].subject == again[0].subject
    assert fault.kind is Kind.missing_clip and fault.clip == again[0].key


def test_mmew_with_folders_of_subjects(example, tmp_path):
    top = tmp_path / "mmew"
    shutil.copytree(example("mmew"), top)
    before = read_clips("mmew", top)
    for clip in read_clips("mmew", top, "original"):
        target = top / "sorted" / clip.name[:3] / clip.folder.parent.name / clip.name
        target.parent.mkdir(parents=True, exist_ok=True)
        clip.folder.rename(target)
    shutil.rmtree(top / "Micro_Expression")
    assert [clip.key for clip in read_clips("mmew", top)] == [clip.key for clip in before]


def test_4dme_joins_two_emotions():
    emotion_of = reader_of("4dme").emotion_of
    assert emotion_of("Surprise and negative") == emotion_of("negatively surprised") == "negative+surprise"
    assert emotion_of("Repression") == "repression" and emotion_of("bored") is None


def test_reading_frames(tmp_path):
    clip = read_clips("samm", make_example_folder("samm", tmp_path / "samm", clips=3, size=16), "original")[0]
    frames = clip.read()
    assert frames.shape == (5, 16, 16, 3) and frames.dtype == np.uint8
    assert np.array_equal(clip.read([clip.peak_index])[0], frames[2])
    assert not np.array_equal(frames[0], frames[2])
    with pytest.raises(MerFastError, match="indices must be of its 5 frames"):
        clip.read([5])


def test_a_broken_image_is_found_when_looked_into(tmp_path):
    clip = read_clips("dfme", make_example_folder("dfme", tmp_path / "dfme", clips=3), "original")[1]
    content = clip.frames[3].read_bytes()
    for broken in (content[:-12], b"no image at all"):
        clip.frames[3].write_bytes(broken)
        assert len(read_clips("dfme", tmp_path / "dfme", "original")) == 3
        clips = read_clips("dfme", tmp_path / "dfme", "original", strict=False, verify=True)
        assert [fault.kind for fault in clips.faults] == [Kind.unreadable_image] and str(clip.frames[3]) in str(
            clips.faults.faults[0]
        )
    clip.frames[3].write_bytes(content)
    assert is_whole_image(clip.frames[3])


def test_examples_are_made_whole_or_not_at_all(tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(MerFastError, match="holds something already"):
        make_example_folder("smic", tmp_path / "full")
    with pytest.raises(MerFastError, match="frames must be at least 3"):
        make_example_folder("smic", tmp_path / "new", frames=2)
    calls = []

    def fail(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_example_folder("smic", tmp_path / "new", clips=8, progress=fail)
    assert listing(tmp_path) == ["full", "full/file"]
    (tmp_path / "empty").mkdir()
    make_example_folder("smic", tmp_path / "empty", clips=2)
    assert len(read_clips("smic", tmp_path / "empty")) == 2


def test_examples_are_the_same_for_the_same_seed(tmp_path):
    trees = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        top = make_example_folder("casme2", tmp_path / name, clips=20, seed=seed)
        trees.append([(clip.key, clip.emotion, clip.files) for clip in read_clips("casme2", top, "original")])
    assert trees[0] == trees[1] != trees[2]


def test_cells():
    assert [whole_number(cell) for cell in (46, 46.0, "46", " 46.0 ")] == [46] * 4
    assert [whole_number(cell) for cell in ("", "/", None, "4-6", 4.5, float("nan"), float("inf"))] == [None] * 7
    assert ranges((3, 5, 6, 7)) == "3, 5-7"


def test_headers_are_found_below_notes_and_renamed_columns_guessed(tmp_path):
    columns = [Column("a", "Onset Frame"), Column("b", "ApexFrame"), Column("c", "Filename")]
    path = tmp_path / "t.csv"
    path.write_text("Notes,on,this\nFilename,of,it\n,,\n filename ,OnsetFrame,Apex  frame\nx,1,2\n\ny,3,4\n")
    table = with_header(path, columns)
    assert [(number, cells) for number, cells in table.rows()] == [
        (5, {"a": "1", "b": "2", "c": "x"}), (7, {"a": "3", "b": "4", "c": "y"}),
    ]  # fmt: skip
    assert renamed(columns[1], [columns[1]], ("ApexFrm", "Notes")) == "ApexFrm"
    assert renamed(columns[1], [columns[1]], ("Peak",)) == "Peak"
    assert renamed(columns[1], columns[:2], ("Peak",)) is None


def test_what_is_not_installed_is_told(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    with pytest.raises(MerFastError, match=r'openpyxl cannot be imported .*: pip install "mer_fast\[data\]"'):
        require("openpyxl")
