# make demo      set up, then compare DAPT on the shipped backbone with a linear probe and full
#                fine-tuning
# make test      set up, then run every check except those below
# make slow      run the tests that compile or wait a lot (marked `slow`)
# make sanitize  test the kernels under AddressSanitizer and UBSan
# make cuda      compile and link every CUDA source; print registers, bank conflicts and sectors
# make package   build the wheel and the sdist, and use each in an environment of its own
# make bench     time the ops against every peer that can be installed, on each instruction set
# make lock      regenerate constraints.txt from pyproject.toml
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# The tested versions; `make LOCK=` installs the newest that pyproject.toml allows.
LOCK := -c constraints.txt
# Only wheels, so that a package that would have to be compiled fails at once.
PIP := $(PY) -m pip --disable-pip-version-check install --quiet --no-compile --only-binary=:all: \
  $(LOCK)
# One process per core. OMP_WAIT_POLICY=passive below keeps waiting threads from holding the cores.
PYTEST := $(PY) -m pytest -n auto --maxprocesses 8 --dist worksteal
NATIVE := $(wildcard csrc/*.* csrc/*/*.*) CMakeLists.txt setup.py
ON_HOST := $(wildcard tests/cuda_on_host/*.* tests/cuda_on_host/*/*.*)
CPP := $(filter %.cpp %.h %.cu %.cuh,$(NATIVE) $(ON_HOST))

.PHONY: setup demo test slow package lint sanitize cuda docs bench lock format clean

# A step touches its stamp last, so a failed step is repeated.
TOOLS := $(VENV)/.tools
READY := $(VENV)/.ready
BUILT := $(VENV)/.built
TESTABLE := $(VENV)/.testable

setup: $(TESTABLE) $(BUILT)

$(TOOLS): constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "make: dapt needs Python 3.10 or later; try make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
	  { echo "make: $(PYTHON) lacks the module venv; try apt install python3-venv" >&2; exit 1; }
	@command -v $${CXX:-c++} > /dev/null || \
	  { echo "make: no C++ compiler found; try apt install g++" >&2; exit 1; }
	test -x $(PY) && $(PY) -m pip --version > /dev/null || $(PYTHON) -m venv --clear $(VENV)
	$(PIP) cmake ninja setuptools torch
	touch $@

# What `make demo` needs. The native part compiles while packages download; pip then finds it done.
$(READY): $(TOOLS) pyproject.toml
	$(PY) setup.py --quiet build_ext --inplace & \
	  $(PIP) --no-build-isolation -e '.[train]'; status=$$?; wait; exit $$status
	touch $@ $(BUILT)

# Rebuilds only the native part, when a source has changed.
$(BUILT): $(READY) $(NATIVE)
	$(PIP) --no-build-isolation --no-deps -e .
	touch $@

$(TESTABLE): $(READY)
	$(PIP) --no-build-isolation -e '.[train,files,hub,serve,slurm,peft,export,view,browser,test,dev]'
	touch $@

demo: $(READY) $(BUILT)
	$(PY) examples/demo.py

test: setup lint
	OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive $(PYTEST)
	@echo "make test: all checks passed"

slow: setup
	OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive $(PYTEST) -m slow --ignore $(WHEELS)

WHEELS := tests/packaging/test_wheel.py
package: setup
	$(PY) -m pytest -m slow $(WHEELS)

lint: $(TESTABLE)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/clang-format --dry-run --Werror $(CPP)
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(VENV)/bin/zizmor --quiet --offline .github/workflows
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff

format: $(TESTABLE)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/clang-format -i $(CPP)

# Tests the kernels, the CPU's and CUDA's on the host, under AddressSanitizer and UBSan. Tests that
# only differentiate or compile are left out, because they access no other memory.
SANITIZED := $(abspath build/sanitized)
sanitize: setup
	$(VENV)/bin/cmake -S . -B $(SANITIZED) -G Ninja -DDAPT_SANITIZE=ON \
	  -DCMAKE_MAKE_PROGRAM=$(abspath $(VENV)/bin/ninja) \
	  -DCMAKE_LIBRARY_OUTPUT_DIRECTORY=$(SANITIZED) \
	  -DDAPT_TORCH=$$($(PY) -c 'import torch; print(torch.__path__[0])') \
	  > /dev/null
	$(VENV)/bin/cmake --build $(SANITIZED)
	LD_PRELOAD="$$($${CXX:-g++} -print-file-name=libasan.so) \
	  $$($${CXX:-g++} -print-file-name=libstdc++.so)" ASAN_OPTIONS=detect_leaks=0 \
	  OMP_NUM_THREADS=1 DAPT_HOST_SANITIZE=1 DAPT_LIBRARIES=$(SANITIZED) \
	  $(PYTEST) tests/ops tests/cuda_on_host/test_kernels_on_host.py \
	  tests/cuda_on_host/test_tokens_on_host.py --ignore tests/ops/test_derivatives.py \
	  -k "not compile and not opcheck and not gradcheck"

cuda: setup
	@command -v nvcc > /dev/null || { echo "make cuda: nvcc is not on the PATH" >&2; exit 1; }
	$(PY) csrc/cuda/resources.py

docs: $(READY) $(BUILT)
	$(PIP) --no-build-isolation -e '.[train,docs]'
	$(VENV)/bin/mkdocs build --strict

# Peers without wheels are compiled if possible, and otherwise left out.
bench: setup
	$(PIP) --no-build-isolation -e '.[bench]'
	@for peer in torch-cluster 'fpsample>=1'; do \
	  $(PY) -m pip --disable-pip-version-check install --quiet --no-build-isolation $$peer \
	    > build/bench.log 2>&1 || echo "bench: $$peer cannot be built here and is left out"; done
	$(PY) benchmarks/ops.py

# torch is pinned to a version with a CPU build; make lock UPGRADE=1 upgrades every other package.
LOCKED_TORCH := 2.13.0
lock: $(TOOLS)
	$(PY) -m pip install --quiet --only-binary=:all: uv
	echo 'torch==$(LOCKED_TORCH)' | UV_PYTHON_DOWNLOADS=never \
	  $${PIP_INDEX_URL:+env UV_DEFAULT_INDEX=$$PIP_INDEX_URL} $(VENV)/bin/uv pip compile \
	  --quiet $(if $(UPGRADE),--upgrade) --all-extras --universal --python-version 3.10 \
	  --only-binary :all: --no-annotate --no-emit-index-url --no-emit-find-links \
	  --custom-compile-command 'make lock' -o constraints.txt - pyproject.toml

clean:
	rm -rf build dapt_ext/*.so
