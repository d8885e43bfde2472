"""The synthetic benchmark: the same bytes for the same seed, a true flow, and classes that nothing but motion tells."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mer_fast.data import Cache, CachedClips, SyntheticSet, Video, network_input, read_clips, read_truth
from mer_fast.data.benchmark import clip_set, writing
from mer_fast.data.benchmark.distractors import Light
from mer_fast.data.benchmark.expressions import REGIONS
from mer_fast.data.benchmark.scene import Person, Scene, Span, draw_scene
from mer_fast.errors import MerFastError

pytest.importorskip("cv2", reason="OpenCV is not installed")
from benchmarks import linear  # needs OpenCV

ndimage = pytest.importorskip("scipy.ndimage", reason="SciPy is not installed")

SMALL: dict[str, Any] = {"size": 64, "frames": 16}
SCENE: dict[str, Any] = {"frames": 24, "amplitudes": (0.3, 2.0), "distraction": 1.0}


def sampled(picture: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """picture(x + flow(x)) by cubic splines, channel by channel."""
    y, x = np.mgrid[: flow.shape[1], : flow.shape[2]].astype(np.float64)
    places = [y + flow[1], x + flow[0]]
    channels = [ndimage.map_coordinates(one, places, order=3, mode="mirror") for one in np.moveaxis(picture, 2, 0)]
    return np.stack(channels, 2)


@pytest.fixture(scope="module")
def people() -> list[Person]:
    return [Person(seed, 128) for seed in range(4)]


# What it holds.


def test_it_is_shaped_like_a_data_set() -> None:
    clips = SyntheticSet(4, 7, **SMALL)
    assert len(clips) == 28 == len(clips.subjects) == len(clips.targets) == len(list(clips))
    assert clips.classes == ("brow", "eye", "mouth")
    assert list(dict.fromkeys(clips.subjects)) == [f"synthetic/sub0{k}" for k in range(1, 5)]
    assert [clip.subject for clip in clips] == clips.subjects
    assert [clips.classes.index(clip.label) for clip in clips] == clips.targets
    assert clips.counts() == {name: clips.targets.count(k) for k, name in enumerate(clips.classes)}
    assert len({clip.key for clip in clips}) == 28 and clips[-1].key == "synthetic/sub04/EP01_07"
    assert [clip.key for clip in clips[2:4]] == [clips[2].key, clips[3].key]
    for index in (28, -29):
        with pytest.raises(IndexError):
            clips[index]
    assert "28 clips of 4 subjects" in repr(clips)


def test_every_subject_shows_every_class_as_often() -> None:
    clips = SyntheticSet(24, 9)
    for subject in set(clips.subjects):
        of_one = [target for target, other in zip(clips.targets, clips.subjects, strict=True) if other == subject]
        assert sorted(of_one) == sorted([0, 1, 2] * 3)
    firsts = [clips.targets[9 * k] for k in range(24)]
    assert len(set(firsts)) == 3  # the order is each subject's own


def test_a_clip_tells_what_readers_tell() -> None:
    clip = SyntheticSet(1, 3, **SMALL)[1]
    assert 0 <= clip.onset < clip.apex < clip.offset < 16
    assert (clip.onset_index, clip.apex_index, clip.peak_index, clip.offset_index) == (
        clip.onset, clip.apex, clip.apex, clip.offset,
    )  # fmt: skip
    assert clip.dataset == "synthetic" and clip.label == clip.region and clip.action_units and clip.fps == 200
    assert len(clip.frames) == 16 and clip.frames.shape == (16, 64, 64, 3) and clip.frames.dtype == np.uint8
    whole = clip.read()
    assert whole.shape == (16, 64, 64, 3) and whole.dtype == np.uint8
    assert np.array_equal(np.asarray(clip.frames), whole) and np.array_equal(clip.frames[2:5], whole[2:5])
    assert np.array_equal(clip.frames[-1], whole[15]) and np.array_equal(clip.read([3, 1]), whole[[3, 1]])
    assert clip.frames[5:5].shape == (0, 64, 64, 3)
    for wrong in ([], [16], [-17]):
        with pytest.raises(MerFastError, match="indices must be of its 16 frames"):
            clip.read(wrong)
    with pytest.raises(ValueError):
        clip.frames[0][0, 0, 0] = 1  # shared by all who read it


# The same for the same seed.


def test_the_seed_decides_every_byte() -> None:
    one, same, other = (SyntheticSet(2, 3, seed=seed, **SMALL) for seed in (3, 3, 4))
    for index in (0, 4):
        assert one[index].read().tobytes() == same[index].read().tobytes() != other[index].read().tobytes()
        assert one[index].flow.tobytes() == same[index].flow.tobytes() != other[index].flow.tobytes()
    assert one[0].read([5]).tobytes() != one[1].read([5]).tobytes() != one[3].read([5]).tobytes()


def test_more_clips_and_subjects_leave_the_first_as_they_were() -> None:
    few, many = SyntheticSet(2, 4, **SMALL), SyntheticSet(3, 8, **SMALL)
    for subject in range(2):
        for clip in range(4):
            one, other = few[subject * 4 + clip], many[subject * 8 + clip]
            assert one.key == other.key and one.region == other.region and one.amplitude == other.amplitude
    assert np.array_equal(few[5].read([7]), many[9].read([7]))


def test_frames_do_not_depend_on_what_was_read_before() -> None:
    one, other = SyntheticSet(1, 1, **SMALL)[0], SyntheticSet(1, 1, **SMALL)[0]
    backwards = np.stack([one.frames[k] for k in reversed(range(16))])[::-1]
    assert np.array_equal(backwards, other.read())


def test_another_process_gets_the_same() -> None:
    clips = SyntheticSet(1, 2, **SMALL)
    before = clips[1].read([4])
    copy = pickle.loads(pickle.dumps(clips))
    assert len(pickle.dumps(clips)) < 4000  # settings, no pictures
    assert np.array_equal(copy[1].read([4]), before) and copy.targets == clips.targets
    assert np.array_equal(pickle.loads(pickle.dumps(clips[1])).read([4]), before)


# The truth.


@pytest.mark.parametrize("index", range(3))
def test_warping_the_apex_back_by_the_flow_gives_the_onset(index: int) -> None:
    clip = SyntheticSet(3, 1, distraction=0.0, amplitude=(1.5, 2.0), seed=1)[index]
    onset, apex = clip.read([clip.onset, clip.apex]).astype(np.float64)
    error, change = np.abs(sampled(apex, clip.flow) - onset), np.abs(apex - onset)
    assert error[clip.moving].mean() < 0.3 + 0.12 * change[clip.moving].mean() and change[clip.moving].mean() > 2
    assert error[~clip.moving].mean() < 0.15


def test_the_flow_has_the_head_in_it() -> None:
    moved = 0
    for clip in SyntheticSet(3, 2, seed=2):
        steady = Light(128, 32, 0.0, np.random.default_rng(0))
        scene = dataclasses.replace(clip.scene, light=steady, noise=0.0, others=())
        for first, second in ((clip.onset, clip.apex), (0, 31)):
            one, other = scene.frame(first).astype(np.float64), scene.frame(second).astype(np.float64)
            flow = scene.flow(first, second)
            inside = np.s_[4:-4, 4:-4]
            error = np.abs(sampled(other, flow) - one)[inside].mean()
            assert error < 1.0
            if np.hypot(*flow).mean() > 0.5:
                assert error < 0.3 * np.abs(other - one)[inside].mean()
                moved += 1
        assert np.abs(clip.flow_at(clip.onset)).max() < 1e-6
    assert moved > 3


def test_flows_follow_each_other() -> None:
    clip = SyntheticSet(1, 1, **SMALL)[0]
    there, back = clip.flow_at(12, 3).astype(np.float64), clip.flow_at(3, 12).astype(np.float64)
    y, x = np.mgrid[:64, :64].astype(np.float64)
    returned = np.stack([ndimage.map_coordinates(one, [y + there[1], x + there[0]], order=3, mode="nearest") for one in back])
    assert np.abs(there + returned)[:, 4:-4, 4:-4].max() < 0.02


def test_the_expression_is_as_long_as_it_says_and_nothing_folds() -> None:
    clips = SyntheticSet(6, 6, seed=5)
    for clip in clips:
        x, y = np.meshgrid(np.arange(128.0), np.arange(128.0))
        assert np.hypot(*clip.scene.expression.backward(x, y)).max() == pytest.approx(clip.amplitude)
        assert 0.3 <= clip.amplitude <= 2.0
        for k in (clip.onset + 2, clip.apex, clip.apex + 2, 16):
            assert clip.scene.motion(k).steepness(128, 128) < 0.95
    still = SyntheticSet(1, 1, distraction=0.0)[0]
    assert np.hypot(*still.flow).max() == pytest.approx(still.amplitude, rel=0.02)
    for k in (0, still.onset, still.offset, 31):
        assert np.array_equal(still.frames[k], still.frames[0])


def test_frames_have_a_span() -> None:
    span = Span(3, 7, 12)
    assert [span.weight(k) for k in (0, 3, 7, 12, 20)] == [0, 0, 1, 0, 0]
    assert span.weight(5) == pytest.approx(0.5) and 0 < span.weight(11) < span.weight(9) < 1


# Only motion tells the class.


def strain_maps(clips: SyntheticSet) -> np.ndarray:
    """The strain of the true flow on a grid of 16x16, (N, 256)."""
    from mer_fast import ops

    strain = ops.optical_strain(torch.from_numpy(np.stack([clip.flow for clip in clips])))
    return torch.nn.functional.adaptive_avg_pool2d(strain, 16).flatten(1).numpy()


def left_out(features: np.ndarray, clips: SyntheticSet, strength: float = 1e-2, folds: int = 0) -> float:
    """UF1 of a standardised logistic regression, leaving out a subject, or one of `folds` groups of them, at a time."""
    pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    from mer_fast.evaluation import uf1

    targets = np.array(clips.targets)
    group = np.unique(np.array(clips.subjects), return_inverse=True)[1]
    found = linear.left_out(features, targets, group % folds if folds else group, strength)
    return float(uf1(torch.from_numpy(found), torch.from_numpy(targets), 3))


def test_the_right_part_of_the_face_moves(people: list[Person]) -> None:
    for person in people:
        middles = {}
        for region in REGIONS:
            rows = []
            for seed in range(8):
                rows.append(np.nonzero(draw_scene(person, region, seed=seed, **SCENE).moving() > 0.2)[0].mean())
            middles[region] = (min(rows), max(rows))
        assert middles["brow"][1] < middles["mouth"][0] and middles["eye"][1] < middles["mouth"][0]
        assert np.mean(middles["brow"]) < np.mean(middles["eye"])


def test_movements_are_of_many_forms_and_go_either_way(people: list[Person]) -> None:
    for region in REGIONS:
        scenes = [draw_scene(people[0], region, seed=seed, **SCENE) for seed in range(60)]
        assert len({scene.units for scene in scenes}) >= 2
        flows = np.stack([scene.expression.forward(128, 128) / scene.amplitude for scene in scenes])
        # Forwards and backwards cancel: of 60 unit vectors at a place the mean of random ones is 0.13.
        assert np.hypot(*flows.mean(0)).max() < 0.4 * np.hypot(*np.moveaxis(flows, 1, 0)).mean(0).max()
        assert {len(scene.expression.bumps) for scene in scenes} >= {1, 2}  # one side, and both


def test_what_distracts_is_the_same_whatever_the_class(people: list[Person]) -> None:
    def distracting(scene: Scene) -> list[Any]:
        poses = [(scene.head.at(k), scene.light.at(k).tobytes()) for k in range(24)]
        return [scene.span, scene.amplitude, poses, scene.others, scene.noise, scene.noise_seed]

    for seed in range(5):
        first, *rest = (draw_scene(people[0], region, seed=seed, **SCENE) for region in REGIONS)
        assert all(distracting(scene) == distracting(first) for scene in rest)
        assert distracting(draw_scene(people[0], "brow", seed=seed + 9, **SCENE)) != distracting(first)


def test_what_distracts_does_not_tell_the_class() -> None:
    clips = SyntheticSet(24, 18)
    rows = []
    for clip in clips:
        scene = clip.scene
        poses = [scene.head.at(k) for k in (0, clip.onset, clip.apex, 31)]
        numbers = [value for pose in poses for value in (pose.u, pose.v, pose.angle, pose.scale)]
        numbers += [clip.onset, clip.apex, clip.offset, clip.amplitude, scene.noise, len(scene.others)]
        rows.append([*numbers, scene.light.at(clip.apex).mean(), scene.others[0][1].peak, scene.others[0][0].bumps[0].y])
    assert left_out(np.array(rows), clips, folds=6) < 0.43


def test_blinks_spare_onset_and_apex() -> None:
    clips = SyntheticSet(8, 9)
    blinks = [clip for clip in clips if len(clip.scene.others) > 1]
    assert 0.3 < len(blinks) / len(clips) < 0.7
    for clip in blinks:
        lids, span = clip.scene.others[1]
        assert span.weight(clip.onset) == 0 == span.weight(clip.apex)
        assert max(span.weight(k) for k in range(32)) == 1 and lids.bumps


def test_people_differ(people: list[Person]) -> None:
    faces = [person.sample(*np.meshgrid(np.arange(128.0), np.arange(128.0))) for person in people]
    for one in range(4):
        for other in range(one):
            assert np.abs(faces[one] - faces[other]).mean() > 8
    assert len({person.traits.skin for person in people}) == 4 == len({person.traits.light for person in people})


def test_true_flow_tells_the_class() -> None:
    clips = SyntheticSet(24, 6, seed=11)
    assert left_out(strain_maps(clips), clips, 1.0, folds=6) > 0.9


def test_pixels_do_not_tell_a_linear_model_the_class() -> None:
    clips = SyntheticSet(24, 6, seed=12)
    features = linear.pixels(clips).reshape(len(clips), -1)
    found = {strength: left_out(features, clips, strength, folds=8) for strength in (1e-4, 1e-2)}
    assert max(found.values()) < 0.6, found


# As a folder, in the cache, and with mistakes.


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[SyntheticSet, Path]:
    clips = SyntheticSet(2, 3, **SMALL)
    return clips, clips.write(tmp_path_factory.mktemp("set") / "deep" / "synthetic", lambda stage, done, total: None)


def test_the_readers_read_it_back(written: tuple[SyntheticSet, Path]) -> None:
    pytest.importorskip("pandas", reason="pandas is not installed")
    clips, folder = written
    found = read_clips("casme2", folder, labels=SyntheticSet.label_map)
    assert found.classes == clips.classes and found.targets == clips.targets and not len(found.faults)
    assert found.listed == folder / "clips.csv"
    for one, other in zip(found, clips, strict=True):
        assert one.key == other.key.replace("synthetic", "casme2") and one.emotion == other.emotion
        assert (one.onset_index, one.apex_index, one.offset_index) == (other.onset, other.apex, other.offset)
        assert one.action_units == other.action_units and one.fps == other.fps
    assert np.array_equal(found[4].read(), clips[4].read())
    usual = read_clips("casme2", folder)
    assert usual.classes == ("negative", "positive", "surprise")
    assert [{"brow": 2, "eye": 0, "mouth": 1}[clip.region] for clip in clips] == usual.targets
    assert read_clips("casme2", folder, clips_csv=False).targets == usual.targets


def test_what_is_written_carries_its_truth(written: tuple[SyntheticSet, Path]) -> None:
    clips, folder = written
    place = folder / writing.FRAMES / "sub02" / "EP01_03"
    truth = read_truth(place)
    assert truth is not None and np.array_equal(truth.flow, clips[5].flow) and np.array_equal(truth.moving, clips[5].moving)
    assert np.array_equal(np.stack(list(Video(place).frames())), clips[5].read())


def test_writing_goes_on_where_it_stopped(tmp_path: Path) -> None:
    clips = SyntheticSet(1, 3, **SMALL)

    def stop(stage: str, done: int, total: int | None) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        clips.write(tmp_path / "set", stop)
    place = tmp_path / "set" / writing.FRAMES / "sub01"
    assert sorted(path.name for path in place.iterdir()) == ["EP01_01", "EP01_02"]
    (place / "EP01_02" / "00003.png").unlink()
    before = (place / "EP01_01" / "00000.png").stat().st_mtime_ns
    clips.write(tmp_path / "set", lambda stage, done, total: None)
    assert (place / "EP01_01" / "00000.png").stat().st_mtime_ns == before
    assert len(list(place.rglob("*.png"))) == 3 * 16


def test_nothing_of_others_is_overwritten(written: tuple[SyntheticSet, Path], tmp_path: Path) -> None:
    _, folder = written
    for other in ({"seed": 1, **SMALL}, {**SMALL, "size": 80}, {**SMALL, "distraction": 0.5}):
        with pytest.raises(MerFastError, match="holds another synthetic set"):
            SyntheticSet(2, 3, **other).write(folder)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(MerFastError, match="holds other files"):
        SyntheticSet(1, 1, **SMALL).write(tmp_path)
    with pytest.raises(MerFastError, match="is a file"):
        SyntheticSet(1, 1, **SMALL).write(tmp_path / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_cache_and_training_take_it(tmp_path: Path) -> None:
    clips = SyntheticSet(2, 3, **SMALL)
    chosen = network_input("ststnet", size=(64, 64))
    cached = CachedClips(clips, Cache(tmp_path, chosen.settings), chosen.make)
    assert cached.labels == clips.targets and cached.subjects == clips.subjects and cached.databases == ["synthetic"] * 6
    value, label = cached[4]
    assert value.shape == (3, 28, 28) and value.isfinite().all() and label == clips.targets[4]
    again = CachedClips(SyntheticSet(2, 3, **SMALL), Cache(tmp_path, chosen.settings), chosen.make)
    assert again.fingerprint == cached.fingerprint


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"subjects": 0}, "subjects must be at least 1"),
        ({"clips_per_subject": 1.5}, "clips_per_subject must be a whole number"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"size": 63}, "size must be at least 64"),
        ({"frames": 15}, "frames must be at least 16"),
        ({"amplitude": (0.0, 1.0)}, "amplitude must be two ascending numbers above 0"),
        ({"amplitude": (2.0, 1.0)}, "amplitude must be two ascending"),
        ({"amplitude": (1.0,)}, "amplitude must be two"),
        ({"distraction": -0.1}, "distraction must lie between"),
        ({"distraction": float("nan")}, "distraction must lie between"),
    ],
)
def test_bad_arguments_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(MerFastError, match=f"SyntheticSet: {words}") as error:
        SyntheticSet(**settings)
    assert "\n" not in str(error.value)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_set, "_FRAMES", 8)
    monkeypatch.setattr(clip_set, "_SCENES", 2)
    monkeypatch.setattr(clip_set, "_PEOPLE", 1)
    clips = SyntheticSet(2, 2, **SMALL)
    for clip in clips:
        clip.read(range(12))
    assert clips._frames.cache_info().currsize == 8 and clips._scenes.cache_info().currsize == 2
    assert clips._people.cache_info().currsize == 1
