"""mer_fast.files: whole files or none, and nobody else's files touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from mer_fast.errors import MerFastError
from mer_fast.files import atomic_folder, atomic_path

from .clips import listing

NAMES = ("page", "picture", "old")


def is_ours(folder: Path) -> bool:
    return (folder / "page").exists()


def fill(folder: Path, **contents: str) -> None:
    for name, content in contents.items():
        (folder / name).write_text(content)


def test_a_file_appears_whole_and_in_new_folders(tmp_path):
    target = tmp_path / "a" / "b" / "file.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("whole")
        assert not target.exists()
        assert temporary.suffix == ".txt"
    assert target.read_text() == "whole"
    assert listing(tmp_path) == ["a", "a/b", "a/b/file.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failed_file_leaves_nothing_new_and_the_old_one(tmp_path, error):
    (tmp_path / "old.txt").write_text("before")
    for target in (tmp_path / "old.txt", tmp_path / "new" / "file.txt"):
        with pytest.raises(error), atomic_path(target) as temporary:
            temporary.write_text("half")
            raise error
    assert listing(tmp_path) == ["old.txt"]
    assert (tmp_path / "old.txt").read_text() == "before"


def test_a_file_cannot_take_the_place_of_a_folder(tmp_path):
    with pytest.raises(MerFastError, match="is a folder"), atomic_path(tmp_path):
        pytest.fail("the block must not run")


def test_a_new_folder_appears_whole(tmp_path):
    with atomic_folder(tmp_path / "a" / "report", NAMES, is_ours, "page") as temporary:
        fill(temporary, page="1", picture="2")
        assert not (tmp_path / "a" / "report").exists()
    assert listing(tmp_path) == ["a", "a/report", "a/report/page", "a/report/picture"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failed_folder_leaves_nothing(tmp_path, error):
    with pytest.raises(error), atomic_folder(tmp_path / "a" / "report", NAMES, is_ours, "page") as temporary:
        fill(temporary, page="1")
        raise error
    assert listing(tmp_path) == []


def test_our_folder_is_replaced_and_others_files_stay(tmp_path):
    fill(tmp_path, page="before", old="before", notes="theirs")
    with atomic_folder(tmp_path, NAMES, is_ours, "page") as temporary:
        fill(temporary, page="after", picture="after")
        assert (tmp_path / "page").read_text() == "before"
    assert listing(tmp_path) == ["notes", "page", "picture"]
    assert (tmp_path / "page").read_text() == "after"
    assert (tmp_path / "notes").read_text() == "theirs"


def test_a_failure_leaves_our_folder_as_it_was(tmp_path):
    fill(tmp_path, page="before", notes="theirs")
    with pytest.raises(RuntimeError), atomic_folder(tmp_path, NAMES, is_ours, "page") as temporary:
        fill(temporary, page="half")
        raise RuntimeError
    assert listing(tmp_path) == ["notes", "page"]
    assert (tmp_path / "page").read_text() == "before"


def test_a_failing_move_is_undone(tmp_path, monkeypatch):
    fill(tmp_path, page="before", old="before", notes="theirs")
    rename = Path.rename

    def rename_until_picture(path, target):
        if path.name == "picture":
            raise OSError("disk full")
        return rename(path, target)

    with pytest.raises(OSError, match="disk full"), atomic_folder(tmp_path, NAMES, is_ours, "page") as temporary:
        fill(temporary, page="after", picture="after")
        monkeypatch.setattr(Path, "rename", rename_until_picture)
    assert listing(tmp_path) == ["notes", "old", "page"]
    assert (tmp_path / "page").read_text() == "before"


def test_a_foreign_file_of_the_same_name_is_not_overwritten(tmp_path):
    fill(tmp_path, picture="theirs")
    with pytest.raises(MerFastError, match="picture"), atomic_folder(tmp_path, NAMES, is_ours, "page"):
        pytest.fail("the block must not run")
    assert (tmp_path / "picture").read_text() == "theirs"


def test_a_folder_with_other_files_gets_ours_beside_them(tmp_path):
    fill(tmp_path, notes="theirs")
    with atomic_folder(tmp_path, NAMES, is_ours, "page") as temporary:
        fill(temporary, page="1")
    assert listing(tmp_path) == ["notes", "page"]


def test_a_folder_cannot_take_the_place_of_a_file_or_lie_below_one(tmp_path):
    fill(tmp_path, file="theirs")
    with pytest.raises(MerFastError, match="is a file"), atomic_folder(tmp_path / "file", NAMES, is_ours, "page"):
        pytest.fail("the block must not run")
    with (
        pytest.raises(MerFastError, match="is a file"),
        atomic_folder(tmp_path / "file" / "below" / "deep", NAMES, is_ours, "page"),
    ):
        pytest.fail("the block must not run")
    assert listing(tmp_path) == ["file"]


@pytest.mark.parametrize("before", [(), NAMES])
def test_a_kill_at_any_move_leaves_a_folder_of_ours_or_none_of_our_files(tmp_path, monkeypatch, before):
    fill(tmp_path, notes="theirs", **dict.fromkeys(before, "before"))
    rename, moves = Path.rename, []

    def watched(path, target):
        result = rename(path, target)
        moves.append(path.name)
        assert is_ours(tmp_path) or not any((tmp_path / name).exists() for name in NAMES), moves
        return result

    with atomic_folder(tmp_path, NAMES[::-1], is_ours, "page") as temporary:
        fill(temporary, old="after", picture="after", page="after")
        monkeypatch.setattr(Path, "rename", watched)
    assert len(moves) == len(before) + 3 and (tmp_path / "page").read_text() == "after"
