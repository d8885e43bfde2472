"""What the ops are measured against, each at its best: every factory takes a case's inputs and gives a call without arguments."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mer_fast.reference import tim_weights

Call = Callable[[], Any]
Array = npt.NDArray[Any]


class MissingRival(Exception):
    """A rival that cannot run here; the message says why and how to get it."""


@dataclass(frozen=True)
class Rival:
    """A rival of one case.

    `make(*inputs)` prepares all that a user would prepare once, and returns the call to time; it raises `MissingRival`.
    """

    name: str
    make: Callable[..., Call]
    devices: tuple[str, ...] = ("cpu",)


# --- TV-L1 -----------------------------------------------------------------------------------------------------------
def opencv(*, contrib: bool = True) -> Any:
    """cv2, with its contrib modules."""
    try:
        import cv2
    except ImportError as error:
        raise MissingRival(f"{error}; pip install opencv-contrib-python-headless") from None
    if contrib and not hasattr(cv2, "optflow"):
        raise MissingRival("this OpenCV has no contrib modules; pip install opencv-contrib-python-headless")
    return cv2


def opencv_tvl1(frame0: torch.Tensor, frame1: torch.Tensor) -> Call:
    """DualTVL1 at its defaults, one pair after the other, with as many threads of OpenCV's own as torch has."""
    cv2, threads = opencv(), torch.get_num_threads()
    solver = cv2.optflow.DualTVL1OpticalFlow_create()
    pairs = list(zip(frame0.numpy(), frame1.numpy(), strict=True))

    def call() -> list[Array]:
        cv2.setNumThreads(threads)  # the setting is global, and the other form has its own
        return [solver.calc(a, b, None) for a, b in pairs]

    return call


def opencv_tvl1_pool(frame0: torch.Tensor, frame1: torch.Tensor) -> Call:
    """DualTVL1 at its defaults, a pair a thread and no further threads; a solver keeps its buffers, so each pair has its own."""
    cv2, pool = opencv(), ThreadPoolExecutor(torch.get_num_threads())
    create = cv2.optflow.DualTVL1OpticalFlow_create
    work = [(create(), a, b) for a, b in zip(frame0.numpy(), frame1.numpy(), strict=True)]

    def call() -> list[Array]:
        cv2.setNumThreads(1)
        return list(pool.map(lambda one: one[0].calc(one[1], one[2], None), work))

    return call


def skimage_tvl1(frame0: torch.Tensor, frame1: torch.Tensor) -> Call:
    """scikit-image in float32 at its defaults, a pair a thread.

    Its defaults have our number of warps and our theta. OpenCV's lambda on its scale of gray levels (38), and as many
    iterations as OpenCV may take (300), make it almost thirty times slower and no nearer to the planted motion.
    """
    try:
        from skimage.registration import optical_flow_tvl1
    except ImportError as error:
        raise MissingRival(f"{error}; pip install scikit-image") from None
    pairs = [(a.numpy(), b.numpy()) for a, b in zip(frame0.float() / 255, frame1.float() / 255, strict=True)]
    pool = ThreadPoolExecutor(torch.get_num_threads())
    return lambda: list(pool.map(lambda pair: optical_flow_tvl1(*pair, dtype=np.float32), pairs))


# --- Farneback -------------------------------------------------------------------------------------------------------
def _farneback_flows(
    frame0: torch.Tensor, frame1: torch.Tensor, parameters: tuple[Any, ...]
) -> tuple[Callable[[int], Any], Array]:
    """A call for one pair, and where its flow goes: (N, H, W, 2)."""
    cv2 = opencv(contrib=False)
    flows = np.zeros((*frame0.shape, 2), np.float32)
    pairs = list(zip(frame0.numpy(), frame1.numpy(), flows, strict=True))
    return lambda k: cv2.calcOpticalFlowFarneback(*pairs[k], *parameters, 0), flows


def opencv_farneback(*parameters: Any) -> Callable[..., Call]:
    """calcOpticalFlowFarneback, one pair after the other, with as many threads of OpenCV's own as torch has."""

    def make(frame0: torch.Tensor, frame1: torch.Tensor) -> Call:
        cv2, threads = opencv(contrib=False), torch.get_num_threads()
        one, flows = _farneback_flows(frame0, frame1, parameters)

        def call() -> Array:
            cv2.setNumThreads(threads)  # the setting is global, and the other form has its own
            for k in range(len(flows)):
                one(k)
            return flows.transpose(0, 3, 1, 2)

        return call

    return make


