"""mer_fast.data.flow_io: .flo by Middlebury's description, .npz, .png, and what is refused."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest

from mer_fast.data.flow_io import read_flow, write_flow
from mer_fast.errors import MerFastError
from mer_fast.visualize import color_flow

from .clips import listing


@pytest.fixture
def flow():
    return np.random.default_rng(0).normal(size=(2, 7, 5)).astype(np.float32)


@pytest.mark.parametrize("name", ["a.flo", "A.FLO", "a.npz"])
def test_what_is_written_is_read_back(tmp_path, flow, name):
    write_flow(tmp_path / name, flow)
    back = read_flow(tmp_path / name)
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, flow)
    assert listing(tmp_path) == [name]


def test_flo_is_middleburys_layout(tmp_path, flow):
    write_flow(tmp_path / "a.flo", flow)
    content = (tmp_path / "a.flo").read_bytes()
    assert content[:4] == b"PIEH"
    assert struct.unpack("<ii", content[4:12]) == (5, 7)
    assert struct.unpack("<4f", content[12:28]) == (flow[0, 0, 0], flow[1, 0, 0], flow[0, 0, 1], flow[1, 0, 1])
    assert len(content) == 12 + 8 * 35
    np.testing.assert_array_equal(cv2.readOpticalFlow(str(tmp_path / "a.flo")).transpose(2, 0, 1), flow)


def test_npz_holds_more_arrays(tmp_path, flow):
    write_flow(tmp_path / "a.npz", flow, strain=np.ones((1, 7, 5)))
    with np.load(tmp_path / "a.npz") as arrays:
        assert sorted(arrays) == ["flow", "strain"]
        assert arrays["strain"].dtype == np.float32
    with pytest.raises(MerFastError, match="strain"):
        write_flow(tmp_path / "a.flo", flow, strain=np.ones((1, 7, 5)))


def test_png_is_the_colour_wheel(tmp_path, flow):
    write_flow(tmp_path / "a.png", flow)
    picture = cv2.imread(str(tmp_path / "a.png"))[..., ::-1]
    np.testing.assert_array_equal(picture, color_flow(flow))


def test_non_contiguous_flow_is_written(tmp_path, flow):
    wide = np.repeat(flow, 2, axis=2)
    write_flow(tmp_path / "a.flo", wide[:, :, ::2])
    np.testing.assert_array_equal(read_flow(tmp_path / "a.flo"), flow)


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.flo.txt"])
def test_unknown_endings_are_refused(tmp_path, flow, name):
    with pytest.raises(MerFastError, match=r"\.flo"):
        write_flow(tmp_path / name, flow)
    with pytest.raises(MerFastError, match=r"\.flo"):
        read_flow(tmp_path / name)
    assert listing(tmp_path) == []


@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 2), (1, 7, 5), (1, 2, 7, 5)])
def test_other_shapes_are_refused(tmp_path, shape):
    with pytest.raises(MerFastError, match="shape"):
        write_flow(tmp_path / "a.flo", np.zeros(shape))
    assert listing(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"PIEH", b"XXXX" + bytes(100), b"PIEH" + struct.pack("<ii", 4, 4) + bytes(10),
                                     b"PIEH" + struct.pack("<ii", -1, 4) + bytes(10)])  # fmt: skip
def test_damaged_flo_is_refused(tmp_path, content):
    (tmp_path / "a.flo").write_bytes(content)
    with pytest.raises(MerFastError, match=r"a\.flo"):
        read_flow(tmp_path / "a.flo")


def test_damaged_npz_is_refused(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"no archive")
    np.savez(tmp_path / "b.npz", other=np.zeros(3))
    np.savez(tmp_path / "c.npz", flow=np.zeros((3, 4, 4)))
    np.save(tmp_path / "d.npy", np.zeros(3))
    (tmp_path / "d.npy").rename(tmp_path / "d.npz")
    for name in "abcd":
        with pytest.raises(MerFastError, match=rf"{name}\.npz"):
            read_flow(tmp_path / f"{name}.npz")
    with pytest.raises(FileNotFoundError):
        read_flow(tmp_path / "e.npz")
