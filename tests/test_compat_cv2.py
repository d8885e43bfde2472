"""`from mer_fast.compat import cv2` in place of `import cv2`: the same script, the same flow."""

import subprocess
import sys

import numpy as np
import pytest
from scipy import ndimage

import mer_fast
from mer_fast import ops
from mer_fast.compat import _opencv, cv2

real = pytest.importorskip("cv2")

FARNEBACK = (0.5, 3, 15, 3, 5, 1.2, 0)
HAS_TVL1 = hasattr(real, "optflow")
needs_tvl1 = pytest.mark.skipif(not HAS_TVL1, reason="this OpenCV has no DualTVL1; install opencv-contrib-python")

SCRIPT = """
import sys
import numpy as np
{line}

cap = np.load(sys.argv[1])
frames = [cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in cap["frames"]]

flow = None
found = {{}}
for k in range(1, len(frames)):
    flow = cv2.calcOpticalFlowFarneback(frames[k - 1], frames[k], flow, 0.5, 3, 15, 3, 5, 1.2, 0)
    found[f"farneback{{k}}"] = flow.copy()
found["farneback_again"] = cv2.calcOpticalFlowFarneback(
    prev=frames[0], next=frames[1], flow=flow.copy(), pyr_scale=0.5, levels=2, winsize=13, iterations=2, poly_n=7, poly_sigma=1.5,
    flags=cv2.OPTFLOW_USE_INITIAL_FLOW | cv2.OPTFLOW_FARNEBACK_GAUSSIAN)
farneback = cv2.FarnebackOpticalFlow_create(numLevels=4)
farneback.setWinSize(11)
found["farneback_class"] = farneback.calc(frames[0], frames[1], None)
magnitude, angle = cv2.cartToPolar(flow[..., 0], flow[..., 1])

if hasattr(cv2, "optflow"):
    tvl1 = cv2.optflow.DualTVL1OpticalFlow_create(nscales=4)
    tvl1.setLambda(0.2)
    assert tvl1.getLambda() == 0.2 and tvl1.getScalesNumber() == 4 and tvl1.getInnerIterations() == 30
    found["tvl1"] = tvl1.calc(frames[0], frames[1], None)
    unit = [np.float32(frame) / 255 for frame in frames]
    found["tvl1_float"] = cv2.optflow.createOptFlow_DualTVL1().calc(unit[0], unit[1], None)
    again = cv2.optflow.DualTVL1OpticalFlow_create(useInitialFlow=True)
    start = found["tvl1"].copy()
    assert again.calc(frames[0], frames[1], start) is start
    found["tvl1_again"] = start
try:
    cv2.calcOpticalFlowFarneback(frames[0], frames[1][1:], None, 0.5, 3, 15, 3, 5, 1.2, 0)
except cv2.error:
    found["caught"] = np.ones(1)
np.savez(sys.argv[2], **found)
"""


