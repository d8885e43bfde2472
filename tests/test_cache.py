"""Preprocessed clips: what is in them, that damage is noticed, that two processes may build, and that memory is bounded."""

import dataclasses
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import mer_fast
from mer_fast import ops
from mer_fast.data import box, synthetic_clip
from mer_fast.data.apex_time import apex_time_sequence
from mer_fast.data.cache import Cache
from mer_fast.data.cached_clips import CachedClips
from mer_fast.data.faces import find_face_in
from mer_fast.data.network_inputs import NETWORK_INPUTS, network_input
from mer_fast.data.preprocessing import ArrayClip, Preprocessing
from mer_fast.evaluation import leave_one_subject_out
from mer_fast.models import create
from mer_fast.training import Recipe

from .mer_sets import one_thread  # noqa: F401 (the fixture)

ROOT = Path(__file__).resolve().parent.parent
SIZE = (20, 24)


def shift(first, second, *, scale=1.0):
    """A flow that costs nothing: how much lighter it got."""
    change = (second.float() - first.float()) * scale
    return torch.stack([change, -change], 1)


def clip(seed=0, frames=9, size=SIZE, gray=True, subject=""):
    draw = np.random.default_rng(seed)
    shape = (frames, *size) if gray else (frames, *size, 3)
    return ArrayClip(draw.integers(0, 256, shape, np.uint8), 1, 4, frames - 2, subject or f"s{seed % 4}", f"c{seed}")


QUICK = Preprocessing(size=SIZE, flow=shift)


def files(folder):
    return sorted(folder.glob("??/[!.]*.safetensors"))


def equal(one, other):
    for field in dataclasses.fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, field.name
    return True


def test_flow_and_strain_from_onset_to_apex(tmp_path):
    one = clip(size=(64, 64), gray=False)
    settings = Preprocessing(size=(32, 40), options={"warps": 2}, shear=1.0, derivative="sobel", keep=("apex", "flow", "strain"))
    entry = Cache(tmp_path, settings).read(one)
    small = [torch.from_numpy(mer_fast.data.crop(one.frames[k], box.Box(0, 0, 64, 64), (32, 40))) for k in (1, 4)]
    flow = ops.tvl1_flow(*small, warps=2)
    assert torch.equal(entry.flow, flow) and torch.equal(entry.apex, small[1]) and entry.clip is None
    assert torch.equal(entry.strain, ops.optical_strain(flow[None], derivative="sobel", shear=1.0)[0])
    assert entry.box == (0, 0, 64, 64)


@pytest.mark.parametrize("frames", [None, 13])
def test_steps_of_the_resampled_clip(tmp_path, frames):
    one = clip()
    entry = Cache(tmp_path, Preprocessing(size=SIZE, flow=shift, pairs="steps", frames=frames, keep=("clip", "flow"))).read(one)
    expected = torch.from_numpy(one.frames[1:8])
    expected = expected if frames is None else ops.tim(expected, frames, dim=0)
    assert torch.equal(entry.clip, expected) and torch.equal(entry.flow, shift(expected[:-1], expected[1:]))
    assert entry.apex_index == (3 if frames is None else 6) and entry.strain is None


def test_steady_flow_is_without_the_heads_motion(tmp_path):
    head = torch.tensor([[1.5, -0.25], [0.0, 2.0]])

    def moving(first, second):
        """The head, and a corner that moves by itself."""
        flow = head[: len(first), :, None, None].repeat(1, 1, *first.shape[1:])
        flow[:, :, :8, :8] += 0.75
        return flow

    settings = Preprocessing(size=SIZE, flow=moving, pairs="steps", frames=3, steady=True)
    entry = Cache(tmp_path, settings).read(clip())
    expected = torch.zeros_like(entry.flow)
    expected[:, :, :8, :8] = 0.75
    torch.testing.assert_close(entry.flow, expected)
    with pytest.raises(mer_fast.MerFastError, match="Preprocessing: steady must be true or false, got 1"):
        Preprocessing(steady=1)


