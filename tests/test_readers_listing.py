"""A clips.csv: it chooses, labels and mends clips, and what is wrong in it is named."""

from __future__ import annotations

import csv

import pytest

from mer_fast.data import make_example_folder, read_clips, write_clips
from mer_fast.data.readers import READERS, Kind
from mer_fast.errors import MerFastError

from .planted import Folder


def test_a_clips_csv_chooses_labels_and_mends(tmp_path):
    top = make_example_folder("casme2", tmp_path / "casme2", clips=10)
    clips = read_clips("casme2", top, "original")
    rows = [["dataset", "Subject", "Filename", "label", "onset", "apex", "offset"]]
    first, second = clips[0], clips[4]
    rows.append(["CASME II", first.subject[-2:], first.name.lower(), "1", "", "", ""])
    rows.append(["casme2", second.subject[-5:], second.name, "surprise", second.onset + 1, second.onset + 2, second.offset])
    rows.append(["samm", "006", "006_1_2", "negative", "", "", ""])
    with (top / "clips.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    chosen = read_clips("casme2", top)
    assert chosen.listed == top / "clips.csv" and len(chosen.faults) == 0
    assert [(clip.key, clip.label) for clip in chosen] == [(first.key, "positive"), (second.key, "surprise")]
    assert (chosen[1].onset, chosen[1].apex_index, chosen[1].onset_index) == (second.onset + 1, 2, 1)
    assert len(read_clips("casme2", top, clips_csv=False, labels="original")) == 10


def test_what_is_wrong_in_a_clips_csv_is_named(tmp_path):
    top = make_example_folder("casme2", tmp_path / "casme2", clips=10)
    clip = read_clips("casme2", top, "original")[0]
    subject = clip.subject[-5:]
    rows = [
        ["dataset", "subject", "clip", "label", "onset"],
        ["casme2", subject, clip.name, "negative", ""],
        ["casme2", subject, clip.name, "positive", ""],
        ["casme2", subject, "EP99_99", "negative", ""],
        ["casme2", "nobody", clip.name, "negative", ""],
        ["casme9", subject, clip.name, "negative", ""],
        ["casme2", subject, "EP77_1", "", ""],
        ["casme2", subject, "EP77_2", "negative", "early"],
    ]
    path = tmp_path / "list.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    clips = read_clips("casme2", top, clips_csv=path, strict=False)
    assert [clip.label for clip in clips] == ["negative"]
    assert all(fault.kind is Kind.bad_override and fault.file == path for fault in clips.faults)
    said = {fault.row: str(fault) for fault in clips.faults}
    assert sorted(said) == [3, 4, 5, 6, 7, 8]
    for row, words in {3: "second time", 4: "EP99_99", 5: '"nobody" is no subject', 6: '"casme9" is no data set', 7: "no label",
                       8: '"early" is no frame number'}.items():  # fmt: skip
        assert words in said[row], said[row]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["dataset", "subject", "clip", "label"], ["casme2", subject, clip.name, "gloomy"]])
    wrong = read_clips("casme2", top, clips_csv=path, strict=False)
    assert len(wrong) == 0 and 'label "gloomy" is none of negative, positive, surprise' in str(wrong.faults.faults[0])
    path.write_text("a,b\n1,2\n")
    with pytest.raises(MerFastError, match="has no column dataset, subject, clip, label"):
        read_clips("casme2", top, clips_csv=path)
    with pytest.raises(MerFastError, match=r"clips_csv: .*gone.csv is not a file"):
        read_clips("casme2", top, clips_csv=tmp_path / "gone.csv")


@pytest.mark.parametrize("key", READERS)
def test_written_clips_read_back(key, tmp_path):
    top = make_example_folder(key, tmp_path / key, clips=24)
    clips = read_clips(key, top)
    write_clips(clips[::3], tmp_path / "clips.csv", ("onset", "apex", "offset"))
    again = read_clips(key, top, clips_csv=tmp_path / "clips.csv")
    assert list(again) == list(clips[::3]) and len(again.faults) == 0


def listed(top, clip, columns, *numbers):
    with (top / "clips.csv").open("w", newline="") as file:
        csv.writer(file).writerow(["dataset", "subject", "clip", "label", *columns])
        csv.writer(file).writerow([clip.dataset, clip.subject.partition("/")[2], clip.name, "negative", *numbers])
    return read_clips(clip.dataset, top, strict=False)


def test_numbers_of_smic_that_do_not_fit_the_images_are_named(tmp_path):
    top = make_example_folder("smic", tmp_path / "smic", clips=3)
    clip = read_clips("smic", top)[0]
    out = listed(top, clip, ["apex"], clip.offset + 7)
    (fault,) = out.faults
    assert (fault.kind, fault.file, fault.row, fault.clip_kept) == (Kind.apex_outside, top / "clips.csv", 2, True)
    assert len(out) == 1 and out[0].apex is None and f"apex {clip.offset + 7} lies outside" in str(fault)
    out = listed(top, clip, ["onset", "offset"], clip.offset, clip.onset)
    (fault,) = out.faults
    assert len(out) == 0 and (fault.kind, fault.row) == (Kind.onset_after_offset, 2)
    (shorter,) = listed(top, clip, ["offset"], clip.offset - 1)
    assert (shorter.onset, shorter.offset) == (clip.onset, clip.offset - 1)


def test_an_apex_for_a_table_without_any(tmp_path):
    top = make_example_folder("casme2", tmp_path / "casme2", clips=3)
    clip = read_clips("casme2", top, "original")[0]
    folder = Folder("casme2", top, clip)
    folder.edit(lambda rows: [row.pop(folder.column("apex")) for row in rows] and None)
    (given,) = listed(top, clip, ["apex"], clip.onset + 1)
    assert given.apex == clip.onset + 1
    (without,) = listed(top, clip, ["apex"], "")
    assert without.apex is None
