// One cloud in Morton order, cut into buckets of neighboring points with bounding boxes, so that a
// search can skip distant points a bucket at a time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "cpu/buffer.h"
#include "cpu/simd.h"

namespace dapt::cpu::DAPT_ISA {

/// For kLanes boxes (least x y z, greatest x y z, `stride` apart), a lower bound of
/// squared_distance from q to the points in them. It holds to the last bit, because every rounding
/// is monotone.
inline Float box_lower_bound(const float* boxes, int64_t stride, Float qx, Float qy, Float qz) {
  const auto gap = [=](Float q, int axis) {
    const Float below = sub(load(boxes + axis * stride), q);
    const Float above = sub(q, load(boxes + (axis + 3) * stride));
    return max(max(below, above), broadcast(0.0f));
  };
  const Float dx = gap(qx, 0), dy = gap(qy, 1), dz = gap(qz, 2);
  return fma(dz, dz, fma(dy, dy, mul(dx, dx)));
}

struct Buckets {
  int64_t dims;           // coordinates per point: 3, or any number in unsorted buckets
  int64_t size;           // points per bucket, a multiple of kLanes
  int64_t count;          // buckets
  int64_t stride;         // buckets, rounded up to whole vectors
  Buffer<float> xyz;      // [count, dims, size], padded with infinity
  Buffer<int32_t> index;  // [count, size], indices in the cloud; padded with INT32_MAX
  Buffer<float> boxes;    // [6, stride]: least x y z, greatest x y z; padded with empty boxes

  /// Takes `num_points` < 2^31 finite `points` [num_points, dims]; unsorted, they keep the cloud's
  /// order. Boxes bound the first three coordinates. When sorting, only the first `copies` of a
  /// crowd of coincident points are kept: a search for that many neighbors never returns another.
  Buckets(const float* points, int64_t num_points, int64_t size, bool sorted = true,
          int64_t dims = 3, int64_t copies = INT64_MAX);

  /// Coordinates of bucket i: `size` of x, then y, then z.
  const float* at(int64_t i) const { return xyz.get() + dims * size * i; }

  /// For buckets i .. i + kLanes - 1, a lower bound of squared_distance from q to their points.
  Float lower_bound(int64_t i, Float qx, Float qy, Float qz) const {
    return box_lower_bound(boxes.get() + i, stride, qx, qy, qz);
  }
};

namespace detail {

// Spreads the bits of a cell coordinate three apart, to leave room for the other two axes.
inline uint32_t spread_bits(uint32_t c) {
  c = (c | c << 8) & 0x0300f00f;
  c = (c | c << 4) & 0x030c30c3;
  return (c | c << 2) & 0x09249249;
}

/// Counting sort by the Morton code of their cell, of the first `count` points (kAll) or of the
/// `count` points listed in `from`. A cell with more than `crowd` points is sorted again on its
/// own; of coincident points the first `copies` are kept. Returns the number of points kept.
template <bool kAll>
int64_t morton_sort(const float* points, const int32_t* from, int64_t count, int64_t crowd,
                    int64_t copies, int32_t* sorted) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr int64_t kPointsPerCell = 4, kMaxLevels = 7;
  const auto member = [=](int64_t i) { return kAll ? i : int64_t(from[i]); };
  // Coordinates are halved so that no extent overflows.
  const auto half = [=](int64_t i, int axis) { return 0.5f * points[3 * member(i) + axis]; };
  float low[3] = {kInfinity, kInfinity, kInfinity}, high[3] = {-kInfinity, -kInfinity, -kInfinity};
  for (int64_t i = 0; i < count; ++i) {
    for (int d = 0; d < 3; ++d) {
      low[d] = std::min(low[d], half(i, d));
      high[d] = std::max(high[d], half(i, d));
    }
  }
  int levels = 1;
  while (levels < kMaxLevels && kPointsPerCell << 3 * levels < count) ++levels;
  const int32_t side = 1 << levels;
  const float scale =
      float(side) / std::max({high[0] - low[0], high[1] - low[1], high[2] - low[2]});
  if (scale == kInfinity) {  // (nearly) coincident points keep the cloud's order
    const bool same = std::equal(low, low + 3, high);
    const int64_t kept = same ? std::min(count, copies) : count;
    for (int64_t i = 0; i < kept; ++i) sorted[i] = int32_t(member(i));
    return kept;
  }

  const auto cell = make_buffer<uint32_t>(count);
  for (int64_t i = 0; i < count; ++i) {
    const auto along = [&](int axis) {
      return spread_bits(std::min(int32_t((half(i, axis) - low[axis]) * scale), side - 1));
    };
    cell[i] = along(0) | along(1) << 1 | along(2) << 2;
  }
  std::vector<int32_t> end(int64_t{1} << 3 * levels);
  for (int64_t i = 0; i < count; ++i) ++end[cell[i]];
  int32_t total = 0;
  for (int32_t& e : end) total += std::exchange(e, total);
  for (int64_t i = 0; i < count; ++i) sorted[end[cell[i]]++] = int32_t(member(i));
  int32_t begin = 0;
  int32_t* out = sorted;
  for (const int32_t e : end) {
    if (e - begin > crowd) {
      const std::vector<int32_t> members(sorted + begin, sorted + e);
      out += morton_sort<false>(points, members.data(), e - begin, crowd, copies, out);
    } else {
      out = out == sorted + begin ? sorted + e : std::copy(sorted + begin, sorted + e, out);
    }
    begin = e;
  }
  return out - sorted;
}

}  // namespace detail

inline Buckets::Buckets(const float* points, int64_t num_points, int64_t size, bool sorted,
                        int64_t dims, int64_t copies)
    : dims(dims),
      size(size),
      count((num_points + size - 1) / size),
      stride((count + kLanes - 1) / kLanes * kLanes),
      xyz(make_buffer<float>(count * dims * size)),
      index(make_buffer<int32_t>(count * size)),
      boxes(make_buffer<float>(6 * stride)) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  if (sorted) {
    num_points =
        detail::morton_sort<true>(points, nullptr, num_points, 8 * size, copies, index.get());
    count = (num_points + size - 1) / size;
    stride = (count + kLanes - 1) / kLanes * kLanes;
  } else {
    std::iota(index.get(), index.get() + num_points, 0);
  }
  std::fill(index.get() + num_points, index.get() + count * size, INT32_MAX);
  std::fill(boxes.get(), boxes.get() + 3 * stride, kInfinity);
  std::fill(boxes.get() + 3 * stride, boxes.get() + 6 * stride, -kInfinity);
  for (int64_t i = 0; i < count; ++i) {
    float* x = xyz.get() + dims * size * i;
    const int64_t filled = std::min(size, num_points - i * size);
    for (int64_t j = 0; j < filled; ++j) {
      const float* p = points + dims * int64_t(index[i * size + j]);
      for (int64_t d = 0; d < dims; ++d) x[d * size + j] = p[d];
    }
    for (int64_t d = 3; d < dims; ++d)
      std::fill(x + d * size + filled, x + (d + 1) * size, kInfinity);
    for (int64_t d = 0; d < std::min<int64_t>(dims, 3); ++d) {
      float* c = x + d * size;
      std::fill(c + filled, c + size, c[0]);
      Float low = load(c), high = low;
      for (int64_t j = kLanes; j < size; j += kLanes) {
        low = min(low, load(c + j));
        high = max(high, load(c + j));
      }
      boxes[d * stride + i] = reduce_min(low);
      boxes[(d + 3) * stride + i] = reduce_max(high);
      std::fill(c + filled, c + size, kInfinity);
    }
  }
}

}  // namespace dapt::cpu::DAPT_ISA