def test_clips_of_one_batch_keep_their_own_flow(tmp_path):
    """Pairs of many clips, of unequal length, go through the flow together, a few at a time."""
    clips = [clip(seed, frames=6 + seed) for seed in range(7)]
    settings = Preprocessing(size=SIZE, flow=shift, pairs="steps")
    sizes = []

    def counted(first, second):
        sizes.append(len(first))
        return shift(first, second)

    cache = Cache(tmp_path / "many", dataclasses.replace(settings, flow=counted), pairs=5)
    assert cache.build(clips) == 7 and max(sizes) <= 5 < sum(sizes)
    for number, one in enumerate(clips):
        assert equal(cache.read(one), Cache(tmp_path / str(number), settings).read(one))


def test_a_face_is_cropped(tmp_path):
    planted = synthetic_clip("mouth", size=160, frames=24, onset=2, apex=10, offset=20)
    one = ArrayClip(planted.frames, 2, 10, 20)
    entry = Cache(tmp_path, Preprocessing(size=(48, 48), face="lbp", keep=("apex",))).read(one)
    assert entry.box == find_face_in(planted.frames[2:12]) and entry.box.overlap(planted.face) > 0.4
    given = Cache(tmp_path, Preprocessing(size=(48, 48), face=entry.box, keep=("apex",))).read(one)
    assert torch.equal(given.apex, entry.apex)
    with pytest.raises(mer_fast.MerFastError, match="clip c0: no frame shows a face"):
        Cache(tmp_path, Preprocessing(size=SIZE, face="lbp")).read(clip(gray=False, size=(60, 60)))


def test_nothing_is_made_twice(tmp_path):
    clips = [clip(seed) for seed in range(5)]
    told = []
    assert Cache(tmp_path, QUICK).build(clips, lambda *words: told.append(words)) == 5
    assert told[-1] == ("preprocessing", 5, 5)
    times = [file.stat().st_mtime_ns for file in files(tmp_path)]
    assert Cache(tmp_path, QUICK).build(clips) == 0 and Cache(tmp_path, QUICK).build([*clips, clip(9)]) == 1
    assert [os.stat(file).st_mtime_ns for file in files(tmp_path)][:0] == [] and len(files(tmp_path)) == 6
    assert set(times) <= {file.stat().st_mtime_ns for file in files(tmp_path)}


def test_an_entry_is_of_its_content_and_settings():
    one = clip()
    other_pixel = dataclasses.replace(one, frames=one.frames.copy())
    other_pixel.frames[4, 3, 3] ^= 1
    elsewhere = dataclasses.replace(one, frames=one.frames.copy(), name="renamed")
    elsewhere.frames[6] = 0  # neither onset nor apex
    key = Cache("nowhere", QUICK).key
    assert key(one) == key(elsewhere) != key(other_pixel)
    assert key(one) != key(dataclasses.replace(one, peak_index=5)) and not Path("nowhere").exists()
    keys = {key(one)}
    for change in (
        {"size": (20, 25)}, {"face": box.Box(0, 0, 20, 20)}, {"frames": 5}, {"pairs": "steps"}, {"flow": "tvl1"}, {"shear": 1.0},
        {"options": {"scale": 2.0}}, {"derivative": "sobel"}, {"keep": ("flow",)}, {"keep": ("clip",)}, {"margin": 0.2},
        {"steady": True},
    ):  # fmt: skip
        keys.add(Cache("nowhere", dataclasses.replace(QUICK, **change)).key(one))
    assert len(keys) == 13


def image_clip(folder, one):
    """The same clip as image files."""
    cv2 = pytest.importorskip("cv2")
    folder.mkdir(parents=True)
    paths = tuple(folder / f"{k:03}.png" for k in range(len(one.frames)))
    for path, frame in zip(paths, one.frames, strict=True):
        cv2.imwrite(str(path), frame)

    class Images:
        frames, onset_index, peak_index, offset_index, subject, reads = paths, 1, 4, 7, "s0", 0

        def read(self, indices):
            Images.reads += len(indices)
            return np.stack([cv2.imread(str(paths[k]), 0) for k in indices])

    return Images()


