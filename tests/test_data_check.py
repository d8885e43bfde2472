"""The MEGC2019 composite's counts, and `mer-fast data check`: its tables, its faults, its exit code."""

from __future__ import annotations

import csv
import shutil
import signal
import warnings

import pytest

from mer_fast import cli
from mer_fast.data import check_folder, make_example_folder, read_clips, read_composite, write_clips
from mer_fast.data.readers import READERS, Kind
from mer_fast.data.readers.examples import EXAMPLES
from mer_fast.errors import MerFastError

SETS = ("smic", "casme2", "samm")


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A folder with the three sets of the composite, whole."""
    top = tmp_path_factory.mktemp("three")
    for key in SETS:
        make_example_folder(key, top / key.upper(), frames=3)
    return top


@pytest.fixture
def organisers(three, tmp_path):
    """A clips.csv such as the organisers': the rule's clips without two disgust clips, whose subjects have other clips."""
    clips = list(read_composite(three))
    disgust = [clip for clip in clips if clip.dataset == "casme2" and clip.emotion == "disgust"]
    kept = [clip for clip in clips if clip not in (disgust[3], disgust[40])]
    write_clips(kept, tmp_path / "clips.csv")
    return tmp_path / "clips.csv"


@pytest.fixture
def mer_fast(capfd, monkeypatch, tmp_path):
    """Runs the command in this process, on a wide terminal; gives its exit code, its output and the lines of its stderr."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*arguments: object) -> tuple[int, str, list[str]]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit:
            cli.main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return exit.value.code or 0, captured.out, captured.err.splitlines()

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_the_composite_by_the_rule(three):
    clips = read_composite(three)
    assert len(clips) == 444 and len(set(clips.subjects)) == 68 and clips.listed is None
    assert clips.counts() == {"negative": 252, "positive": 109, "surprise": 83}
    assert clips.found["casme2"] == {"negative": 90, "positive": 32, "surprise": 25}
    assert clips.found["smic"] == {"negative": 70, "positive": 51, "surprise": 43}
    assert clips.found["samm"] == {"negative": 92, "positive": 26, "surprise": 15}
    assert len(clips.faults) == 0
    told = "\n".join(clips.explanation)
    assert "444 clips of 68 subjects by the label rule; the organisers list 442 of 68" in told
    assert "CASME II 2 more negative" in told and "two disgust clips" in told and "clips.csv" in told


def test_the_composite_by_a_list(three, organisers):
    clips = read_composite(three, clips_csv=organisers)
    assert len(clips) == 442 and len(set(clips.subjects)) == 68 and clips.listed == organisers
    assert clips.found["casme2"] == {"negative": 88, "positive": 32, "surprise": 25}
    assert clips.counts() == {"negative": 250, "positive": 109, "surprise": 83} and len(clips.faults) == 0
    told = "\n".join(clips.explanation)
    assert f"442 clips of 68 subjects by {organisers}" in told and "more" not in told


def test_the_list_may_be_headerless_with_numbered_classes(three, organisers):
    with organisers.open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    numbers = {"negative": 0, "positive": 1, "surprise": 2}
    with organisers.open("w", newline="") as file:
        csv.writer(file).writerows([[*row[:3], numbers[row[3]]] for row in rows])
    assert len(read_composite(three, clips_csv=organisers)) == 442


def test_other_counts_are_told_by_class(three, organisers, tmp_path):
    with organisers.open(newline="") as file:
        rows = list(csv.reader(file))
    last = next(row for row in rows if row[0] == "samm" and row[3] == "positive")
    rows.remove(last)
    rows.append(["casme7", "sub01", "EP01_01", "negative"])
    with organisers.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    clips = read_composite(three, clips_csv=organisers, strict=False)
    kinds = [fault.kind for fault in clips.faults]
    assert kinds == [Kind.bad_override, Kind.other_figures]
    assert "SAMM; the organisers list 133 clips" in str(clips.faults.faults[1])
    assert "against the organisers' list: SAMM 1 fewer positive" in clips.explanation


def test_the_composite_needs_its_three_sets(three, tmp_path):
    with pytest.raises(MerFastError, match=r"the composite needs .* has no SAMM"):
        read_composite({"smic": three / "SMIC", "CASME II": three / "CASME2"})
    with pytest.raises(MerFastError, match="no CASME II and no SMIC-HS and no SAMM"):
        read_composite(tmp_path)
    by_name = read_composite({"smic": three / "SMIC", "CASME II": three / "CASME2", "samm": three / "SAMM"})
    assert [clip.key for clip in by_name] == [clip.key for clip in read_composite(three)]


