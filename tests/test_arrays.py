"""The doors of the ops: NumPy arrays and those of other libraries with DLPack go in without a copy, the same kind comes out."""

import subprocess
import sys
import types
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch

import mer_fast
from mer_fast import ops
from mer_fast.ops import _arrays
from mer_fast.ops._arrays import takes_arrays

from .kit import fake_cupy

FRAMES = np.random.default_rng(0).integers(0, 256, (2, 3, 24, 32), dtype=np.uint8)  # two of (N, H, W)
FLOW = np.random.default_rng(1).standard_normal((3, 2, 9, 11)).astype(np.float32)
CALLS = {
    "tvl1_flow": (lambda a, b: ops.tvl1_flow(a, b, warps=1, scales=2), (FRAMES[0], FRAMES[1])),
    "farneback_flow": (lambda a, b: ops.farneback_flow(a, b, levels=1), (FRAMES[0], FRAMES[1])),
    "optical_strain": (ops.optical_strain, (FLOW,)),
    "tim": (lambda clip: ops.tim(clip, 5, dim=0), (FLOW,)),
}
every_call = pytest.mark.parametrize(("call", "arrays"), CALLS.values(), ids=CALLS)


@takes_arrays("x", "y")
def double(x: torch.Tensor, y: torch.Tensor | None = None, *, plain: int = 0) -> torch.Tensor:
    """An op that tells which memory it was given."""
    return torch.tensor([x.data_ptr(), 0 if y is None else y.data_ptr(), plain])


def as_tensors(call, arrays):
    return call(*(torch.from_numpy(a) for a in arrays)).numpy()


# --- a library that has DLPack ----------------------------------------------------------------------------------------
def make_library(monkeypatch, name="faketensor", place="", namespace=False):
    """A module with an array type; from_dlpack in the module itself or in the submodule `place`."""
    library = types.ModuleType(name)
    home = types.ModuleType(f"{name}.{place}") if place else library

    class Array:
        def __init__(self, host):
            self.host = host

        def __dlpack__(self, **how):
            return self.host.__dlpack__(**how)

        def __dlpack_device__(self):
            return self.host.__dlpack_device__()

        if namespace:

            def __array_namespace__(self):
                return types.SimpleNamespace(from_dlpack=lambda x: Array(np.from_dlpack(x)))

    Array.__module__ = home.__name__ + ".core"
    if not namespace:
        home.from_dlpack = lambda x: Array(np.from_dlpack(x))
    home.Array = Array
    for module in {library, home}:
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return home


@pytest.fixture
def library(monkeypatch):
    return make_library(monkeypatch)


# --- NumPy ------------------------------------------------------------------------------------------------------------
@every_call
def test_numpy_in_numpy_out(call, arrays):
    out = call(*arrays)
    assert type(out) is np.ndarray
    assert np.array_equal(out, as_tensors(call, arrays))


def test_numpy_is_not_copied():
    x, y = np.zeros(3, np.float32), np.zeros((2, 2), np.uint8)
    frozen = np.zeros(4)
    frozen.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert double(x, y=y, plain=7).tolist() == [x.ctypes.data, y.ctypes.data, 7]
        assert double(frozen).tolist() == [frozen.ctypes.data, 0, 0]
        spread = np.broadcast_to(np.float32(2), (3, 4))
        assert double(spread).tolist()[0] == spread.ctypes.data
    assert not frozen.flags.writeable
    result = takes_arrays("x")(lambda x: x * 2)(x)
    assert result.flags.writeable and result.flags.owndata is False  # torch's memory


def test_a_frozen_array_lives_as_long_as_its_tensor():
    keep = []

    @takes_arrays("x")
    def hold(x: torch.Tensor) -> torch.Tensor:
        keep.append(x)
        return x

    frozen = np.full(100_000, 3.0)
    frozen.flags.writeable = False
    hold(frozen)
    del frozen
    np.full(100_000, 5.0)
    assert bool((keep[0] == 3).all())


@pytest.mark.parametrize(
    "turn",
    [
        lambda x: x[::-1], lambda x: x[..., ::-1, ::2], lambda x: np.asfortranarray(x), lambda x: x.astype(">f4"),
        lambda x: x.astype([("a", "f4"), ("b", "u1")])["a"], lambda x: _unaligned(x), lambda x: x.astype(np.float16),
        lambda x: x.astype(np.float64), lambda x: np.broadcast_to(x[:1], x.shape), lambda x: x[:0],
    ],
    ids=["reversed", "skipped", "Fortran", "big-endian", "field", "unaligned", "half", "double", "broadcast", "empty"],
)  # fmt: skip
def test_any_layout_of_numpy(turn):
    x = turn(FLOW)
    before = x.copy()
    out = ops.optical_strain(x)
    plain = np.array(x, x.dtype.newbyteorder("="), order="C")
    assert out.dtype == plain.dtype
    assert np.array_equal(out, ops.optical_strain(torch.from_numpy(plain)).numpy())
    assert np.array_equal(x, before)


