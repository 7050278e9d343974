"""The host layer finds what is wrong with a broken copy of a real kernel."""

import ctypes

import numpy as np
import pytest
import torch
from host_build import CSRC, compile_host, run_sanitized

from dapt_ext import reference

EXPORT = """
#include <list>
#include <vector>
#include "cuda/plan_fps.h"
#include "cuda_on_host/execution.h"
extern "C" __attribute__((visibility("default")))
void run_fps(const float* points, int64_t* idx, int64_t N, int64_t M, uint64_t seed) {
  dapt::on_host::set_seed(seed);
  const dapt::FpsArgs args{.points = points, .idx = idx, .B = 1, .N = N, .M = M};
  dapt::Context context;
  std::list<std::vector<char>> memory;
  context.scratch = [&](size_t bytes) { return memory.emplace_back(bytes).data(); };
  const auto kernel = dapt::cuda::kFpsKernels[0];
  dapt::cuda::fps(args, *dapt::cuda::plan_fps_with(kernel, 1, N, dapt::cuda::kH100), context);
}
"""

N, M = 300, 40


def broken_copy(folder, old, new):
    """Sources of an FPS kernel in which `old` became `new`."""
    text = (CSRC / "cuda" / "fps.cu").read_text()
    assert text.count(old) == 1, f"the kernel no longer has one {old!r}"
    (folder / "fps.cu").write_text(text.replace(old, new))
    (folder / "export.cpp").write_text(EXPORT)
    return [folder / "fps.cu", folder / "export.cpp", CSRC / "cuda" / "device.cu"]


BARRIER = "    __syncthreads();\n    last = cloud.chosen("


@pytest.mark.parametrize("broken", [False, True])
def test_a_missing_barrier_changes_the_result(tmp_path, broken):
    new = BARRIER.replace("    __syncthreads();\n", "") if broken else BARRIER
    run = ctypes.CDLL(compile_host(broken_copy(tmp_path, BARRIER, new))).run_fps
    points = torch.randn(1, N, 3)
    expected = reference.farthest_point_sample(points, M)[0].numpy()
    results = []
    for seed in range(5):
        idx = np.full(M, -1)
        run(*(ctypes.c_void_p(a) for a in (points.data_ptr(), idx.ctypes.data)),
            *map(ctypes.c_int64, (N, M, seed)))  # fmt: skip
        results.append(np.array_equal(idx, expected))
    assert results == [True] * 5 if not broken else not all(results)


CALL = """
import ctypes, sys
import numpy as np
points, idx = np.random.default_rng(0).normal(size=({N}, 3)).astype("f"), np.zeros({M}, np.int64)
run = ctypes.CDLL(sys.argv[1]).run_fps
run(*(ctypes.c_void_p(a.ctypes.data) for a in (points, idx)), *map(ctypes.c_int64, ({N}, {M}, 0)))
"""


@pytest.mark.parametrize("broken", [False, True])
def test_an_index_off_by_one_is_caught(tmp_path, broken):
    old = "if (threadIdx.x < 64) keys[threadIdx.x] = kNone;"
    new = old.replace("keys[threadIdx.x]", "points[3 * cloud.N + threadIdx.x / 64]")
    new = new.replace("kNone", "0")
    sources = broken_copy(tmp_path, old, old + (f" {new}" if broken else ""))
    library = compile_host(sources, sanitize=True)
    done = run_sanitized("-c", CALL.format(N=N, M=M), library)
    if broken:
        assert done.returncode and "heap-buffer-overflow" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
