// Cells of points in a grid, distinct cells, and neighbors of cells: checks, allocation,
// registration.
#include <cmath>

#include "cells.h"
#include "checks.h"

namespace dapt {
namespace {

void check_extent(const Tensor& cells, double size) {
  const int64_t* cell = cells.const_data_ptr<int64_t>();
  const int64_t per_cloud = cells.size(1) * 3;
  for (int64_t i = 0; i < cells.numel(); ++i) {
    check(cell[i] < kMostCells, "size must be larger: cloud ", i / per_cloud, " has more than ",
          kMostCells, " cells of ", size, " along one axis, as far as point ", i % per_cloud / 3);
  }
}

}  // namespace

Tensor grid_cells(const Tensor& points_any, double size, const OptionalTensor& lengths_any) {
  check(size > 0 && std::isfinite(size), "size must be above 0 and finite, got ", size);
  const Tensor points = as_points(points_any, "points");
  const int64_t B = points.size(0), N = points.size(1);
  const OptionalTensor lengths =
      as_integers(lengths_any, "lengths", {B}, 0, N + 1, points, "points");
  Tensor cells = torch::stable::new_empty(points, {B, N, 3}, ScalarType::Long);
  if (cells.numel() > 0) {
    launch(&backend::grid_cells,
           GridCellsArgs{.points = points.const_data_ptr<float>(),
                         .lengths = data_or_null<int64_t>(lengths),
                         .cells = cells.mutable_data_ptr<int64_t>(),
                         .B = B,
                         .N = N,
                         .size = size},
           points);
    if (!kOnCuda) check_extent(cells, size);
  }
  return cells;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> unique_cells(const Tensor& cells_any,
                                                        const OptionalTensor& scenes_any) {
  check(cells_any.dim() == 2, "cells must be [N, 3], got ", shape_of(cells_any));
  const int64_t N = cells_any.size(0);
  const Tensor cells = as_integers(cells_any, "cells", {N, 3}, -1, kMostCells, cells_any, "cells");
  const OptionalTensor scenes =
      as_integers(scenes_any, "scenes", {N}, 0, kMostScenes, cells, "cells");
  Tensor first = torch::stable::new_empty(cells, {N});
  Tensor inverse = torch::stable::new_empty(cells, {N});
  Tensor counts = torch::stable::new_empty(cells, {N});
  Tensor total = torch::stable::new_empty(cells, {1});
  launch(&backend::unique_cells,
         UniqueCellsArgs{.cells = cells.const_data_ptr<int64_t>(),
                         .scenes = data_or_null<int64_t>(scenes),
                         .first = first.mutable_data_ptr<int64_t>(),
                         .inverse = inverse.mutable_data_ptr<int64_t>(),
                         .counts = counts.mutable_data_ptr<int64_t>(),
                         .total = total.mutable_data_ptr<int64_t>(),
                         .N = N},
         cells);
  return {first, inverse, counts, total};
}

Tensor neighbor_map(const Tensor& cells_any, const OptionalTensor& scenes_any) {
  check(cells_any.dim() == 2, "cells must be [M, 3], got ", shape_of(cells_any));
  const int64_t M = cells_any.size(0);
  const Tensor cells = as_integers(cells_any, "cells", {M, 3}, 0, kMostCells, cells_any, "cells");
  const OptionalTensor scenes =
      as_integers(scenes_any, "scenes", {M}, 0, kMostScenes, cells, "cells");
  Tensor neighbors = torch::stable::new_empty(cells, {M, kTaps});
  if (M > 0) {
    launch(&backend::neighbor_map,
           NeighborMapArgs{.cells = cells.const_data_ptr<int64_t>(),
                           .scenes = data_or_null<int64_t>(scenes),
                           .neighbors = neighbors.mutable_data_ptr<int64_t>(),
                           .M = M},
           cells);
  }
  return neighbors;
}

DAPT_REGISTER(m) {
  m.impl("grid_cells", TORCH_BOX(&grid_cells));
  m.impl("unique_cells", TORCH_BOX(&unique_cells));
  m.impl("neighbor_map", TORCH_BOX(&neighbor_map));
}

}  // namespace dapt
