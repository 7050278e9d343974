"""The host layer finds the mistake in a broken copy of a real kernel."""

import ctypes
import shutil

import numpy as np
import pytest
import torch
from host_build import CSRC, compile_altered, compile_host, compile_objects, link, run_sanitized

from dapt_ext import reference

pytestmark = pytest.mark.slow  # each test compiles a kernel

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
  try {
    dapt::cuda::fps(args, *dapt::cuda::plan_fps_with(kernel, 1, N, dapt::cuda::kH100), context);
  } catch (const std::exception&) {
    idx[0] = -1;  // the host layer found lanes that wait for others in vain
  }
}
"""

N, M = 300, 40


def broken_copy(folder, old, new):
    """Sources of an FPS kernel in which `old` is replaced by `new`."""
    text = (CSRC / "cuda" / "fps.cu").read_text()
    assert text.count(old) == 1, f"the kernel no longer has one {old!r}"
    (folder / "fps.cu").write_text(text.replace(old, new))
    (folder / "export.cpp").write_text(EXPORT)
    return [folder / "fps.cu", folder / "export.cpp", CSRC / "cuda" / "device.cu"]


BARRIER = "    __syncthreads();\n    return farthest_of<"


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
    new = old.replace("keys[threadIdx.x]", "points[sampling.N + threadIdx.x / 64].x")
    new = new.replace("kNone", "0")
    sources = broken_copy(tmp_path, old, old + (f" {new}" if broken else ""))
    library = compile_host(sources, sanitize=True)
    done = run_sanitized("-c", CALL.format(N=N, M=M), library)
    if broken:
        assert done.returncode and "heap-buffer-overflow" in done.stderr
    else:
        assert done.returncode == 0, done.stderr


ADAPTER_EXPORT = """
#include <list>
#include <vector>
#include "cuda_on_host/execution.h"
#include "ops.h"
extern "C" __attribute__((visibility("default")))
void run_adapter(const float* x, const float* down, const float* up, const float* bias, float* out,
                 int64_t T, int64_t C, int64_t r, uint64_t seed) {
  dapt::on_host::set_seed(seed);
  std::vector<float> stats(3 * T);
  const dapt::DynamicAdapterArgs args{
      .x = x, .down_weight = down, .down_bias = bias, .up_weight = up, .up_bias = bias,
      .out = out, .stats = stats.data(), .B = 1, .T = T, .C = C, .r = r, .static_scale = 1};
  std::list<std::vector<char>> memory;
  dapt::Context context;
  context.scratch = [&](size_t bytes) { return memory.emplace_back(bytes).data(); };
  dapt::cuda::dynamic_adapter(args, context);
}
"""


@pytest.mark.parametrize("missing", [None, 0, 1])
def test_a_missing_barrier_changes_the_adapter(tmp_path, missing):
    parts = (CSRC / "cuda" / "dynamic_adapter.cu").read_text().split("  __syncthreads();\n")
    assert len(parts) == 3, "the kernel no longer has two barriers"
    barriers = ["" if i == missing else "  __syncthreads();\n" for i in range(2)]
    kernel, export = tmp_path / "dynamic_adapter.cu", tmp_path / "export.cpp"
    kernel.write_text(parts[0] + barriers[0] + parts[1] + barriers[1] + parts[2])
    export.write_text(ADAPTER_EXPORT)
    run = ctypes.CDLL(compile_host([kernel, export, CSRC / "cuda" / "device.cu"])).run_adapter
    T, C, r = 20, 64, 48
    x, down, up = torch.randn(T, C), torch.randn(r, C) / 8, torch.randn(C, r) / 7
    expected = torch.nn.functional.gelu(x @ down.T) @ up.T
    close = []
    for seed in range(5):
        out = torch.empty(T, C)
        arrays = (x, down, up, torch.zeros(C), out)
        run(*(ctypes.c_void_p(a.data_ptr()) for a in arrays), *map(ctypes.c_int64, (T, C, r, seed)))
        close.append(torch.allclose(out, expected, atol=1e-4))
    assert close == [True] * 5 if missing is None else not all(close)


TOPK_EXPORT = """
#include <list>
#include <vector>
#include "cuda_on_host/execution.h"
#include "ops.h"
extern "C" __attribute__((visibility("default")))
bool races_in_knn(const float* points, int64_t N, int64_t k, uint64_t seed) {
  dapt::on_host::set_seed(seed);
  std::vector<int64_t> idx(k);
  std::list<std::vector<char>> memory;
  dapt::Context context;
  context.scratch = [&](size_t bytes) { return memory.emplace_back(bytes).data(); };
  try {
    dapt::cuda::knn({.queries = points, .points = points, .idx = idx.data(), .B = 1, .M = 1,
                     .N = N, .k = k}, context);
  } catch (const std::exception& error) {
    return std::string(error.what()).find("nothing between that orders them") != std::string::npos;
  }
  return false;
}
"""


@pytest.mark.parametrize("missing", [None, 0, 1])
def test_shuffles_do_not_order_memory(tmp_path, missing):
    """Between the two __syncwarp() there are only votes and shuffles, which every lane waits for
    here, but which promise nothing about memory on a device."""
    folder = tmp_path / "cuda"
    shutil.copytree(CSRC / "cuda", folder)
    parts = (folder / "topk.cuh").read_text().split("    __syncwarp();\n")
    assert len(parts) == 3, "the list no longer has two barriers"
    barriers = ["" if i == missing else "    __syncwarp();\n" for i in range(2)]
    (folder / "topk.cuh").write_text(parts[0] + barriers[0] + parts[1] + barriers[1] + parts[2])
    (tmp_path / "export.cpp").write_text(TOPK_EXPORT)
    rest = [tmp_path / "export.cpp", folder / "device.cu", folder / "knn_any.cu"]
    library = link([*compile_objects(rest).values(), compile_altered(folder / "knn.cu")])
    run = ctypes.CDLL(str(library)).races_in_knn
    run.restype = ctypes.c_bool
    points = torch.randn(1, 600, 3)
    found = [
        run(ctypes.c_void_p(points.data_ptr()), *map(ctypes.c_int64, (600, 32, seed)))
        for seed in range(3)
    ]
    assert found == [missing is not None] * 3