def test_check_of_a_sound_folder(mer_fast, three):
    code, out, err = mer_fast("data", "check", three / "CASME2")
    assert code == 0 and err == [] and "Nothing is wrong." in out
    rows = [line.split() for line in out.splitlines()]
    assert ["clips", "255", "255"] in rows and ["subjects", "26", "26"] in rows and ["disgust", "63", "63"] in rows
    assert "CASME II in" in out and f"table: {EXAMPLES['casme2'].sheet}; frames: CASME2_RAW_selected" in out


def test_check_of_several_sets_shows_the_composite(mer_fast, three, organisers, tmp_path):
    code, out, _ = mer_fast("data", "check", three)
    assert code == 0 and all(READERS[key].title + " in" in out for key in SETS)
    rows = [line.split() for line in out.splitlines()]
    assert ["clips", "444", "444", "442"] in rows and ["casme2", "negative", "90", "90", "88"] in rows
    assert "444 clips of 68 subjects by the label rule" in out
    top = tmp_path / "all"
    shutil.copytree(three, top)
    shutil.copy(organisers, top / "clips.csv")
    code, out, _ = mer_fast("data", "check", top)
    assert code == 0 and "442 clips of 68 subjects by" in out
    assert ["clips", "442", "444", "442"] in [line.split() for line in out.splitlines()]


def test_check_names_faults_by_kind(mer_fast, three, tmp_path):
    top = tmp_path / "casme2"
    shutil.copytree(three / "CASME2", top)
    clips = read_clips("casme2", top, "original")
    for clip in clips[:5]:
        clip.frames[0].unlink()
    clips[9].frames[1].write_bytes(b"\xff\xd8\xff cut short")
    code, out, err = mer_fast("data", "check", top, "--examples", "2")
    assert code == 1 and err == []
    assert "missing frame: 5" in out and "and 3 more" in out and clips[0].key in out and clips[4].key not in out
    assert "unreadable image: 1" in out and str(clips[9].frames[1]) in out
    assert "CASME II has 249 clips here; its owners publish 255" in out


@pytest.mark.parametrize("key", READERS)
def test_check_of_a_folder_without_its_table(mer_fast, key, tmp_path):
    """The layout, and the names of the folders, still tell which data set it is; or --dataset does."""
    top = make_example_folder(key, tmp_path / "data", clips=6)
    if EXAMPLES[key].sheet is not None:
        (top / EXAMPLES[key].sheet).unlink()
        code, out, err = mer_fast("data", "check", top)
        assert code == 1 and err == [] and "missing sheet: 1" in out and READERS[key].title in out
        code, out, err = mer_fast("data", "check", top, "--dataset", key)
        assert code == 1 and "missing sheet: 1" in out
    else:
        assert mer_fast("data", "check", top)[0] == 1  # six clips are not all


def test_check_looks_at_a_folders_own_list(three, tmp_path):
    top = tmp_path / "samm"
    shutil.copytree(three / "SAMM", top)
    write_clips(read_clips("samm", top, "5-class"), top / "clips.csv")
    assert len(check_folder(top).faults) == 0
    with (top / "clips.csv").open("a") as file:
        file.write("samm,006,006_9_9,anger\n")
    assert [fault.kind for fault in check_folder(top).faults] == [Kind.bad_override]


def test_bad_input_is_one_line(mer_fast, tmp_path):
    for arguments, words in (
        ([tmp_path], "looks like none of the data sets"),
        ([tmp_path / "gone"], "gone is not a folder"),
        ([tmp_path, "--dataset", "imagenet"], 'dataset "imagenet" is not known'),
    ):
        code, out, err = mer_fast("data", "check", *arguments)
        assert code == 1 and out == "" and len(err) == 1 and words in err[0]


def test_likely_figures_are_shown_but_are_no_fault(tmp_path):
    """What the literature says of a set, but perhaps not of its released table, never makes a check fail."""
    report = check_folder(make_example_folder("4dme", tmp_path / "4dme", frames=3))
    assert len(report.faults) == 0
    figures = {figure.name: figure for figure in report.datasets[0].figures}
    assert figures["clips"].published == 267 and figures["subjects"].published is None
