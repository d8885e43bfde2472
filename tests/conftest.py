"""Fixtures and options that every test file shares."""

import zlib

import pytest
import torch

from .kit.cuda_host import host  # noqa: F401
from .kit.fake_cupy import cupy, kernel_programs  # noqa: F401


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="the long form: many random cases, huge tensors")


def pytest_collection_modifyitems(config, items):
    for item in items:
        if "full" in item.keywords and not config.getoption("--full"):
            item.add_marker(pytest.mark.skip(reason="part of the long form; run `make test-full`"))
        if "cuda" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request):
    """Every device there is; a test that takes it runs on each."""
    return request.param


@pytest.fixture
def many(request):
    """Random cases an op: few by default, many in the long form."""
    return 300 if request.config.getoption("--full") else 25


@pytest.fixture
def conv_cases(request):
    """Random cases of a convolution for each dtype."""
    return 500 if request.config.getoption("--full") else 40


@pytest.fixture(autouse=True, scope="session")
def full_float32():
    """Convolutions in float32 proper on a GPU; tests of TF32 opt in."""
    torch.backends.cudnn.allow_tf32 = False


@pytest.fixture(autouse=True)
def fresh_seed(request):
    """The same numbers for the same test, other numbers for other tests."""
    torch.manual_seed(zlib.crc32(request.node.nodeid.encode()))