def test_files_are_known_by_their_times_and_sizes(tmp_path, monkeypatch):
    one = image_clip(tmp_path / "images", clip())
    cache = tmp_path / "cache"
    first = Cache(cache, QUICK).read(one)
    reads = one.reads
    monkeypatch.setattr(Path, "read_bytes", None)  # the files are not even opened
    assert equal(Cache(cache, QUICK).read(one), first) and one.reads == reads
    monkeypatch.undo()
    # Half a line, as a kill might leave it, and one whose content was changed.
    lines = (cache / "known.txt").read_text()
    signature, content, check = lines.split()
    (cache / "known.txt").write_text(f"{signature} {content[::-1]} {check}\n{lines[:50]}")
    assert equal(Cache(cache, QUICK).read(one), first) and one.reads == reads and len(files(cache)) == 1
    # The apex changes.
    image_clip(tmp_path / "others", clip(1)).frames[4].replace(one.frames[4])
    assert not torch.equal(Cache(cache, QUICK).read(one).flow, first.flow) and len(files(cache)) == 2
    one.frames[4].unlink()
    with pytest.raises(mer_fast.MerFastError, match=r"004\.png: No such file"):
        Cache(cache, QUICK).read(one)


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped value", "flipped header", "another's", "not ours"])
def test_a_damaged_entry_is_made_again(tmp_path, damage):
    clips = [clip(0), clip(1)]
    cache = Cache(tmp_path, QUICK)
    cache.build(clips)
    entries = [cache.read(one) for one in clips]
    path = cache._path(cache.key(clips[0]))
    whole = path.read_bytes()
    value, header = bytearray(whole), bytearray(whole)
    value[-5] ^= 8
    header[whole.index(b"[2,20,24]") + 1] ^= 1
    path.write_bytes({
        "truncated": whole[:-100], "empty": b"", "flipped value": value, "flipped header": header,
        "another's": cache._path(cache.key(clips[1])).read_bytes(), "not ours": os.urandom(5000),
    }[damage])  # fmt: skip
    assert equal(Cache(tmp_path, QUICK).read(clips[0]), entries[0])
    assert path.read_bytes() != b"" and len(files(tmp_path)) == 2
    path.write_bytes(whole[:-1])
    assert Cache(tmp_path, QUICK).build(clips) == 1 and equal(cache.read(clips[0]), entries[0])


def test_every_flipped_bit_is_noticed(tmp_path):
    """Of an entry: it reads as it was, or not at all."""
    small = Preprocessing(size=(16, 16), flow=shift, keep=("flow",))
    cache, one = Cache(tmp_path, small), clip()
    expected = cache.read(one)
    path = cache._path(cache.key(one))
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[place] ^= 1 << (place % 8)
        path.write_bytes(changed)
        found = cache._load(cache.key(one))
        assert found is None or equal(found, expected), place


def test_what_killed_writers_left_is_removed(tmp_path):
    cache = Cache(tmp_path, QUICK)
    cache.build([clip()])
    shelf = files(tmp_path)[0].parent
    old, new = shelf / ".a.1234.safetensors", shelf / ".b.1234.safetensors"
    for left in (old, new):
        left.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    cache.build([clip()])
    assert not old.exists() and new.exists()


BUILD = """
import sys
from tests.test_cache import *

class Slow(ArrayClip):
    def read(self, indices):
        time.sleep(0.005)
        return super().read(indices)

torch.set_num_threads(1)
clips = [Slow(**vars(clip(seed))) for seed in range(100)]
print("ready", flush=True)
sys.stdin.readline()
print(Cache(sys.argv[1], QUICK, pairs=1).build(clips), flush=True)
"""