def _unaligned(x):
    memory = np.empty(x.nbytes + 1, np.uint8)[1:]
    memory[:] = np.frombuffer(x.tobytes(), np.uint8)
    return memory.view(x.dtype).reshape(x.shape)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.tim(FLOW.astype(np.int64), 3), "tim: clip must be uint8 or a float tensor, got torch.int64; convert"),
        (lambda: ops.tim(FLOW > 0, 3), "tim: clip must be uint8 or a float tensor, got torch.bool; convert"),
        (lambda: ops.optical_strain(FLOW.astype(np.uint8)), "optical_strain: flow must be a float tensor, got torch.uint8"),
        (lambda: ops.tim(FLOW.astype(np.longdouble), 3), r"tim: clip must be uint8 or float, got \w+; convert it to float32"),
        (lambda: ops.tim(np.array(["a"]), 3), "tim: clip must be uint8 or float, got <U1"),
        (lambda: ops.tim(np.array([None]), 3), "tim: clip must be uint8 or float, got object"),
        (lambda: ops.tim(np.ma.masked_less(FLOW, 0), 3), r"tim: clip is a masked array; fill it with .filled\(\)"),
        (lambda: ops.tim([1.0], 3), "tim: clip must be a torch.Tensor, a NumPy array or another array .*got list"),
        (lambda: ops.tim(np.float32(1), 3), "tim: clip must be .* got float32"),
        (lambda: ops.tim(None, 3), "tim: clip must be a torch.Tensor, got NoneType"),
        (lambda: ops.tvl1_flow(FRAMES[0], None), "tvl1_flow: frame1 must be a torch.Tensor, got NoneType"),
        (lambda: ops.tvl1_flow(*FRAMES, initial_flow=3), "tvl1_flow: initial_flow must be a torch.Tensor, a NumPy .* got int"),
        (lambda: ops.tvl1_flow(FRAMES[0], FRAMES[1, :2]), "tvl1_flow: frame0 and frame1 must have one shape"),
        (
            lambda: ops.tvl1_flow(FRAMES[0], torch.from_numpy(FRAMES[1])),
            "tvl1_flow: arrays of one kind are wanted, got frame0 of numpy, frame1 of torch; convert",
        ),
        (lambda: ops.tvl1_flow(torch.from_numpy(FRAMES[0]), FRAMES[1]), "tvl1_flow: frame1 must be a torch.Tensor, got ndarray"),
    ],
)
def test_bad_arrays_of_numpy(call, message):
    with pytest.raises(mer_fast.MerFastError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_wrong_arguments_are_python_s_own_errors():
    with pytest.raises(TypeError, match=r"tim\(\).*num_frames"):
        ops.tim(FLOW)
    with pytest.raises(TypeError, match=r"tim\(\).*clip"):
        ops.tim(num_frames=3)
    with pytest.raises(TypeError, match=r"tim\(\).*speed"):
        ops.tim(FLOW, 3, speed=2)


# --- DLPack -----------------------------------------------------------------------------------------------------------
@every_call
def test_another_library_in_and_out(call, arrays, library):
    out = call(*(library.Array(a) for a in arrays))
    assert type(out) is library.Array
    assert np.array_equal(out.host, as_tensors(call, arrays))


@pytest.mark.parametrize("where", [{"place": "numpy"}, {"namespace": True}], ids=["submodule", "array namespace"])
def test_from_dlpack_is_found(monkeypatch, where):
    library = make_library(monkeypatch, **where)
    assert type(ops.tim(library.Array(FLOW), 2)) is library.Array


def test_dlpack_does_not_copy(library):
    x = np.zeros(5, np.float32)
    assert double(library.Array(x)).host[0] == x.ctypes.data
    same = takes_arrays("x")(lambda x: x)
    assert np.shares_memory(same(library.Array(x)).host, x)


def test_what_dlpack_cannot_say_is_one_clear_line(library, monkeypatch):
    def refusing(self, **how):
        raise BufferError("not today")

    with pytest.raises(mer_fast.MerFastError, match=r"tim: clip must be uint8 or a float tensor, got torch.int64"):
        ops.tim(library.Array(FLOW.astype(int)), 3)
    reversed_ = library.Array(FLOW[::-1])
    reversed_.strides = reversed_.host.strides
    with pytest.raises(mer_fast.MerFastError, match=r"tim: clip has a negative stride, .*make it contiguous"):
        ops.tim(reversed_, 3)
    monkeypatch.setattr(library.Array, "__dlpack__", refusing)
    with pytest.raises(mer_fast.MerFastError, match=r"tim: clip does not go through DLPack into torch \(not today\)"):
        ops.tim(library.Array(FLOW), 3)
    del library.from_dlpack
    with pytest.raises(mer_fast.MerFastError, match=r"tim: faketensor has no from_dlpack .* pass torch.from_dlpack"):
        ops.tim(library.Array(FLOW), 3)


def test_two_libraries_do_not_mix(library, monkeypatch):
    other = make_library(monkeypatch, "another")
    for frame1 in (other.Array(FRAMES[1]), FRAMES[1], torch.from_numpy(FRAMES[1])):
        with pytest.raises(mer_fast.MerFastError, match=r"frame0 of faketensor, frame1 of (another|numpy|torch)"):
            ops.tvl1_flow(library.Array(FRAMES[0]), frame1)


# --- CuPy through torch -----------------------------------------------------------------------------------------------
@pytest.fixture
def streams(monkeypatch):
    """A torch that says it serves CUDA; the streams that it is told to run on while an op runs."""
    current, seen = [None], []

    @contextmanager
    def on(stream):
        current.append(stream)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(_arrays, "why_not", lambda op, implementation, device: None)
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda pointer, device: ("stream", pointer, device))
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: ("default", device))
    monkeypatch.setattr(torch.cuda, "stream", on)

    @takes_arrays("x")
    def probe(x: torch.Tensor) -> torch.Tensor:
        seen.append(current[-1])
        return x

    return types.SimpleNamespace(probe=probe, seen=seen, current=current)


