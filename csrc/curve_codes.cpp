// Positions of cells along space-filling curves: checks, allocation, registration.
#include <vector>

#include "cells.h"
#include "checks.h"

namespace dapt {
namespace {

void check_cells(const CurveCodesArgs& a) {
  const auto depth_of = [&](int64_t m) { return a.depths[a.scenes && a.B > 1 ? a.scenes[m] : 0]; };
  uint64_t beyond = 0;  // bits above the depth, of all cells together
  for (int64_t m = 0; m < a.M; ++m) {
    const auto* cell = reinterpret_cast<const uint64_t*>(a.cells + 3 * m);
    beyond |= (cell[0] | cell[1] | cell[2]) >> depth_of(m);
  }
  for (int64_t i = 0; beyond && i < 3 * a.M; ++i) {
    const int64_t depth = depth_of(i / 3);
    check(uint64_t(a.cells[i]) >> depth == 0, "cells must lie in [0, ", int64_t{1} << depth,
          ") for a depth of ", depth, ", got ", a.cells[i], " for cell ", i / 3);
  }
}

}  // namespace

Tensor curve_codes(const Tensor& cells_any, const Tensor& depths_any,
                   const OptionalTensor& scenes_any, const std::vector<int64_t>& curves) {
  check(cells_any.dim() == 2 && cells_any.size(1) == 3, "cells must be [M, 3], got ",
        shape_of(cells_any));
  const int64_t M = cells_any.size(0), K = int64_t(curves.size());
  const Tensor cells = as_index(cells_any, "cells", cells_any, "cells");
  check(depths_any.dim() == 1 && depths_any.size(0) <= kMostScenes, "depths must be [B] of up to ",
        kMostScenes, " scenes, got ", shape_of(depths_any));
  const int64_t B = depths_any.size(0);
  check(B == 1 || scenes_any, "depths must be [1] without scenes, got ", shape_of(depths_any));
  const Tensor depths = as_integers(depths_any, "depths", {B}, 1, kCellBits + 1, cells, "cells");
  const OptionalTensor scenes =
      as_integers(scenes_any, "scenes", {M}, 0, B == 1 ? kMostScenes : B, cells, "cells");
  check(K <= kMostCurves, "curves must be at most ", kMostCurves, ", got ", K);
  Tensor codes = torch::stable::new_empty(cells, {K, M});
  CurveCodesArgs args{.cells = cells.const_data_ptr<int64_t>(),
                      .scenes = data_or_null<int64_t>(scenes),
                      .depths = depths.const_data_ptr<int64_t>(),
                      .codes = codes.mutable_data_ptr<int64_t>(),
                      .B = B,
                      .M = M,
                      .K = K,
                      .curves = {}};
  for (int64_t k = 0; k < K; ++k) {
    check(z_order <= curves[k] && curves[k] <= hilbert_trans, "curves must lie in [0, 4), got ",
          curves[k]);
    args.curves[k] = Curve(curves[k]);
  }
  if (!kOnCuda) check_cells(args);
  if (codes.numel() > 0) launch(&backend::curve_codes, args, cells);
  return codes;
}

DAPT_REGISTER(m) { m.impl("curve_codes", TORCH_BOX(&curve_codes)); }

}  // namespace dapt
