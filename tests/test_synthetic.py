"""Synthetic clips: the truth they carry is true, to a small part of a gray level."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mer_fast.data import Box, LBPCascade, SyntheticClip, Video, read_truth, synthetic_clip, write_frames
from mer_fast.data import truth as truth_module
from mer_fast.data.motion import Bump, Motion
from mer_fast.data.synthetic import Renderer
from mer_fast.errors import MerFastError

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
skimage_data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")

REGIONS = ("brow", "eye", "mouth")
SHORT: dict[str, Any] = {"frames": 12, "onset": 2, "apex": 6, "offset": 10}


def clean(region: Any, **settings: Any) -> SyntheticClip:
    return synthetic_clip(region, **{**SHORT, "noise": 0.0, "lighting": 0.0, **settings})


def sampled(picture: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """picture(x + flow(x)) by cubic splines, channel by channel."""
    from scipy.ndimage import map_coordinates

    y, x = np.mgrid[: flow.shape[1], : flow.shape[2]].astype(np.float64)
    places = [y + flow[1], x + flow[0]]
    return np.stack([map_coordinates(channel, places, order=3, mode="mirror") for channel in np.moveaxis(picture, 2, 0)], 2)


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize(("size", "amplitude"), [(256, 0.3), (256, 3.0), (128, 1.5)])
def test_warping_the_apex_back_by_the_flow_gives_the_onset(region: str, size: int, amplitude: float) -> None:
    clip = clean(region, size=size, amplitude=amplitude, seed=3)
    onset = clip.frames[clip.onset].astype(np.float64)
    apex = clip.frames[clip.apex].astype(np.float64)
    error = np.abs(sampled(apex, clip.flow) - onset)
    change = np.abs(apex - onset)
    # Rounding to whole gray levels makes 0.3; the rest is what splines cannot carry of hair and lashes at the smaller size.
    assert error[clip.moving].mean() < 0.3 + 0.12 * change[clip.moving].mean()
    assert error[clip.moving].mean() < 0.6 or size < 256
    assert error[~clip.moving].mean() < 0.1


def test_before_rounding_the_flow_is_exact() -> None:
    y, x = np.mgrid[:96, :96]
    smooth = (120 + 60 * np.sin(x / 6) * np.cos(y / 7))[..., None]  # band-limited, so that splines reproduce it
    motion = Motion((Bump(40, 50, 25, 20, 2.0, -1.0), Bump(55, 40, 22, 24, -1.0, 1.5)))
    moved = Renderer(smooth)(motion)
    flow = motion.forward(96, 96)
    assert np.abs(sampled(moved, flow) - smooth).max() < 0.02
    assert np.abs(moved - smooth).max() > 10


@pytest.mark.parametrize("region", REGIONS)
def test_the_forward_flow_solves_its_equation(region: str) -> None:
    clip = clean(region, amplitude=3.0, size=160, seed=7)
    flow = clip.motion.forward(160, 160)
    y, x = np.mgrid[:160, :160].astype(np.float64)
    back_u, back_v = clip.motion.backward(x + flow[0], y + flow[1])
    assert np.abs(flow[0] + back_u).max() < 1e-6
    assert np.abs(flow[1] + back_v).max() < 1e-6
    assert np.array_equal(clip.flow, flow.astype(np.float32))


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("amplitude", [0.3, 1.5, 5.0])
def test_the_longest_flow_is_the_amplitude(region: str, amplitude: float) -> None:
    clip = clean(region, amplitude=amplitude, size=256, frames=4, onset=0, apex=1, offset=2)
    length = np.hypot(*clip.flow.astype(np.float64))
    assert length.max() == pytest.approx(amplitude, rel=1e-6)
    assert np.array_equal(clip.moving, length > length.max() / 10)
    assert 0.01 < clip.moving.mean() < 0.2


def test_flow_over_time_rises_and_falls() -> None:
    clip = clean("mouth", size=192)
    lengths = [np.hypot(*clip.flow_at(k)).max() for k in range(12)]
    assert lengths[:3] == [0, 0, 0] and lengths[10:] == [0, 0]
    assert np.all(np.diff(lengths[2:7]) > 0) and np.all(np.diff(lengths[6:11]) < 0)
    assert lengths[4] == pytest.approx(0.75, abs=0.02) == lengths[8]
    assert np.array_equal(clip.flow_at(6), clip.flow)
    assert clip.flow.dtype == clip.flow_at(3).dtype == np.float32 and clip.flow.shape == (2, 192, 192)
    onset = clip.frames[2]
    for k in (0, 1, 10, 11):
        assert np.array_equal(clip.frames[k], onset)
    for k in (3, 4, 5, 8):
        frame = clip.frames[k].astype(np.float64)
        error = np.abs(sampled(frame, clip.flow_at(k)) - onset)[clip.moving].mean()
        assert error < 0.3 + 0.12 * np.abs(frame - onset)[clip.moving].mean()


@pytest.mark.parametrize(
    ("region", "share", "up"), [("brow", (0.0, 0.5), True), ("eye", (0.2, 0.6), False), ("mouth", (0.6, 1.0), True)]
)
def test_the_right_part_of_the_face_moves(region: str, share: tuple[float, float], up: bool) -> None:
    for seed in range(3):
        clip = clean(region, size=96, seed=seed)
        rows, columns = np.nonzero(clip.moving)
        face = clip.face
        assert face.y + share[0] * face.height <= rows.min() and rows.max() <= face.y + share[1] * face.height + 3
        assert face.x - 3 <= columns.min() and columns.max() <= face.x + face.width + 3
        length = np.hypot(*clip.flow)
        v = clip.flow[1].flat[length.argmax()]
        assert (v < 0) == up
    if region == "mouth":
        middle = face.x + face.width // 2
        assert clip.flow[0][:, :middle].min() < -0.3 and clip.flow[0][:, middle:].max() > 0.3  # corners move outwards
        assert clip.flow[0][:, :middle].max() < 0.05 and clip.flow[0][:, middle:].min() > -0.05


def test_the_face_is_where_the_clip_says() -> None:
    clip = clean("mouth", size=256)
    found = LBPCascade()(clip.frames[0])
    assert found[0].overlap(clip.face) > 0.7
    margin = 256 * 0.1
    assert clip.face.x > margin and clip.face.y > margin
    assert clip.face.x + clip.face.width < 256 - margin and clip.face.y + clip.face.height < 256 - margin


def test_the_seed_decides_every_byte() -> None:
    one, same, other = (synthetic_clip("brow", size=64, seed=seed, **SHORT) for seed in (4, 4, 5))
    assert one.frames.tobytes() == same.frames.tobytes() and one.flow.tobytes() == same.flow.tobytes()
    assert one.frames.tobytes() != other.frames.tobytes() and one.flow.tobytes() != other.flow.tobytes()
    quiet = synthetic_clip("brow", size=64, seed=4, noise=0, **SHORT)
    assert np.array_equal(quiet.flow, one.flow)  # what is seen does not change what moves


def test_noise_is_as_told_and_fresh() -> None:
    still = {**SHORT, "lighting": 0.0, "size": 96, "face": np.full((96, 96, 3), 128, np.uint8)}
    clip = synthetic_clip("mouth", noise=2.0, **still)
    noise = clip.frames.astype(np.float64) - 128
    assert noise.std() == pytest.approx(np.hypot(2.0, 1 / np.sqrt(12)), rel=0.02)
    frames = noise.reshape(12, -1)
    correlation = np.corrcoef(frames) - np.eye(12)
    assert np.abs(correlation).max() < 0.03
    assert np.abs(np.corrcoef(noise[0].reshape(-1, 3).T) - np.eye(3)).max() < 0.05


@pytest.mark.parametrize("seed", range(4))
def test_lighting_drifts_slowly_and_within_its_bound(seed: int) -> None:
    gray = np.full((64, 64, 3), 128, np.uint8)
    clip = synthetic_clip("mouth", noise=0.0, lighting=20.0, size=64, seed=seed, face=gray)
    light = clip.frames[..., 0].astype(np.float64) - 128
    assert 5 < np.abs(light).max() <= 20.5
    assert np.abs(np.diff(light, axis=0)).max() <= 20 * 2 * np.pi / 40 + 1
    assert np.abs(np.diff(light, axis=1)).max() <= 20 * np.pi / 2 / 64 + 1


def test_another_face() -> None:
    astronaut = skimage_data.astronaut()
    with_face = clean("mouth", size=96, face=np.ascontiguousarray(astronaut[:300, 50:400, ::-1]))
    assert LBPCascade()(with_face.frames[0])[0].overlap(with_face.face) > 0.6
    without = clean("mouth", size=96, face=np.full((200, 300, 3), 90, np.uint8))
    assert without.face.square() == without.face
    assert abs(without.face.x + without.face.width / 2 - 48) <= 1 and abs(without.face.y + without.face.height / 2 - 48) <= 1
    tight = clean("eye", size=96, face=np.ascontiguousarray(astronaut[50:175, 160:285]))
    assert tight.face == tight.face.clipped(96, 96) and tight.face.width > 65


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"region": "nose"}, "region 'nose' is unknown: give one of brow, eye, mouth"),
        ({"amplitude": 0.0}, "amplitude=0"),
        ({"amplitude": 5.01}, "amplitude=5.01"),
        ({"amplitude": float("nan")}, "amplitude=nan"),
        ({"amplitude": 5.0, "size": 40, "region": "eye"}, "amplitude=5.0 would fold the face at size=40"),
        ({"onset": 6}, "onset=6, apex=6"),
        ({"offset": 12}, "offset=12, frames=12"),
        ({"onset": -1}, "onset=-1"),
        ({"size": 16}, "size=16"),
        ({"noise": -1.0}, "noise=-1"),
        ({"lighting": float("inf")}, "lighting=inf"),
        ({"face": np.zeros((8, 8), np.uint8)}, r"face is uint8 \(8, 8\)"),
        ({"face": np.zeros((8, 8, 3))}, r"face is float64 \(8, 8, 3\)"),
    ],
)
def test_bad_arguments_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(MerFastError, match=words) as error:
        synthetic_clip(**{"region": "mouth", "size": 64, **SHORT, **settings})
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def clip() -> SyntheticClip:
    return synthetic_clip("eye", size=64, amplitude=0.8, **SHORT)


def test_a_folder_gives_back_the_clip(tmp_path: Path, clip: SyntheticClip) -> None:
    folder = tmp_path / "deep" / "clip"
    write_frames(clip, folder)
    assert sorted(p.name for p in folder.iterdir()) == [*(f"{k:05d}.png" for k in range(12)), "truth.npz"]
    assert np.array_equal(np.stack(list(Video(folder).frames())), clip.frames)
    truth = read_truth(folder)
    assert truth is not None
    assert (truth.onset, truth.apex, truth.offset) == (2, 6, 10)
    assert np.array_equal(truth.flow, clip.flow) and np.array_equal(truth.moving, clip.moving)
    assert truth.flow.dtype == np.float32 and truth.moving.dtype == bool


def test_writing_again_replaces_a_longer_clip(tmp_path: Path, clip: SyntheticClip) -> None:
    folder = tmp_path / "clip"
    write_frames(synthetic_clip("brow", size=64, frames=15, onset=2, apex=6, offset=10), folder)
    (folder / "notes.txt").write_text("kept")
    write_frames(clip, folder)
    assert np.array_equal(np.stack(list(Video(folder).frames())), clip.frames)
    assert (folder / "notes.txt").read_text() == "kept"
    truth = read_truth(folder)
    assert truth is not None and np.array_equal(truth.flow, clip.flow)


def test_a_folder_of_someone_elses_is_left_alone(tmp_path: Path, clip: SyntheticClip) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "holiday.png").write_bytes(b"dear to someone")
    with pytest.raises(MerFastError, match="holds other files: give a new folder"):
        write_frames(clip, folder)
    assert [p.name for p in folder.iterdir()] == ["holiday.png"]
    (folder / "holiday.png").unlink()
    write_frames(clip, folder)  # empty is as good as new
    assert read_truth(folder) is not None


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("existing", [False, True])
def test_an_interruption_leaves_nothing(
    tmp_path: Path, clip: SyntheticClip, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], existing: bool
) -> None:
    folder = tmp_path / "clip"
    if existing:
        write_frames(clip, folder)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def interrupted(*arguments: Any, **named: Any) -> None:
        raise error

    monkeypatch.setattr(truth_module.np, "savez_compressed", interrupted)
    with pytest.raises(error):
        write_frames(synthetic_clip("mouth", size=64, **SHORT), folder)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert folder.exists() == existing
    assert len(list(tmp_path.iterdir())) == existing


def test_no_truth_is_none(tmp_path: Path) -> None:
    assert read_truth(tmp_path) is None
    assert read_truth(tmp_path / "missing") is None
    video = tmp_path / "clip.avi"
    video.write_bytes(b"frames")
    assert read_truth(video) is None


def test_damaged_truth_is_named(tmp_path: Path, clip: SyntheticClip) -> None:
    write_frames(clip, tmp_path / "clip")
    path = tmp_path / "clip" / "truth.npz"
    whole = path.read_bytes()
    for data in (b"", b"no archive", whole[: len(whole) // 2], whole[:200] + bytes(100) + whole[300:]):
        path.write_bytes(data)
        with pytest.raises(MerFastError, match=r"truth\.npz is damaged") as error:
            read_truth(path.parent)
        assert "\n" not in str(error.value)
    np.savez(path, flow=clip.flow)
    with pytest.raises(MerFastError, match="is damaged"):
        read_truth(path.parent)
    np.savez(path, flow=clip.flow[0], moving=clip.moving, onset=0, apex=1, offset=2)
    with pytest.raises(MerFastError, match="has a flow of shape"):
        read_truth(path.parent)


def test_box_is_what_others_take() -> None:
    assert isinstance(clean("mouth", size=64).face, Box)
