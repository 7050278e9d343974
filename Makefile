# make demo   set-up, then DAPT on the shipped backbone beside a linear probe and full fine-tuning
# make test   set-up, then every check
# make cuda   compile and link every CUDA source; table of registers and shared memory, no spills
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
# A process a core; OMP_WAIT_POLICY below: threads that wait leave the cores to the others.
PYTEST := $(PY) -m pytest -n auto --maxprocesses 8 --dist worksteal
NATIVE := $(wildcard csrc/*.* csrc/*/*.*) CMakeLists.txt setup.py
ON_HOST := $(wildcard tests/cuda_on_host/*.* tests/cuda_on_host/*/*.*)

.PHONY: setup build demo test lint sanitize cuda bench format clean

setup: $(READY) build

$(READY): pyproject.toml constraints.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet -c constraints.txt torch
	$(PY) -m pip install --quiet -c constraints.txt cmake ninja setuptools
	$(PY) -m pip install --quiet -c constraints.txt --no-build-isolation \
	  -e '.[train,files,peft,test,bench,dev]'
	touch $@ $(VENV)/.built

# The native part alone, when a source has changed since it was built.
build: $(READY) $(VENV)/.built
$(VENV)/.built: $(READY) $(NATIVE)
	$(PY) -m pip install --quiet --no-build-isolation --no-deps -e .
	touch $@

demo: setup
	$(PY) examples/demo.py

test: setup lint
	OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive $(PYTEST)
	$(MAKE) --no-print-directory sanitize
	@echo "make test: all checks passed"

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/clang-format --dry-run --Werror $(filter %.cpp %.h %.cu %.cuh,$(NATIVE) $(ON_HOST))

format: $(READY)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/clang-format -i $(filter %.cpp %.h %.cu %.cuh,$(NATIVE) $(ON_HOST))

# The kernels once more, CPU's and CUDA's on the host, under AddressSanitizer and UBSan.
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
	  $(PYTEST) tests/ops tests/cuda_on_host/test_*_on_host.py -k "not compile and not opcheck" \
	  --ignore tests/cuda_on_host/test_cuda_on_host.py

cuda: $(READY)
	@command -v nvcc > /dev/null || { echo "make cuda: nvcc is not on the PATH" >&2; exit 1; }
	$(PY) csrc/cuda/resources.py

bench: setup
	$(PY) benchmarks/ops.py --device cpu

clean:
	rm -rf build dapt_ext/*.so