def moving(height=96, width=112, count=3, seed=5):
    """Gray frames (count, H, W) uint8 of a texture that grows and shifts."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).random((height, width)), 2.5, mode="wrap")
    field = (field - field.min()) / (field.max() - field.min())
    y, x = np.mgrid[:height, :width]
    places = [(y * (1 - 0.01 * k) - 0.7 * k, x * (1 + 0.012 * k) + 0.9 * k) for k in range(count)]
    return np.stack([np.uint8(255 * ndimage.map_coordinates(field, p, order=1, mode="reflect")) for p in places])


def near(ours, theirs, pixels, share):
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype == np.float32
    gap = np.linalg.norm(ours - theirs, axis=-1)
    assert (gap <= pixels).mean() >= share, f"{(gap <= pixels).mean():.2%} of pixels within {pixels} px"


@pytest.fixture(scope="module")
def frames():
    return moving()


# --- the same script --------------------------------------------------------------------------------------------------
def test_a_script_runs_with_the_import_changed(tmp_path, frames):
    np.savez(tmp_path / "clip.npz", frames=np.repeat(frames[..., None], 3, -1))
    results = []
    for name, line in (("theirs", "import cv2"), ("ours", "from mer_fast.compat import cv2")):
        script, out = tmp_path / f"{name}.py", tmp_path / f"{name}.npz"
        script.write_text(SCRIPT.format(line=line))
        done = subprocess.run([sys.executable, script, tmp_path / "clip.npz", out], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        results.append(np.load(out))
    theirs, ours = results
    assert set(ours) == set(theirs) and "caught" in ours
    for name in ours:
        if name.startswith("farneback"):
            near(ours[name], theirs[name], 0.01, 0.99)
        elif name.startswith("tvl1"):
            near(ours[name], theirs[name], 0.1, 0.95)


# --- DualTVL1 ---------------------------------------------------------------------------------------------------------
GETTERS = [
    "Tau", "Lambda", "Theta", "ScalesNumber", "WarpingsNumber", "Epsilon", "InnerIterations", "OuterIterations",
    "ScaleStep", "Gamma", "MedianFiltering", "UseInitialFlow",
]  # fmt: skip


@needs_tvl1
def test_tvl1_has_opencv_s_interface():
    ours, theirs = cv2.optflow.DualTVL1OpticalFlow_create(), real.optflow.DualTVL1OpticalFlow_create()
    inherited = {"read", "write", "save"}  # parameter files
    assert {n for n in dir(theirs) if not n.startswith("_")} - inherited <= set(dir(ours))
    assert ours.getDefaultName() == theirs.getDefaultName() and ours.empty() == theirs.empty()
    for one in GETTERS:
        value = getattr(theirs, f"get{one}")()
        # OpenCV keeps some as float and some as double
        assert getattr(ours, f"get{one}")() == pytest.approx(value) and type(getattr(ours, f"get{one}")()) is type(value)
    values = (0.125, 0.25, 0.5, 2, 3, 0.0625, 7, 4, 0.75, 0.0, 3, True)
    ours, theirs = (make(*values) for make in (cv2.optflow.DualTVL1OpticalFlow.create, real.optflow.DualTVL1OpticalFlow.create))
    assert [getattr(ours, f"get{one}")() for one in GETTERS] == [getattr(theirs, f"get{one}")() for one in GETTERS] == [*values]
    for one, value in zip(GETTERS, values, strict=True):
        fresh = cv2.DualTVL1OpticalFlow_create()
        getattr(fresh, f"set{one}")(value)
        assert getattr(fresh, f"get{one}")() == value
    assert ours.collectGarbage() is None and ours.clear() is None


def test_tvl1_parameters_reach_the_op(frames):
    chosen = dict(tau=0.2, theta=0.25, epsilon=0.02, scale_step=0.7, warps=2, scales=3, inner_iterations=9, outer_iterations=2)
    tvl1 = cv2.DualTVL1OpticalFlow(0.2, 0.1, 0.25, 3, 2, 0.02, 9, 2, 0.7, 0.0, 3)
    planes = ops.tvl1_flow(frames[0], frames[1], lam=0.1, median=3, **chosen)
    assert np.array_equal(tvl1.calc(frames[0], frames[1], None), planes.transpose(1, 2, 0))


@needs_tvl1
def test_float_frames_out_of_range_do_what_opencv_does(frames):
    """OpenCV multiplies them by 255 whatever they hold. Its flow is then rough, and its own builds with and without vector
    code agree on no more than 94% of the pixels."""
    wide = [frame / np.float32(100) for frame in frames]
    with pytest.warns(UserWarning, match="multiplies float32 frames by 255, and these reach 2.55; divide") as caught:
        ours = cv2.DualTVL1OpticalFlow_create().calc(wide[0], wide[1], None)
    assert caught[0].filename == __file__
    near(ours, real.optflow.DualTVL1OpticalFlow_create().calc(wide[0], wide[1], None), 0.1, 0.9)


# --- Farneback --------------------------------------------------------------------------------------------------------
def test_farneback_has_opencv_s_interface():
    ours, theirs = cv2.FarnebackOpticalFlow_create(), real.FarnebackOpticalFlow_create()
    names = [n for n in dir(theirs) if n.startswith("get")]
    assert {n: getattr(ours, n)() for n in names} == {n: pytest.approx(getattr(theirs, n)()) for n in names if n} | {
        "getDefaultName": theirs.getDefaultName()
    }
    for name, value in [("NumLevels", 2), ("PyrScale", 0.25), ("FastPyramids", True), ("WinSize", 9), ("Flags", 256)]:
        getattr(ours, f"set{name}")(value)
        assert getattr(ours, f"get{name}")() == value


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint16, np.int32, np.float16, ">f4"])
def test_farneback_takes_gray_values_of_any_dtype(frames, dtype):
    pair = [frame.astype(dtype) for frame in frames[:2]]
    near(
        cv2.calcOpticalFlowFarneback(*pair, None, *FARNEBACK),
        cv2.calcOpticalFlowFarneback(*frames[:2], None, *FARNEBACK),
        0.01,
        0.99,
    )
    mixed = cv2.calcOpticalFlowFarneback(pair[0], frames[1], None, *FARNEBACK)
    near(mixed, real.calcOpticalFlowFarneback(frames[0], frames[1], None, *FARNEBACK), 0.01, 0.99)


@pytest.mark.parametrize("levels", [0, 1, 3])
def test_no_iterations_do_what_opencv_does(frames, levels):
    frames = frames[:2]
    assert not cv2.calcOpticalFlowFarneback(*frames, None, 0.5, levels, 15, 0, 5, 1.2, 0).any()
    start = np.random.default_rng(2).normal(size=(96, 112, 2)).astype(np.float32)
    ours, theirs = (
        module.calcOpticalFlowFarneback(*frames, start.copy(), 0.5, levels, 15, 0, 5, 1.2, cv2.OPTFLOW_USE_INITIAL_FLOW)
        for module in (cv2, real)
    )
    assert theirs.any() and np.abs(ours - theirs).max() < 1e-4


@pytest.mark.parametrize("sigma", [-1.0, -1e-9, 1e-9, 0])
def test_no_sigma_is_that_of_the_neighbourhood(frames, sigma):
    ours, theirs = (module.calcOpticalFlowFarneback(*frames[:2], None, 0.5, 3, 15, 3, 5, sigma, 0) for module in (cv2, real))
    assert np.array_equal(ours, cv2.calcOpticalFlowFarneback(*frames[:2], None, 0.5, 3, 15, 3, 5, 1.5, 0))
    near(ours, theirs, 0.01, 0.99)


# --- both -------------------------------------------------------------------------------------------------------------
FLOWS = {
    "farneback": lambda a, b, flow: cv2.calcOpticalFlowFarneback(a, b, flow, *FARNEBACK),
    "farneback class": lambda a, b, flow: cv2.FarnebackOpticalFlow_create().calc(a, b, flow),
    "tvl1": lambda a, b, flow: cv2.DualTVL1OpticalFlow_create(nscales=2, warps=1).calc(a, b, flow),
}
every_flow = pytest.mark.parametrize("calc", FLOWS.values(), ids=FLOWS)


@every_flow
def test_a_batch_is_many_pairs(calc, frames):
    out = calc(frames[:2], frames[1:], None)
    assert out.shape == (2, 96, 112, 2)
    for k in range(2):
        assert np.array_equal(out[k], calc(frames[k], frames[k + 1], None))


@every_flow
def test_the_given_flow_is_written_where_opencv_writes_it(calc, frames):
    a, b = frames[:2]
    expected = calc(a, b, None)
    assert expected.flags.c_contiguous
    for given in (np.zeros_like(expected), np.zeros((96, 224, 2), np.float32)[:, ::2]):
        assert calc(a, b, given) is given and np.array_equal(given, expected)
    for given in (np.zeros((96, 112, 2)), np.zeros((3, 3, 2), np.float32)):
        out = calc(a, b, given)
        assert out is not given and not given.any() and np.array_equal(out, expected)
    assert np.array_equal(calc(a[..., None], b[..., None], None), expected)
    assert np.array_equal(calc(a[:, ::-1][:, ::-1], np.asfortranarray(b), None), expected)


@every_flow
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda a, b: (a, b[1:], None), "must have one size"),
        (lambda a, b: (np.dstack([a] * 3), np.dstack([b] * 3), None), "is a colour image of shape .*cv2.cvtColor"),
        (lambda a, b: (a.tolist(), b, None), "must be a NumPy array, got list; mer_fast.ops takes other arrays"),
        (lambda a, b: (None, None, None), "must be a NumPy array, got NoneType"),
        (lambda a, b: (a[0], b[0], None), "must be a gray frame"),
        (lambda a, b: (a[:0], b[:0], None), "must be a gray frame"),
        (lambda a, b: (a, b, [1.0]), "flow must be a NumPy array or None"),
        (lambda a, b: (a + 0j, b + 0j, None), "complex128"),
        (lambda a, b: (np.float32(a) * np.nan, np.float32(b), None), "NaN|nan"),
    ],
)
def test_errors_are_those_of_both(calc, spoil, message, frames):
    with pytest.raises(mer_fast.MerFastError, match=message) as caught:
        calc(*spoil(*frames[:2]))
    assert isinstance(caught.value, cv2.error) and isinstance(caught.value, real.error)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(
        ("calcOpticalFlowFarneback: ", "FarnebackOpticalFlow.calc: ", "DualTVL1OpticalFlow.calc: ")
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, b: cv2.DualTVL1OpticalFlow_create(gamma=0.1), "DualTVL1OpticalFlow: gamma must be 0, got 0.1"),
        (lambda a, b: cv2.DualTVL1OpticalFlow().setGamma(1), "gamma must be 0"),
        (
            lambda a, b: cv2.DualTVL1OpticalFlow(useInitialFlow=True).calc(a, b, None),
            "flow to start from must be float32 of shape",
        ),
        (lambda a, b: cv2.DualTVL1OpticalFlow(tau=-1).calc(a, b, None), "tau must lie between"),
        (lambda a, b: cv2.DualTVL1OpticalFlow(medianFiltering=4).calc(a, b, None), "median must be 3 or 5"),
        (
            lambda a, b: cv2.DualTVL1OpticalFlow().calc(a.astype(float), b.astype(float), None),
            "must both be uint8 or both float32",
        ),
        (lambda a, b: cv2.DualTVL1OpticalFlow().calc(a, np.float32(b), None), "must both be uint8 or both float32"),
        (lambda a, b: cv2.DualTVL1OpticalFlow().calc(a[:9], b[:9], None), "at least 16 pixels a side"),
        (lambda a, b: cv2.calcOpticalFlowFarneback(a, b, None, *FARNEBACK[:-1], 4), "flow to start from must be float32"),
        (lambda a, b: cv2.calcOpticalFlowFarneback(a, b, None, 1.5, *FARNEBACK[1:]), "pyr_scale must"),
        (lambda a, b: cv2.calcOpticalFlowFarneback(a, b, None, *FARNEBACK[:-1], 0.0), "flags must be a whole number, got 0.0"),
        (lambda a, b: cv2.FarnebackOpticalFlow_create().setFlags(0.0), "flags must be a whole number, got 0.0"),
        (lambda a, b: cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 1, 0, 5, 1.2, 0), "winsize must be at least 2"),
        (
            lambda a, b: cv2.calcOpticalFlowFarneback(a * np.uint16(9), b, None, *FARNEBACK),
            "prev must hold gray values 0..255, got",
        ),
    ],
)
def test_bad_parameters(call, message, frames):
    with pytest.raises(cv2.error, match=message):
        call(*frames[:2])


def test_a_read_only_flow_is_an_error(frames):
    out = np.zeros((96, 112, 2), np.float32)
    out.flags.writeable = False
    with pytest.raises(cv2.error, match="flow is read-only; pass None, or a copy"):
        cv2.DualTVL1OpticalFlow(nscales=1, warps=1).calc(*frames[:2], out)


# --- what is OpenCV's own ---------------------------------------------------------------------------------------------
def test_all_else_is_opencv_s_own():
    assert cv2.GaussianBlur is real.GaussianBlur and cv2.__version__ == real.__version__ and cv2.error is real.error
    assert cv2.OPTFLOW_USE_INITIAL_FLOW == real.OPTFLOW_USE_INITIAL_FLOW
    assert cv2.OPTFLOW_FARNEBACK_GAUSSIAN == real.OPTFLOW_FARNEBACK_GAUSSIAN
    assert {"GaussianBlur", "error", "calcOpticalFlowFarneback"} <= set(dir(cv2))
    if HAS_TVL1:
        assert cv2.optflow.createOptFlow_DeepFlow is real.optflow.createOptFlow_DeepFlow
        assert type(cv2.optflow.createOptFlow_Farneback()) is cv2.FarnebackOpticalFlow
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = cv2.nothing


def test_without_opencv(monkeypatch, frames):
    """The flows need none of it."""
    monkeypatch.setitem(sys.modules, "cv2", None)
    _opencv.error_class.cache_clear()
    try:
        assert FLOWS["tvl1"](*frames[:2], None).shape == (96, 112, 2)
        with pytest.raises(cv2.error, match="must have one size"):
            FLOWS["tvl1"](frames[0], frames[1, 1:], None)
        assert cv2.error is mer_fast.MerFastError and not hasattr(cv2, "imread")
        with pytest.raises(AttributeError, match=r"cv2.imread is OpenCV's own, .*not installed; run `pip install opencv-python`"):
            _ = cv2.imread
        with pytest.raises(AttributeError, match=r"cv2.optflow.DISOpticalFlow .*opencv-contrib-python"):
            _ = cv2.optflow.DISOpticalFlow
    finally:
        _opencv.error_class.cache_clear()
