// A Python module for the tests, on numpy arrays and without torch:
//   plans.fps(...)        how a CUDA kernel would be launched for a shape on a device
//   on_host.fps(...)      the CUDA kernels themselves, run on the CPU (cuda_on_host/)
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <list>
#include <optional>
#include <string>
#include <vector>

#include "cuda/plan_fps.h"
#include "cuda/plan_knn.h"
#include "cuda_on_host/device.h"
#include "cuda_on_host/execution.h"
#include "module.h"
#include "ops.h"

namespace py = pybind11;
using namespace pybind11::literals;

namespace dapt {
namespace {

using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Longs = py::array_t<int64_t, py::array::c_style | py::array::forcecast>;

// --- CUDA kernels on the host
// ---------------------------------------------------------------------

/// Runs a launcher. Scratch memory has exactly the size asked for, so that a sanitizer sees what
/// oversteps it.
template <class Args, class Plan>
void run(const Args& args, const std::optional<Plan>& plan,
         void (*with_plan)(const Args&, const Plan&, const Context&),
         void (*planned)(const Args&, const Context&)) {
  std::list<std::vector<char>> memory;
  Context context;
  context.scratch = [&](size_t bytes) { return memory.emplace_back(bytes).data(); };
  plan ? with_plan(args, *plan, context) : planned(args, context);
}

template <class Args>
void run(const Args& args, void (*launcher)(const Args&, const Context&)) {
  std::list<std::vector<char>> memory;
  Context context;
  context.scratch = [&](size_t bytes) { return memory.emplace_back(bytes).data(); };
  launcher(args, context);
}

const int64_t* data_or_null(const std::optional<Longs>& array) {
  return array ? array->data() : nullptr;
}

py::tuple fps(const Floats& points, int64_t num_samples, const std::optional<Longs>& lengths,
              const std::optional<Longs>& starts, int64_t start, bool skip_near_origin,
              const std::optional<cuda::FpsPlan>& plan) {
  const int64_t B = points.shape(0), N = points.shape(1), M = num_samples;
  py::array_t<int64_t> idx({B, M});
  py::array_t<float> centers({B, M, int64_t{3}});
  run<FpsArgs, cuda::FpsPlan>({.points = points.data(),
                               .lengths = data_or_null(lengths),
                               .starts = data_or_null(starts),
                               .idx = idx.mutable_data(),
                               .centers = centers.mutable_data(),
                               .B = B,
                               .N = N,
                               .M = M,
                               .start = start,
                               .skip_near_origin = skip_near_origin},
                              plan, &cuda::fps, &cuda::fps);
  return py::make_tuple(idx, centers);
}

py::tuple knn(const Floats& queries, const Floats& points, int64_t k,
              const std::optional<Longs>& lengths, const std::optional<cuda::KnnPlan>& plan) {
  const int64_t B = queries.shape(0), M = queries.shape(1), N = points.shape(1);
  const int64_t D = queries.shape(2);
  py::array_t<float> sq_dist({B, M, k}), patches({B, M, k, int64_t{D == 3 ? 3 : 0}});
  py::array_t<int64_t> idx({B, M, k});
  run<KnnArgs, cuda::KnnPlan>({.queries = queries.data(),
                               .points = points.data(),
                               .lengths = data_or_null(lengths),
                               .sq_dist = sq_dist.mutable_data(),
                               .idx = idx.mutable_data(),
                               .patches = D == 3 ? patches.mutable_data() : nullptr,
                               .B = B,
                               .M = M,
                               .N = N,
                               .k = k,
                               .D = D},
                              plan, &cuda::knn, &cuda::knn);
  return py::make_tuple(sq_dist, idx, patches);
}

py::array_t<int64_t> ball_query(const Floats& queries, const Floats& points, float sq_radius,
                                int64_t max_neighbors, const std::optional<Longs>& lengths,
                                const std::optional<cuda::BallQueryPlan>& plan) {
  const int64_t B = queries.shape(0), M = queries.shape(1);
  py::array_t<int64_t> idx({B, M, max_neighbors});
  run<BallQueryArgs, cuda::BallQueryPlan>({.queries = queries.data(),
                                           .points = points.data(),
                                           .lengths = data_or_null(lengths),
                                           .idx = idx.mutable_data(),
                                           .B = B,
                                           .M = M,
                                           .N = points.shape(1),
                                           .K = max_neighbors,
                                           .sq_radius = sq_radius},
                                          plan, &cuda::ball_query, &cuda::ball_query);
  return idx;
}

py::array_t<int64_t> grid_cells(const Floats& points, double size,
                                const std::optional<Longs>& lengths) {
  const int64_t B = points.shape(0), N = points.shape(1);
  py::array_t<int64_t> cells({B, N, int64_t{3}});
  run<GridCellsArgs>({.points = points.data(),
                      .lengths = data_or_null(lengths),
                      .cells = cells.mutable_data(),
                      .B = B,
                      .N = N,
                      .size = size},
                     &cuda::grid_cells);
  return cells;
}

py::tuple unique_cells(const Longs& cells, const std::optional<Longs>& scenes) {
  const int64_t N = cells.shape(0);
  py::array_t<int64_t> first(N), inverse(N), counts(N), total(1);
  run<UniqueCellsArgs>({.cells = cells.data(),
                        .scenes = data_or_null(scenes),
                        .first = first.mutable_data(),
                        .inverse = inverse.mutable_data(),
                        .counts = counts.mutable_data(),
                        .total = total.mutable_data(),
                        .N = N},
                       &cuda::unique_cells);
  return py::make_tuple(first, inverse, counts, total);
}

py::array_t<int64_t> neighbor_map(const Longs& cells, const std::optional<Longs>& scenes) {
  const int64_t M = cells.shape(0);
  py::array_t<int64_t> neighbors({M, int64_t{27}});
  run<NeighborMapArgs>({.cells = cells.data(),
                        .scenes = data_or_null(scenes),
                        .neighbors = neighbors.mutable_data(),
                        .M = M},
                       &cuda::neighbor_map);
  return neighbors;
}

py::array_t<int64_t> curve_codes(const Longs& cells, const Longs& depths,
                                 const std::optional<Longs>& scenes,
                                 const std::vector<int64_t>& curves) {
  const int64_t M = cells.shape(0), K = int64_t(curves.size());
  py::array_t<int64_t> codes({K, M});
  CurveCodesArgs args{.cells = cells.data(),
                      .scenes = data_or_null(scenes),
                      .depths = depths.data(),
                      .codes = codes.mutable_data(),
                      .B = depths.shape(0),
                      .M = M,
                      .K = K,
                      .curves = {}};
  for (int64_t k = 0; k < K; ++k) args.curves[k] = Curve(curves[k]);
  run<CurveCodesArgs>(args, &cuda::curve_codes);
  return codes;
}

Floats gather(const Floats& values, const Longs& idx) {
  const int64_t C = values.shape(2);
  py::array_t<float> out({idx.shape(0), idx.shape(1), C});
  run<GatherArgs>({.values = values.data(),
                   .idx = idx.data(),
                   .out = out.mutable_data(),
                   .B = values.shape(0),
                   .N = values.shape(1),
                   .Q = idx.shape(1),
                   .row_bytes = C * int64_t{sizeof(float)}},
                  &cuda::gather);
  return out;
}

/// `grad` [B, Q, C] of float32, float64, float16, or (as uint16) bfloat16.
py::array gather_backward(const py::array& grad_any, const Longs& idx, int64_t num_points,
                          const std::optional<Floats>& weights) {
  const py::array grad = py::array::ensure(grad_any, py::array::c_style);
  const std::string name = py::str(grad.dtype());
  const Real dtype = name == "float64"   ? Real::f64
                     : name == "float16" ? Real::f16
                     : name == "uint16"  ? Real::bf16
                                         : Real::f32;
  const int64_t B = grad.shape(0), C = grad.shape(2);
  py::array grad_values(grad.dtype(), std::vector<int64_t>{B, num_points, C});
  run<GatherBackwardArgs>({.grad = grad.data(),
                           .idx = idx.data(),
                           .weights = weights ? weights->data() : nullptr,
                           .grad_values = grad_values.mutable_data(),
                           .B = B,
                           .N = num_points,
                           .Q = grad.shape(1),
                           .k = idx.shape(2),
                           .C = C,
                           .dtype = dtype},
                          &cuda::gather_backward);
  return grad_values;
}

Floats interpolate(const Floats& values, const Longs& idx, const Floats& weights) {
  const int64_t C = values.shape(2);
  py::array_t<float> out({idx.shape(0), idx.shape(1), C});
  run<InterpolateArgs>({.values = values.data(),
                        .idx = idx.data(),
                        .weights = weights.data(),
                        .out = out.mutable_data(),
                        .B = values.shape(0),
                        .N = values.shape(1),
                        .M = idx.shape(1),
                        .k = idx.shape(2),
                        .C = C},
                       &cuda::interpolate);
  return out;
}

py::tuple chamfer(const Floats& a, const Floats& b, const std::optional<Longs>& a_lengths,
                  const std::optional<Longs>& b_lengths) {
  const int64_t B = a.shape(0), N = a.shape(1), M = b.shape(1);
  py::array_t<float> sq_ab({B, N}), sq_ba({B, M});
  py::array_t<int64_t> idx_ab({B, N}), idx_ba({B, M});
  run<ChamferArgs>({.a = a.data(),
                    .b = b.data(),
                    .a_lengths = data_or_null(a_lengths),
                    .b_lengths = data_or_null(b_lengths),
                    .sq_ab = sq_ab.mutable_data(),
                    .idx_ab = idx_ab.mutable_data(),
                    .sq_ba = sq_ba.mutable_data(),
                    .idx_ba = idx_ba.mutable_data(),
                    .B = B,
                    .N = N,
                    .M = M},
                   &cuda::chamfer);
  return py::make_tuple(sq_ab, idx_ab, sq_ba, idx_ba);
}

template <class Plan>
void bind_plan(py::module_& m, const char* name) {
  // Local, because the sanitized build is loaded beside the ordinary one.
  py::class_<Plan>(m, name, py::module_local()).def("__repr__", [](const Plan& plan) {
    return describe(plan);
  });
}

void bind_plans(py::module_ m) {
  py::class_<cuda::Device>(m, "Device", py::module_local())
      .def(py::init([](int multiprocessors, int shared_per_block, int max_cluster, int code) {
             return cuda::Device{multiprocessors, shared_per_block, max_cluster, code};
           }),
           "multiprocessors"_a, "shared_per_block"_a, "max_cluster"_a, "code"_a);
  m.attr("A100") = cuda::kA100;
  m.attr("H100") = cuda::kH100;
  bind_plan<cuda::FpsPlan>(m, "FpsPlan");
  bind_plan<cuda::KnnPlan>(m, "KnnPlan");
  bind_plan<cuda::BallQueryPlan>(m, "BallQueryPlan");

  m.def("fps", &cuda::plan_fps, "B"_a, "N"_a, "device"_a = cuda::kH100);
  m.def(
      "every_fps",
      [](int64_t B, int64_t N, const cuda::Device& device) {
        std::vector<cuda::FpsPlan> plans;
        for (const cuda::FpsKernel& kernel : cuda::kFpsKernels) {
          if (const auto plan = cuda::plan_fps_with(kernel, B, N, device)) plans.push_back(*plan);
        }
        return plans;
      },
      "Plans of all kernels that can sample such clouds", "B"_a, "N"_a, "device"_a = cuda::kH100);
  m.def("knn", &cuda::plan_knn, "B"_a, "M"_a, "N"_a, "k"_a, "device"_a = cuda::kH100);
  m.def(
      "knn_of",
      [](bool warp_per_query, int keys, int warps, int tile, int64_t splits) {
        using Kernel = cuda::KnnPlan::Kernel;
        const Kernel kernel = warp_per_query ? Kernel::warp_per_query : Kernel::thread_per_query;
        return cuda::KnnPlan{kernel, keys, warps, tile, splits};
      },
      "warp_per_query"_a, "keys"_a, "warps"_a, "tile"_a, "splits"_a);
  m.def("ball_query", &cuda::plan_ball_query, "B"_a, "M"_a, "N"_a, "device"_a = cuda::kH100);
  m.def(
      "ball_query_of", [](int warps, int tile) { return cuda::BallQueryPlan{warps, tile}; },
      "warps"_a, "tile"_a);
}

/// The device that the host plays from now on: a GPU of some compute capability that runs code
/// which may have been compiled for an older one.
void play_device(const cuda::Device& device, int major) {
  on_host::DeviceModel model;
  model.major = major;
  model.code = device.code;
  model.multiprocessors = device.multiprocessors;
  model.shared_per_block = device.shared_per_block;
  model.max_cluster = device.max_cluster;
  on_host::set_device(model);
}

void bind_on_host(py::module_ m) {
  m.def("accesses_watched", [] { return on_host::counters().watched; });
  m.def("play_device", &play_device, "device"_a = cuda::kH100, "major"_a = 9);
  m.def("set_seed", &on_host::set_seed, "Seed of thread order and of shared memory's poison");
  m.def("fps", &fps, "points"_a, "num_samples"_a, "lengths"_a = py::none(), "starts"_a = py::none(),
        "start"_a = 0, "skip_near_origin"_a = false, "plan"_a = py::none());
  m.def("knn", &knn, "queries"_a, "points"_a, "k"_a, "lengths"_a = py::none(),
        "plan"_a = py::none());
  m.def("ball_query", &ball_query, "queries"_a, "points"_a, "sq_radius"_a, "max_neighbors"_a,
        "lengths"_a = py::none(), "plan"_a = py::none());
  m.def("grid_cells", &grid_cells, "points"_a, "size"_a, "lengths"_a = py::none());
  m.def("unique_cells", &unique_cells, "cells"_a, "scenes"_a = py::none());
  m.def("neighbor_map", &neighbor_map, "cells"_a, "scenes"_a = py::none());
  m.def("curve_codes", &curve_codes, "cells"_a, "depths"_a, "scenes"_a, "curves"_a);
  m.def("gather", &gather, "values"_a, "idx"_a);
  m.def("gather_backward", &gather_backward, "grad"_a, "idx"_a, "num_points"_a,
        "weights"_a = py::none());
  m.def("interpolate", &interpolate, "values"_a, "idx"_a, "weights"_a);
  m.def("chamfer", &chamfer, "a"_a, "b"_a, "a_lengths"_a = py::none(), "b_lengths"_a = py::none());
}

}  // namespace

PYBIND11_MODULE(cuda_on_host, m) {
  m.doc() = "How CUDA kernels would be launched, and their run on the host.";
  const auto plans = m.def_submodule("plans", "Launch plans: pure functions of shape and device");
  bind_plans(plans);
  bind_token_plans(plans);
  const auto on_host = m.def_submodule("on_host", "The CUDA kernels, run on the CPU");
  bind_on_host(on_host);
  bind_tokens_on_host(on_host);
}

}  // namespace dapt