def opencv_farneback_pool(*parameters: Any) -> Callable[..., Call]:
    """calcOpticalFlowFarneback, a pair a thread and no further threads."""

    def make(frame0: torch.Tensor, frame1: torch.Tensor) -> Call:
        cv2, pool = opencv(contrib=False), ThreadPoolExecutor(torch.get_num_threads())
        one, flows = _farneback_flows(frame0, frame1, parameters)

        def call() -> Array:
            cv2.setNumThreads(1)
            list(pool.map(one, range(len(flows))))
            return flows.transpose(0, 3, 1, 2)

        return call

    return make


# --- TIM -------------------------------------------------------------------------------------------------------------
def tim_by_svd(frames: Array, m: int) -> Array:
    """The published route of the temporal interpolation model: frames (pixels, n), linearly independent -> (pixels, m).

    The curve in time is fitted in the space of the principal components; the small systems are solved in float64.
    """
    n = frames.shape[1]
    k = np.arange(1, n)[:, None]

    def curve(p: Array) -> Array:  # (n - 1, len(p)): eigenvectors of the path graph's Laplacian, continued between frames
        return np.sin(p * k * np.pi + np.pi * (n - k) / (2 * n))

    mean = frames.mean(1, keepdims=True)
    components, sizes, rows = np.linalg.svd(frames - mean, full_matrices=False)
    components = components[:, : n - 1]  # centred frames span one dimension less
    coordinates = (sizes[:, None] * rows)[: n - 1].astype(np.float64)
    knots = curve(np.arange(1, n + 1) / n)
    fit = np.linalg.solve(coordinates @ coordinates.T, coordinates @ knots.T)
    scale = coordinates[:, 0] @ fit / knots[:, 0]
    position = np.linspace(0, 1, m) * (1 - 1 / n) + 1 / n
    small = np.linalg.solve(fit.T, curve(position) * scale[:, None])
    return components @ small.astype(frames.dtype) + mean


def tim_svd(m: int) -> Callable[[torch.Tensor], Call]:
    def make(clip: torch.Tensor) -> Call:
        frames = clip.reshape(clip.shape[0], -1).T.numpy()
        return lambda: tim_by_svd(frames, m).T.reshape(m, *clip.shape[1:])

    return make


def tim_product(m: int) -> Callable[[torch.Tensor], Call]:
    """The closed form as one matrix product, its weights made beforehand. torch.compile makes the same call of it."""

    def make(clip: torch.Tensor) -> Call:
        n = clip.shape[0]
        weights = tim_weights(n, m).T.to(clip).contiguous()
        return lambda: (weights @ clip.view(n, -1)).view(m, *clip.shape[1:])

    return make


# --- plain PyTorch ---------------------------------------------------------------------------------------------------
def plain_strain(flow: torch.Tensor) -> torch.Tensor:
    """Optical strain as one writes it: (N, 2, H, W) -> (N, 1, H, W). Its gradient is NaN where the strain is 0."""
    u_y, u_x = torch.gradient(flow[:, :1], dim=(2, 3))
    v_y, v_x = torch.gradient(flow[:, 1:], dim=(2, 3))
    return (u_x**2 + v_y**2 + 0.5 * (u_y + v_x) ** 2).sqrt()


def eager(function: Callable[..., Any]) -> Callable[..., Call]:
    return lambda *inputs: lambda: function(*inputs)


def compiled(
    step: Callable[..., Any], function: Callable[..., Any], *, mode: str | None = None, fresh: bool = True
) -> Callable[..., Call]:
    """`step(function, *inputs)` with `function` compiled, beforehand.

    `fresh=False` keeps what is compiled already, for a second compiled rival in a case.
    """

    def make(*inputs: torch.Tensor) -> Call:
        if fresh:
            torch.compiler.reset()  # or code for any size would be made after the first shapes
        fast = torch.compile(function, dynamic=False, mode=mode)
        try:
            step(fast, *inputs)
        except Exception as error:  # no compiler, no Python headers, no Triton: torch has a class of its own for each
            raise MissingRival(f"torch.compile fails here: {str(error).strip().splitlines()[0]}") from None
        return lambda: step(fast, *inputs)

    return make