def test_cupy_s_stream_is_torch_s(streams):
    with fake_cupy.installed(fake_cupy.make(None)) as cupy:
        x = cupy.ndarray(np.ones(3))
        out = streams.probe(x)
        assert type(out) is cupy.ndarray and np.shares_memory(out.host, x.host)
        with cupy.cuda.stream(4096):
            streams.probe(cupy.ndarray(np.ones(3), device=1))
        assert streams.seen == [("default", 0), ("stream", 4096, 1)]
        assert streams.current == [None] and cupy.entered == [0]


def test_cupy_with_a_negative_stride_is_made_contiguous(streams):
    with fake_cupy.installed(fake_cupy.make(None)) as cupy:
        out = streams.probe(cupy.ndarray(np.arange(4.0)[::-1]))
        assert out.host.tolist() == [3, 2, 1, 0]


def test_cupy_asks_for_another_implementation_through_torch(monkeypatch):
    """Without CUDA in torch, "reference" cannot run on CuPy's arrays, and says so rather than running something else."""
    with fake_cupy.installed(fake_cupy.make(None)) as cupy:
        monkeypatch.setattr(cupy.ndarray, "__dlpack_device__", lambda self: (2, 0))
        monkeypatch.setattr(_arrays, "_stream_of", lambda array: torch.no_grad())
        with mer_fast.backend("reference"), pytest.raises(mer_fast.MerFastError, match="tim: clip does not go through DLPack"):
            ops.tim(cupy.ndarray(FLOW), 3)


# --- tensors ----------------------------------------------------------------------------------------------------------
def test_tensors_pass_as_they_are():
    x = torch.rand(4, 2, 6, 5)
    assert ops.tim(clip=x, num_frames=3).equal(ops.tim.__wrapped__(x, 3))
    torch.compiler.reset()
    compiled = torch.compile(lambda x: ops.optical_strain(flow=x) + 1, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), ops.optical_strain(x) + 1)
    assert torch.vmap(lambda x: ops.optical_strain(flow=x))(x[None]).shape == (1, 4, 1, 6, 5)


def test_importing_takes_no_array_library():
    program = "import sys, mer_fast; print([m for m in ('cupy', 'cv2', 'mer_fast.nvrtc', 'mer_fast.compat') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_doors_read_as_the_ops():
    for name in CALLS:
        op = getattr(ops, name)
        assert op.__name__ == name and op.__module__ == f"mer_fast.ops.{name}" and "NumPy" in op.__doc__
