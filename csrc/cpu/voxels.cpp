// Cells of points in a grid, distinct cells, and neighbors of cells, on the CPU. Cells are looked
// up in a hash table, which is filled in their order.
#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/cell_table.h"
#include "cpu/parallel.h"
#include "ops.h"

namespace dapt::cpu::DAPT_ISA {
namespace {

/// Finds the neighbors of one cell, which lie in at most two cubes along each axis.
void find_neighbors(const CellTable& table, int64_t scene, const int64_t* cell,
                    int64_t* neighbors) {
  const auto upper = [&](int axis, int64_t step) {  // whether a step enters the second cube
    const int64_t low = (cell[axis] - 1) >> CellTable::kSideBits;
    return int(((cell[axis] + step) >> CellTable::kSideBits) - low);
  };
  CellTable::Cube cubes[2][2][2];
  for (int i = 0; i <= upper(0, 1); ++i)
    for (int j = 0; j <= upper(1, 1); ++j)
      for (int k = 0; k <= upper(2, 1); ++k)
        cubes[i][j][k] = table.cube_of(scene, cell[0] + (i ? 1 : -1), cell[1] + (j ? 1 : -1),
                                       cell[2] + (k ? 1 : -1));
  for (int64_t a : {-1, 0, 1}) {
    for (int64_t b : {-1, 0, 1}) {
      for (int64_t c : {-1, 0, 1}) {
        const CellTable::Cube cube = cubes[upper(0, a)][upper(1, b)][upper(2, c)];
        const int place = CellTable::place_in_cube(cell[0] + a, cell[1] + b, cell[2] + c);
        *neighbors++ = cube ? cube[place] : -1;
      }
    }
  }
}

}  // namespace

void grid_cells(const GridCellsArgs& a) {
  // parallel over clouds
  parallel_for(a.B, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const float* points = a.points + 3 * b * a.N;  // [N, 3]
      int64_t* cells = a.cells + 3 * b * a.N;        // [N, 3]
      const int64_t length = a.lengths ? a.lengths[b] : a.N;
      float corner[3];
      std::fill_n(corner, 3, std::numeric_limits<float>::infinity());
      for (int64_t i = 0; i < 3 * length; ++i) corner[i % 3] = std::min(corner[i % 3], points[i]);
      for (int64_t i = 0; i < 3 * length; ++i) {
        const double cell = std::floor((double(points[i]) - double(corner[i % 3])) / a.size);
        cells[i] = int64_t(std::min(cell, double(kMostCells)));
      }
      std::fill(cells + 3 * length, cells + 3 * a.N, -1);
    }
  });
}

void unique_cells(const UniqueCellsArgs& a) {
  CellTable table;
  int64_t total = 0;
  for (int64_t n = 0; n < a.N; ++n) {
    const int64_t* cell = a.cells + 3 * n;
    a.inverse[n] = -1;
    if (!is_cell(cell[0], cell[1], cell[2])) continue;
    int32_t& number = table.at(a.scenes ? a.scenes[n] : 0, cell[0], cell[1], cell[2]);
    if (number < 0) {
      number = int32_t(total);
      a.first[total] = n, a.counts[total] = 0;
      ++total;
    }
    a.inverse[n] = number;
    ++a.counts[number];
  }
  std::fill(a.first + total, a.first + a.N, -1);
  std::fill(a.counts + total, a.counts + a.N, 0);
  *a.total = total;
}

void neighbor_map(const NeighborMapArgs& a) {
  CellTable table;
  for (int64_t m = 0; m < a.M; ++m) {
    const int64_t* cell = a.cells + 3 * m;
    int32_t& number = table.at(a.scenes ? a.scenes[m] : 0, cell[0], cell[1], cell[2]);
    if (number < 0) number = int32_t(m);
  }
  // parallel over cells
  parallel_for(a.M, 256, [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      find_neighbors(table, a.scenes ? a.scenes[m] : 0, a.cells + 3 * m, a.neighbors + kTaps * m);
    }
  });
}

}  // namespace dapt::cpu::DAPT_ISA
