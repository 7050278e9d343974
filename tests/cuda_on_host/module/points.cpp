// Point, cell and row ops: launch plans, and the CUDA kernels on the host.
#include "cuda/plan_fps.h"
#include "cuda/plan_knn.h"
#include "fields.h"
#include "module.h"

using namespace pybind11::literals;

namespace dapt {
namespace {

FpsArgs fps_args(const py::kwargs& given) {
  Fields fields(given);
  FpsArgs args{};
  TAKE(points), TAKE(lengths), TAKE(starts), TAKE(idx), TAKE(centers);
  TAKE(B), TAKE(N), TAKE(M), TAKE(start), TAKE(skip_near_origin);
  fields.finish();
  return args;
}

KnnArgs knn_args(const py::kwargs& given) {
  Fields fields(given);
  KnnArgs args{};
  TAKE(queries), TAKE(points), TAKE(lengths), TAKE(sq_dist), TAKE(idx), TAKE(patches);
  TAKE(B), TAKE(M), TAKE(N), TAKE(k), TAKE(D);
  fields.finish();
  return args;
}

BallQueryArgs ball_query_args(const py::kwargs& given) {
  Fields fields(given);
  BallQueryArgs args{};
  TAKE(queries), TAKE(points), TAKE(lengths), TAKE(idx);
  TAKE(B), TAKE(M), TAKE(N), TAKE(K), TAKE(sq_radius);
  fields.finish();
  return args;
}

GridCellsArgs grid_cells_args(const py::kwargs& given) {
  Fields fields(given);
  GridCellsArgs args{};
  TAKE(points), TAKE(lengths), TAKE(cells);
  TAKE(B), TAKE(N), TAKE(size);
  fields.finish();
  return args;
}

UniqueCellsArgs unique_cells_args(const py::kwargs& given) {
  Fields fields(given);
  UniqueCellsArgs args{};
  TAKE(cells), TAKE(scenes), TAKE(first), TAKE(inverse), TAKE(counts), TAKE(total);
  TAKE(N);
  fields.finish();
  return args;
}

NeighborMapArgs neighbor_map_args(const py::kwargs& given) {
  Fields fields(given);
  NeighborMapArgs args{};
  TAKE(cells), TAKE(scenes), TAKE(neighbors);
  TAKE(M);
  fields.finish();
  return args;
}

CurveCodesArgs curve_codes_args(const py::kwargs& given) {
  Fields fields(given);
  CurveCodesArgs args{};
  TAKE(cells), TAKE(scenes), TAKE(depths), TAKE(codes);
  TAKE(B), TAKE(M), TAKE(K), TAKE(curves);
  fields.finish();
  return args;
}

GatherArgs gather_args(const py::kwargs& given) {
  Fields fields(given);
  GatherArgs args{};
  TAKE(values), TAKE(idx), TAKE(out);
  TAKE(B), TAKE(N), TAKE(Q), TAKE(row_bytes);
  fields.finish();
  return args;
}

GatherBackwardArgs gather_backward_args(const py::kwargs& given) {
  Fields fields(given);
  GatherBackwardArgs args{};
  TAKE(grad), TAKE(idx), TAKE(weights), TAKE(grad_values);
  TAKE(B), TAKE(N), TAKE(Q), TAKE(k), TAKE(C), TAKE(dtype);
  fields.finish();
  return args;
}

InterpolateArgs interpolate_args(const py::kwargs& given) {
  Fields fields(given);
  InterpolateArgs args{};
  TAKE(values), TAKE(idx), TAKE(weights), TAKE(out);
  TAKE(B), TAKE(N), TAKE(M), TAKE(k), TAKE(C);
  fields.finish();
  return args;
}

ChamferArgs chamfer_args(const py::kwargs& given) {
  Fields fields(given);
  ChamferArgs args{};
  TAKE(a), TAKE(b), TAKE(a_lengths), TAKE(b_lengths), TAKE(sq_ab), TAKE(idx_ab), TAKE(sq_ba),
      TAKE(idx_ba);
  TAKE(B), TAKE(N), TAKE(M);
  fields.finish();
  return args;
}

template <class Plan>
void bind_plan(py::module_& m, const char* name) {
  // Local, because the sanitized build is loaded beside the ordinary one.
  py::class_<Plan>(m, name, py::module_local()).def("__repr__", [](const Plan& plan) {
    return describe(plan);
  });
}

}  // namespace

void bind_point_plans(py::module_ m) {
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

void bind_points_on_host(py::module_ m) {
  m.def(
      "fps",
      [](const std::optional<cuda::FpsPlan>& plan, const py::kwargs& given) {
        run<FpsArgs, cuda::FpsPlan>(fps_args(given), plan, &cuda::fps, &cuda::fps);
      },
      "plan"_a);
  m.def(
      "knn",
      [](const std::optional<cuda::KnnPlan>& plan, const py::kwargs& given) {
        run<KnnArgs, cuda::KnnPlan>(knn_args(given), plan, &cuda::knn, &cuda::knn);
      },
      "plan"_a);
  m.def(
      "ball_query",
      [](const std::optional<cuda::BallQueryPlan>& plan, const py::kwargs& given) {
        run<BallQueryArgs, cuda::BallQueryPlan>(ball_query_args(given), plan, &cuda::ball_query,
                                                &cuda::ball_query);
      },
      "plan"_a);
  m.def("grid_cells", [](const py::kwargs& given) {
    run<GridCellsArgs>(grid_cells_args(given), &cuda::grid_cells);
  });
  m.def("unique_cells", [](const py::kwargs& given) {
    run<UniqueCellsArgs>(unique_cells_args(given), &cuda::unique_cells);
  });
  m.def("neighbor_map", [](const py::kwargs& given) {
    run<NeighborMapArgs>(neighbor_map_args(given), &cuda::neighbor_map);
  });
  m.def("curve_codes", [](const py::kwargs& given) {
    run<CurveCodesArgs>(curve_codes_args(given), &cuda::curve_codes);
  });
  m.def("gather",
        [](const py::kwargs& given) { run<GatherArgs>(gather_args(given), &cuda::gather); });
  m.def("gather_backward", [](const py::kwargs& given) {
    run<GatherBackwardArgs>(gather_backward_args(given), &cuda::gather_backward);
  });
  m.def("interpolate", [](const py::kwargs& given) {
    run<InterpolateArgs>(interpolate_args(given), &cuda::interpolate);
  });
  m.def("chamfer",
        [](const py::kwargs& given) { run<ChamferArgs>(chamfer_args(given), &cuda::chamfer); });
}

}  // namespace dapt