def test_two_processes_build_at_once_and_one_is_killed(tmp_path):
    """They share the work, and the other one does what the killed one left."""
    command = [sys.executable, "-c", BUILD, str(tmp_path)]
    options = {"cwd": ROOT, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **options) as killed, subprocess.Popen(command, **options) as other:
        assert killed.stdout.readline() == other.stdout.readline() == "ready\n"
        for process in (killed, other):
            process.stdin.write("\n")
            process.stdin.flush()
        while len(files(tmp_path)) < 20:
            assert killed.poll() is None is other.poll()
            time.sleep(0.001)
        killed.kill()
        made = int(other.stdout.readline())
    assert killed.returncode == -signal.SIGKILL and 0 < made < 100
    clips = [clip(seed) for seed in range(100)]
    assert Cache(tmp_path, QUICK).build(clips) == 0 and len(files(tmp_path)) == 100
    for one in clips[::9]:
        assert equal(Cache(tmp_path, QUICK).read(one), Cache(tmp_path / "afresh", QUICK).read(one))


MANY = """
import resource, sys
from tests.test_cache import *

class Pair:
    \"\"\"Two frames, made when they are read.\"\"\"
    onset_index, peak_index, offset_index, frames = 0, 1, 1, (0, 1)
    def __init__(self, seed):
        self.seed = seed
    def read(self, indices):
        return np.random.default_rng(self.seed).integers(0, 256, (2, 128, 128), np.uint8)[list(indices)]

settings, start = Preprocessing(flow=eval(sys.argv[3]), options=eval(sys.argv[4])), time.time()
for count in map(int, sys.argv[2].split(",")):
    assert Cache(sys.argv[1], settings).build([Pair(seed) for seed in range(count)])
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
print(round(time.time() - start))
"""


def peaks(folder, counts, flow="shift", options="{}"):
    command = [sys.executable, "-c", MANY, str(folder), counts, flow, options]
    return [int(word) for word in subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout.split()]


def test_memory_does_not_grow_with_the_clips(tmp_path):
    few, many, _ = peaks(tmp_path, "100,350")
    assert many - few < 30, (few, many)  # what was made of 250 clips is 49 MB


@pytest.mark.full
@pytest.mark.parametrize(
    ("flow", "options"), [("shift", "{}"), ("'tvl1'", "dict(scales=2, warps=1, inner_iterations=5, outer_iterations=1)")]
)
def test_sixteen_thousand_pairs_under_two_gigabytes(tmp_path, flow, options):
    most, seconds = peaks(tmp_path, "16000", flow, options)
    print(f"16,000 pairs, {flow}: {most} MB, {seconds} s")
    assert most < 2000


def test_a_data_set_for_evaluation(tmp_path):
    clips = [clip(seed, size=(40, 40)) for seed in range(8)]
    read_by = network_input("ststnet", size=(24, 24), flow=shift)
    cache = Cache(tmp_path, read_by.settings)
    data = CachedClips(clips, cache, read_by.make, [k % 3 for k in range(8)])
    assert data.subjects == ["s0", "s1", "s2", "s3"] * 2 and data.databases is None and len(data) == 8
    maps, label = data[4]
    assert maps.shape == (3, 28, 28) and label == 1 and data[4][0] is maps
    report = leave_one_subject_out(lambda: create("ststnet", 3), data, train=Recipe(lr=0.1, epochs=1), resume=tmp_path / "kept")
    assert len(report.predictions) == 8
    again = pickle.loads(pickle.dumps(CachedClips(clips, cache, read_by.make, data.labels, memory=0)))
    assert torch.equal(again[4][0], maps) and again.fingerprint == data.fingerprint
    before = data.fingerprint
    clips[4].frames[4] += 1
    assert data.fingerprint != before
    with pytest.raises(mer_fast.MerFastError, match="labels must be one for each of 8 clips, got 2"):
        CachedClips(clips, cache, read_by.make, [0, 1])
    with pytest.raises(mer_fast.MerFastError, match="labels must be one for each of 8 clips, got None"):
        CachedClips(clips, cache, read_by.make)


