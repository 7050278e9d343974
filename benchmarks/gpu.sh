#!/usr/bin/env bash
# What a GPU is asked, in parts that stand by themselves and end within ten minutes each.
#
#   benchmarks/gpu.sh                      every part, in this order
#   benchmarks/gpu.sh build memcheck       those named
#   benchmarks/gpu.sh --list               their names and commands; runs nothing
#   benchmarks/gpu.sh --out DIR ...        where results go (benchmarks/results/gpu)
#
# DIR holds a log and a line of parts.jsonl for each part, and JSON for each case of the tests and
# benchmarks, written as the case ends; DIR.tar.gz holds them all. A part that fails is named at the
# end and keeps no other from running.
#
# Needs nvcc, and a Python ($PYTHON, else python3) that holds a torch with CUDA, numpy, pytest,
# cmake, ninja, safetensors and matplotlib; `memcheck` and the like need compute-sanitizer, `*_ncu`
# Nsight Compute; nothing is downloaded. Peers are built from sources where these lie in peers/
# (benchmarks/gpu_peers.py).
set -uo pipefail
cd "$(dirname "$0")/.." || exit

python=${PYTHON:-python3}
limit=${DAPT_PART_SECONDS:-580}
out=benchmarks/results/gpu
list=false device='' capability=''
names=(build test_on_gpu memcheck racecheck fps_ncu encoder_ncu peers plans launches
  points cells tokens train_step initcheck synccheck)
chosen=()
while [ $# -gt 0 ]; do
  case $1 in
    --list) list=true ;;
    --out)
      [ $# -gt 1 ] || { echo "gpu.sh: --out needs a folder" >&2; exit 2; }
      out=$2
      shift
      ;;
    *)
      [[ " ${names[*]} " == *" $1 "* ]] || {
        echo "gpu.sh: $1 is no part; there are ${names[*]}" >&2
        exit 2
      }
      chosen+=("$1")
      ;;
  esac
  shift
done
[ ${#chosen[@]} -gt 0 ] || chosen=("${names[@]}")
out=$(realpath -m "$out")

if ! $list; then
  gpu=$(nvidia-smi --query-gpu=name,compute_cap --format=csv,noheader 2> /dev/null | head -n 1)
  [ -n "$gpu" ] || { echo "gpu.sh: nvidia-smi finds no GPU" >&2; exit 2; }
  device=${gpu%,*} capability=${gpu##*, }
  mkdir -p "$out"
  echo "$device, compute capability $capability; results go to $out"
  export TORCH_CUDA_ARCH_LIST=$capability
fi
export DAPT_CUDA=on PYTHONPATH=$PWD:$PWD/python:$PWD/benchmarks:$PWD/peers/site

failed=()
part() { # part NAME COMMAND...
  local name=$1 begin=$SECONDS code=0 text
  shift
  [[ " ${chosen[*]} " == *" $name "* ]] || return 0
  text="$*"
  if $list; then
    printf '%-12s %s\n' "$name" "$text"
    return 0
  fi
  timeout --kill-after=15 "$limit" "$@" > "$out/$name.log" 2>&1 || code=$?
  text=${text//\\/\\\\}
  printf '{"part": "%s", "code": %d, "seconds": %d, "device": "%s", "command": "%s"}\n' "$name" \
    "$code" $((SECONDS - begin)) "$device" "${text//\"/\\\"}" >> "$out/parts.jsonl"
  if [ $code -eq 0 ]; then
    echo "ok      $name ($((SECONDS - begin)) s)"
  else
    failed+=("$name")
    echo "FAILED  $name ($((SECONDS - begin)) s, code $code): $(tail -n 1 "$out/$name.log")"
  fi
}

# Ours alone are watched, and torch's allocator gives them no neighbors: whatever is out of range is
# out of an allocation. Large cases, graphs and whole models would take longer than ten minutes.
sanitize() { # sanitize TOOL
  part "$1" env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$1" \
    --kernel-name kns=dapt --error-exitcode 9 \
    "$python" -m pytest -p case_lines --case-lines "$out/$1.jsonl" tests/ops/test_on_gpu.py -k \
    "not million and not 100003 and not real_scans and not 40001 and not 8192-1200 and not model"
}

profile() { # profile NAME OP KERNEL
  part "$1_ncu" ncu --set full --kernel-name "regex:$3" --launch-count 4 --force-overwrite \
    --export "$out/$1" "$python" benchmarks/ops.py --device cuda --only "$2" --once
}

ops() { # ops NAME OPS
  part "$1" "$python" benchmarks/ops.py --device cuda --only "$2" --out "$out/ops-$1"
}

part build "$python" setup.py build_ext --inplace
part test_on_gpu "$python" -m pytest -p case_lines --case-lines "$out/test_on_gpu.jsonl" \
  tests/ops/test_on_gpu.py
sanitize memcheck
sanitize racecheck
profile fps fps fps_
profile encoder patch_encoder patch_encoder_kernel
part peers "$python" benchmarks/gpu_peers.py
part plans bash -c "nvcc -std=c++20 -O3 -fmad=false -arch=sm_${capability/./} -Icsrc -o $out/plans \
  benchmarks/plans.cu csrc/cuda/{fps,knn,knn_any,device}.cu && $out/plans > $out/plans.jsonl"
part launches "$python" benchmarks/launches.py --device cuda --out "$out/launches"
ops points fps,knn,group,ball_query,chamfer
ops cells voxels,codes,conv
ops tokens attention,patch_encoder,adapter,scale_shift
part train_step "$python" benchmarks/train_step.py --device cuda --batch-size 32 --seconds 20 \
  --out "$out/train_step"
sanitize initcheck
sanitize synccheck

$list && exit
tar -czf "$out.tar.gz" -C "$(dirname "$out")" "$(basename "$out")"
echo "all of it: $out.tar.gz"
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}"; exit 1; }
