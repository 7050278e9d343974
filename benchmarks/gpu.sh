#!/usr/bin/env bash
# All that a GPU is asked: build, tests, compute-sanitizer, benchmarks with peers.
#
#   benchmarks/gpu.sh [OUT]       results go to OUT (benchmarks/results), logs to OUT/*.log
#
# Needs nvcc and a Python ($PYTHON, else python3) that holds a torch with CUDA, numpy, pytest,
# hypothesis, cmake, ninja, pybind11, setuptools, safetensors and matplotlib; nothing is downloaded.
# Peers are built from sources where these lie in peers/: pointnet2_ops_lib, KNN_CUDA, pytorch3d.
# A part that fails is named at the end and does not keep the others from running.
set -uo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:-benchmarks/results}")
python=${PYTHON:-python3}
mkdir -p "$out"
failed=()

part() { # part NAME SECONDS COMMAND...
  local name=$1 limit=$2 begin=$SECONDS
  shift 2
  if timeout "$limit" "$@" > "$out/$name.log" 2>&1; then
    echo "ok      $name ($((SECONDS - begin)) s)"
  else
    failed+=("$name")
    echo "FAILED  $name ($((SECONDS - begin)) s): $(tail -n 1 "$out/$name.log")"
  fi
}

major_minor=$("$python" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())' 2> /dev/null) || {
  echo "gpu.sh: $python finds no GPU" >&2
  exit 2
}
export TORCH_CUDA_ARCH_LIST=$major_minor DAPT_CUDA=on PYTHONPATH=$PWD:$PWD/python
part build 600 "$python" setup.py build_ext --inplace
for peer in pointnet2_ops_lib KNN_CUDA pytorch3d; do
  [ -d "peers/$peer" ] || continue
  # their build files name architectures that nvcc no longer knows
  sed -i -E "s/TORCH_CUDA_ARCH_LIST\"?\] = .*/TORCH_CUDA_ARCH_LIST\"] = \"$major_minor\"/" \
    "peers/$peer/setup.py"
  part "peer_$peer" 600 "$python" -m pip install --quiet --no-index --no-build-isolation --no-deps \
    "peers/$peer"
done

part tests 600 "$python" -m pytest tests/ops/test_on_gpu.py
for tool in memcheck racecheck initcheck synccheck; do
  part "$tool" 600 compute-sanitizer --tool "$tool" --error-exitcode 9 \
    "$python" -m pytest tests/ops/test_on_gpu.py -k "not million and not 100003 and not real_scans \
and not 40001 and not graph and not 8192-1200"
done
part ops 600 "$python" benchmarks/ops.py --device cuda --out "$out/ops-cuda"
part train_step 600 "$python" benchmarks/train_step.py --device cuda --batch-size 32 \
  --out "$out/train_step-cuda"

tail -n 40 "$out/ops.log" "$out/train_step.log"
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}"; exit 1; }
