"""From what is given to clips with names: folders walked, lists read, and no two clips of one name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mer_fast.flows import Clip, find_clips


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def names(*inputs: Path, output: Path = Path("nowhere")) -> list[str]:
    clips, failures = find_clips(inputs, output)
    assert failures == []
    return [clip.name for clip in clips]


def from_list(folder: Path, text: str) -> tuple[list[Clip], list[str]]:
    (folder / "list.txt").write_text(text)
    clips, failures = find_clips([folder / "list.txt"], "nowhere")
    return clips, [failure.reason for failure in failures]


def test_a_folder_is_walked_in_natural_order(tmp_path):
    touch(
        tmp_path,
        "s10/a.avi",
        "s2/EP10/1.png",
        "s2/EP2/1.jpg",
        "s2/EP2/2.jpg",
        "s2/b.MP4",
        "notes.docx",
        ".hidden/a.avi",
        "s2/.b.avi",
    )
    assert names(tmp_path) == ["s2/b.MP4", "s2/EP2", "s2/EP10", "s10/a.avi"]


def test_a_folder_with_images_is_a_clip_and_what_lies_in_it_too(tmp_path):
    touch(tmp_path, "clip/1.png", "clip/more/1.png", "clip/a.avi")
    assert names(tmp_path / "clip") == ["clip", "a.avi", "more"]
    assert names(tmp_path) == ["clip", "clip/a.avi", "clip/more"]


def test_names_that_would_collide_differ(tmp_path):
    touch(tmp_path, "A/clips/x.avi", "A/clips/x.mp4", "A/clips/x/1.png", "B/clips/x.avi", "B/y.avi", "C/y.avi")
    assert names(tmp_path / "A" / "clips") == ["x", "x.avi", "x.mp4"]
    assert names(tmp_path / "A" / "clips", tmp_path / "B" / "clips") == [
        "A/clips/x", "A/clips/x.avi", "A/clips/x.mp4", "B/clips/x.avi",
    ]  # fmt: skip
    assert names(tmp_path / "A" / "clips" / "x.avi", tmp_path / "B" / "y.avi", tmp_path / "C" / "y.avi") == [
        "x.avi", "B/y.avi", "C/y.avi",
    ]  # fmt: skip


def test_relative_inputs_have_names_too(tmp_path, monkeypatch):
    touch(tmp_path, "clip/1.png", "other/a.avi")
    monkeypatch.chdir(tmp_path / "clip")
    assert names(Path(".")) == ["clip"]
    assert names(Path("."), Path("../other")) == ["clip", "other/a.avi"]


def test_what_is_given_twice_is_one_clip(tmp_path):
    touch(tmp_path, "v/a.avi", "v/b.avi")
    assert names(tmp_path / "v" / "a.avi", tmp_path / "v" / "a.avi", tmp_path / "v" / ".." / "v" / "b.avi") == ["a.avi", "b.avi"]


def test_two_clips_of_one_name_are_a_failure_of_the_second(tmp_path):
    touch(tmp_path, "x/A/clips/a.avi", "y/A/clips/a.avi", "z/clips/a.avi")
    clips, failures = find_clips([tmp_path / "x" / "A", tmp_path / "y" / "A" / "clips", tmp_path / "z" / "clips"], "nowhere")
    assert [clip.name for clip in clips] == ["A/clips/a.avi", "z/clips/a.avi"]
    assert len(failures) == 1 and "same name" in failures[0].reason and str(tmp_path / "x") in failures[0].reason


def test_the_output_is_no_input(tmp_path):
    touch(tmp_path, "a.avi", "flow/a.avi/000000-000001.png")
    assert names(tmp_path, output=tmp_path / "flow") == ["a.avi"]
    assert names(tmp_path) == ["a.avi", "flow/a.avi"]


def test_links_are_followed_but_not_round(tmp_path):
    touch(tmp_path, "data/s1/a.avi", "elsewhere/b.avi")
    (tmp_path / "data" / "s1" / "up").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "s2").symlink_to(tmp_path / "elsewhere")
    assert names(tmp_path / "data") == ["s1/a.avi", "s2/b.avi"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_permission_is_a_failure(tmp_path):
    touch(tmp_path, "a.avi", "closed/b.avi")
    (tmp_path / "closed").chmod(0)
    clips, failures = find_clips([tmp_path], "nowhere")
    (tmp_path / "closed").chmod(0o700)
    assert [clip.name for clip in clips] == ["a.avi"] and "Permission denied" in failures[0].reason


def test_a_folder_that_cannot_be_listed_is_a_failure(tmp_path, monkeypatch):
    touch(tmp_path, "a.avi", "closed/b.avi")
    iterdir = Path.iterdir

    def refuse(path):
        if path.name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    clips, failures = find_clips([tmp_path], "nowhere")
    assert [clip.name for clip in clips] == ["a.avi"]
    assert [(failure.clip, failure.reason) for failure in failures] == [("closed", f"{tmp_path}/closed: Permission denied")]


def test_an_image_alone_and_an_empty_folder_are_failures(tmp_path):
    touch(tmp_path, "a.png", "b.avi")
    (tmp_path / "empty").mkdir()
    clips, failures = find_clips([tmp_path / "b.avi", tmp_path / "a.png", tmp_path / "empty"], "nowhere")
    assert len(clips) == 1
    assert "one image" in failures[0].reason and "no video and no image" in failures[1].reason


def test_a_list_has_paths_frames_and_pairs(tmp_path):
    touch(tmp_path, "s1/a.avi", "with space.avi", "with#hash 12.avi", "two  spaces/1.png", "007/1.png", "on.png", "s2/off.png")
    clips, failures = from_list(
        tmp_path,
        "# the clips\n\ns1/a.avi\ns1/a.avi 3 20\ns1/a.avi  7  # only the onset\n"
        "with space.avi\nwith#hash 12.avi\nwith space.avi 1 2\n"
        '"two  spaces" 4 9\n\tonce\ttwice\n007\n./on.png s2/off.png\n' + f"{tmp_path}/s1/a.avi\t30\t31\n",
    )
    assert [(clip.name, clip.onset, clip.apex) for clip in clips] == [
        ("s1/a.avi", None, None), ("s1/a.avi.3-20", 3, 20), ("s1/a.avi.7", 7, None), ("with space.avi", None, None),
        ("with#hash 12.avi", None, None), ("with space.avi.1-2", 1, 2), ("two  spaces.4-9", 4, 9), ("007", None, None),
        ("on.png-off.png", None, None), ("a.avi.30-31", 30, 31),
    ]  # fmt: skip
    assert clips[8].second == tmp_path / "s2" / "off.png"
    assert clips[0].path == tmp_path / "s1" / "a.avi"
    assert len(failures) == 1 and "line 10" in failures[0] and "quotes" in failures[0]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("s1/a.avi 20 20", "the apex, frame 20, must come after the onset, frame 20"),
        ("s1/a.avi 1 2 3", "not a path, a path with onset and apex, or two images"),
        ("s1/a.avi s1/b.avi", "not a path"),
        ("s1/a.avi -1 5", "not a path"),
        ("s1 3 4", "holds 2 clips, and an onset is that of one"),
        ("s1/a\0.avi", "list.txt, line 2: a NUL byte"),
        ("s1/a.avi 3 1234567890", "list.txt, line 2: the frame number 1234567890 has more than 9 digits"),
        ("s1/a.avi " + "9" * 5000, "has more than 9 digits"),
    ],
)
def test_a_wrong_line_is_told_and_the_others_are_used(tmp_path, line, words):
    touch(tmp_path, "s1/a.avi", "s1/b.avi")
    clips, failures = from_list(tmp_path, f"s1/b.avi\n{line}\n")
    assert [clip.name for clip in clips] == ["s1/b.avi"]
    assert len(failures) == 1 and words in failures[0]


def test_a_list_may_name_a_folder_of_clips_and_one_outside(tmp_path):
    touch(tmp_path, "here/s1/a.avi", "there/b.avi", "else/b.avi")
    clips, failures = from_list(touch(tmp_path / "here"), "s1\n../there/b.avi\n../else/b.avi\n")
    assert [clip.name for clip in clips] == ["s1/a.avi", "there/b.avi", "else/b.avi"] and failures == []


def test_a_missing_list_and_one_of_another_system(tmp_path):
    _, failures = find_clips([tmp_path / "no.txt"], "nowhere")
    assert [failure.reason for failure in failures] == [f"{tmp_path}/no.txt: No such file or directory"]
    touch(tmp_path, "ä.avi")
    (tmp_path / "list.txt").write_bytes("\ufeffä.avi\r\n".encode())
    assert names(tmp_path / "list.txt") == ["ä.avi"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_list_may_be_utf16(tmp_path, encoding):
    touch(tmp_path, "ä.avi")
    (tmp_path / "list.txt").write_bytes("\ufeffä.avi 3 7\r\n".encode(encoding))
    assert names(tmp_path / "list.txt") == ["ä.avi.3-7"]
    (tmp_path / "list.txt").write_bytes("\ufeffä.avi".encode(encoding)[:-1])
    clips, failures = find_clips([tmp_path / "list.txt"], "nowhere")
    assert clips == [] and [failure.reason for failure in failures] == [
        f"{tmp_path}/list.txt begins as UTF-16 and is not: save it as UTF-8"
    ]


def test_a_fingerprint_changes_with_the_content(tmp_path):
    video = tmp_path / "a.avi"
    video.write_bytes(b"1" * 500_000)
    told = [Clip("a", video).fingerprint(), Clip("a", video, onset=3).fingerprint()]
    for content in (b"1" * 500_001, b"1" * 499_999 + b"2", b"2" + b"1" * 499_999):
        video.write_bytes(content)
        told.append(Clip("a", video).fingerprint())
    assert len(set(told)) == 5
    folder = touch(tmp_path / "clip", "1.png", "2.png")
    before = Clip("a", folder).fingerprint()
    touch(folder, "3.png")
    assert Clip("a", folder).fingerprint() != before
