# `make demo` runs the main job, `make test` the tests; each sets up what it needs in $(VENV).
VENV ?= .venv
BOOTSTRAP ?= python3
# A torch that is in $(VENV) already is kept. Without a GPU this version is a small CPU build.
TORCH ?= torch==2.13.0
MAX_JOBS ?= 2
export MAX_JOBS

PYTHON := $(VENV)/bin/python
SOURCES := setup.py pyproject.toml CMakeLists.txt $(wildcard csrc/*.* csrc/*/*.* kernels/cuda/*.cuh)

.PHONY: install demo test test-full test-sanitized bench kernels gpu-check lint wheel clean

install: $(VENV)/installed

# Editable, so that a change of Python needs nothing and a change of C++ only `make`.
$(VENV)/installed: $(SOURCES)
	test -x $(PYTHON) || $(BOOTSTRAP) -m venv $(VENV)
	$(PYTHON) -c "import torch" 2>/dev/null || $(PYTHON) -m pip install --quiet $(TORCH)
	$(PYTHON) -m pip install --quiet "setuptools>=77" wheel "pybind11>=2.13" "cmake>=3.24" ninja
	PATH="$(abspath $(VENV))/bin:$$PATH" $(PYTHON) -m pip install --quiet --no-build-isolation --editable ".[bench,dev]"
	touch $@

demo: install
	$(VENV)/bin/mer-fast demo --output mer-fast-demo

# Two files at a time; threads that wait do not spin, since the other file needs the core.
test: install
	OMP_WAIT_POLICY=passive $(PYTHON) -m pytest tests -n $(MAX_JOBS) --dist loadfile

# The long form: hundreds of random cases an op, tensors beyond 2^31 elements (12 GB of memory), the sanitized kernels.
test-full: install test-sanitized
	$(PYTHON) -m pytest tests --full

# CPU kernels under the address and undefined-behaviour sanitizers, in a build of their own.
SANITIZED := build/sanitized
ASAN = $(shell $(or $(CXX),c++) -print-file-name=libasan.so):$(shell $(or $(CXX),c++) -print-file-name=libstdc++.so)
test-sanitized: install
	PATH="$(abspath $(VENV))/bin:$$PATH" MER_FAST_SANITIZE=1 MER_FAST_CUDA=0 \
	  $(PYTHON) setup.py --quiet build_ext --build-lib $(SANITIZED)/lib --build-temp $(SANITIZED)/temp
	for isa in avx512 avx2 generic; do \
	  LD_PRELOAD="$(ASAN)" ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 MER_FAST_ISA=$$isa \
	    MER_FAST_LIBRARY=$(SANITIZED)/lib/mer_fast/_ops.so \
	    $(PYTHON) -m pytest tests/test_tim.py tests/test_optical_strain.py tests/test_tvl1_flow.py tests/test_farneback_flow.py \
	      tests/test_conv3d.py tests/test_conv3d_pool.py tests/test_recurrent_kernels.py tests/test_recurrent_operators.py \
	      tests/test_recurrent_bfloat16.py tests/test_conv_norm_pool.py tests/test_conv_norm_pool_errors.py -k "not compile and not export and not opcheck and not lesser and not absurd" || exit 1; \
	done

# Measures every op against its rivals, writes benchmarks/results/cpu.json and the table in README.md.
bench: install
	$(PYTHON) benchmarks/run.py

# Compiles every device kernel for each architecture (needs nvcc, no GPU) and compares its resources with the committed table.
kernels: install
	$(PYTHON) benchmarks/kernel_resources.py

# On a machine with an NVIDIA GPU, with its own python3: builds, tests on CUDA, times, writes benchmarks/results/<gpu>.json.
gpu-check:
	python3 benchmarks/gpu_check.py

lint: install
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy

wheel: install
	$(PYTHON) -m build --wheel --no-isolation

clean:
	rm -rf build dist *.egg-info $(VENV)/installed
