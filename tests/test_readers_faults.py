"""Each reader names each fault planted in its folder: which kind, which clip, which row, and goes on with the good clips."""

from __future__ import annotations

import shutil
from collections import Counter

import pytest

from mer_fast.data import make_example_folder, read_clips
from mer_fast.data.readers import READERS
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
