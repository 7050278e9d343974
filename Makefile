# make demo   set-up, then the main job on built-in data: needs no GPU and downloads no data
# make test   set-up, then every check
# make cuda   compile and link every CUDA source; table of registers, shared memory, spills
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
NATIVE := $(wildcard csrc/*.* csrc/*/*.*) CMakeLists.txt setup.py

.PHONY: setup build demo test lint sanitize cuda bench format clean

setup: $(READY) build

$(READY): pyproject.toml constraints.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet -c constraints.txt torch
	$(PY) -m pip install --quiet -c constraints.txt cmake ninja pybind11 setuptools
	$(PY) -m pip install --quiet -c constraints.txt --no-build-isolation \
	  -e '.[train,files,test,bench,dev]'
	touch $@ $(VENV)/.built

# The native part alone, when a source has changed since it was built.
build: $(READY) $(VENV)/.built
$(VENV)/.built: $(READY) $(NATIVE)
	$(PY) -m pip install --quiet --no-build-isolation --no-deps -e .
	touch $@

test: setup lint
	$(PY) -m pytest
	@echo "make test: all checks passed"

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/clang-format --dry-run --Werror $(filter %.cpp %.h %.cu %.cuh,$(NATIVE))

format: $(READY)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/clang-format -i $(filter %.cpp %.h %.cu %.cuh,$(NATIVE))

cuda: $(READY)
	@command -v nvcc > /dev/null || { echo "make cuda: nvcc is not on the PATH" >&2; exit 1; }
	$(PY) csrc/cuda/resources.py

bench: setup
	$(PY) benchmarks/ops.py --device cpu

clean:
	rm -rf build dapt_ext/*.so