@pytest.mark.parametrize("network", NETWORK_INPUTS)
def test_every_network_takes_its_input(tmp_path, network):
    one = clip(frames=12, size=(70, 66), gray=False)
    options = {"strcn-g": {"width": 4}, "strcn-a": {"width": 4}, "atnet": {"width": 2, "hidden": 4}}.get(network, {})
    if network.startswith("microexp"):
        options["frames"] = 18
    changes = {"frames": 18} if "frames" in options else {"flow": shift}
    read_by = network_input(network, **changes)
    value = read_by.make(Cache(tmp_path, read_by.settings).read(one))
    model = create(network, 3, **options).eval()
    inputs = [part[None] for part in (value if isinstance(value, tuple) else (value,))]
    if network == "strcn-a":
        model.fit_mask([inputs[0][0]])
    assert model(*inputs).shape == (1, 3)


def test_the_apex_stands_at_row_32():
    flow = torch.zeros(70, 2, 16, 24)
    flow[:, 0] = torch.arange(1, 71)[:, None, None]  # u of the flow that leads to frame k is k
    flow[:, 1, :8, :12] = -flow[:, 0, :8, :12]
    for apex, length in ((40, 70), (5, 12), (0, 3), (12, 12)):
        rows = apex_time_sequence(flow[:length], apex)
        assert rows.shape == (64, 128)
        for row in range(64):
            frame = row - 32 + apex
            there = 1 <= frame <= length
            angles, magnitudes = rows[row].view(8, 8, 2).unbind(2)
            assert magnitudes[7, 7] == (frame if there else 0) and angles[7, 7] == 0
            assert magnitudes[3, 3] == pytest.approx(2**0.5 * frame if there else 0)
            assert angles[3, 3] == pytest.approx(-torch.pi / 4 if there else 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Preprocessing(size=(8, 20)), "size must be at least 16"),
        (lambda: Preprocessing(size=(20,)), r"size must be \(height, width\)"),
        (lambda: Preprocessing(frames=0), "frames must be at least 1"),
        (lambda: Preprocessing(pairs="all"), "pairs must be 'apex' or 'steps', got 'all'"),
        (lambda: Preprocessing(flow="lk"), "flow must be one of 'tvl1', 'farneback' or a function, got 'lk'"),
        (lambda: Preprocessing(keep=("flows",)), r"keep must name some of clip, apex, flow, strain, got \('flows',\)"),
        (lambda: network_input("resnet"), "network must be one of ststnet, .* got 'resnet'"),
        (lambda: network_input("ststnet", colour=True), "colour is no setting; there are size, face"),
        (lambda: apex_time_sequence(torch.zeros(3, 2, 16, 16), 4), "apex must be a frame of the clip, 0 to 3, got 4"),
        (lambda: apex_time_sequence(torch.zeros(3, 2, 16, 7), 1), "H and W at least 8"),
    ],
)
def test_settings_that_will_not_do(call, message):
    with pytest.raises(mer_fast.MerFastError, match=message):
        call()


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({"peak_index": 9}, {}, "clip c0: onset 1, apex 9 and offset 7 must be ascending indices of its 9 frames"),
        ({"onset_index": -1}, {}, "must be ascending indices"),
        ({"frames": np.zeros((9, 20, 24))}, {}, r"clip c0: frames must be uint8 .* got float64 \(2, 20, 24\)"),
        ({"frames": np.zeros((9, 20, 24, 4), np.uint8)}, {}, r"frames must be uint8 .* got uint8 \(2, 20, 24, 4\)"),
        ({"peak_index": 1, "offset_index": 1}, {"pairs": "steps"}, "clip c0: has one frame from onset to offset"),
        ({}, {"flow": lambda a, b: a}, r"flow must give \(1, 2, 20, 24\), got torch.Size\(\[1, 20, 24\]\)"),
        ({}, {"flow": lambda a, b: shift(a, b) / 0}, "clip c0: its flow is not finite"),
    ],
)
def test_clips_that_will_not_do(tmp_path, changes, settings, message):
    with pytest.raises(mer_fast.MerFastError, match=message):
        Cache(tmp_path, dataclasses.replace(QUICK, **settings)).build([dataclasses.replace(clip(), **changes)])


def test_the_folder_must_be_one(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(mer_fast.MerFastError, match="is a file, not a folder for the cache"):
        Cache(tmp_path / "file", QUICK)
