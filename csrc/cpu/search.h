// What kNN, ball query and chamfer share: clouds prepared for searches, the loop over queries, and
// the lookup of the buckets that a query has to search.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <memory>
#include <numeric>
#include <span>
#include <vector>

#include "cpu/buckets.h"
#include "cpu/parallel.h"
#include "cpu/simd.h"

namespace dapt::cpu::DAPT_ISA {

constexpr int64_t kBucket = 64;      // points per bucket: one bit of a word per point
constexpr int64_t kSortFrom = 4096;  // points: smaller clouds are searched faster without sorting

/// One point, repeated in every lane.
struct Query {
  explicit Query(const float* p) : x(broadcast(p[0])), y(broadcast(p[1])), z(broadcast(p[2])) {}
  Float x, y, z;
};

/// A cloud in buckets that keep the order of its points or, if `sorted`, in buckets of neighbors,
/// which are the leaves of a tree of boxes, so that a search visits few of them.
struct BucketedCloud {
  /// Boxes of one level, [6, stride]; each contains kLanes boxes of the level below.
  struct Level {
    int64_t count, stride;
    const float* boxes;
  };

  /// `copies` is the number of neighbors that searches will ask for.
  BucketedCloud(const float* points, int64_t num_points, bool sorted, int64_t dims = 3,
                int64_t copies = INT64_MAX)
      : buckets(points, num_points, kBucket, sorted, dims, copies), sorted(sorted) {
    if (!sorted) return;
    for (int64_t i = 0; i < buckets.count; ++i) {
      const float* edge = buckets.boxes.get() + i;
      extent += (edge[3 * buckets.stride] - edge[0]) / float(buckets.count);
    }
    constexpr int64_t kTop = 4 * kLanes;  // boxes of the top level, all of which are tested
    levels.push_back({buckets.count, buckets.stride, buckets.boxes.get()});
    while (levels.back().count > kTop) {
      const Level below = levels.back();
      const int64_t count = (below.count + kLanes - 1) / kLanes;
      const int64_t stride = (count + kLanes - 1) / kLanes * kLanes;
      float* boxes = above.emplace_back(make_buffer<float>(6 * stride)).get();
      for (int axis = 0; axis < 6; ++axis) {
        const float* edge = below.boxes + axis * below.stride;
        float* out = boxes + axis * stride;
        for (int64_t i = 0; i < count; ++i, edge += kLanes) {
          out[i] = axis < 3 ? reduce_min(load(edge)) : reduce_max(load(edge));
        }
        std::fill(out + count, out + stride, axis < 3 ? INFINITY : -INFINITY);
      }
      levels.push_back({count, stride, boxes});
    }
  }

  Buckets buckets;
  bool sorted;
  float extent = 0;           // of a bucket along x, on average
  std::vector<Level> levels;  // from the buckets up
  std::vector<Buffer<float>> above;
};

/// The order of `count` queries [count, 3] along a space-filling curve, in which each is near the
/// one before; null if there are too many for int32.
inline Buffer<int32_t> curve_order(const float* queries, int64_t count) {
  if (count > INT32_MAX) return nullptr;
  Buffer<int32_t> order = make_buffer<int32_t>(count);
  detail::morton_sort<true>(queries, nullptr, count, 8 * kBucket, INT64_MAX, order.get());
  return order;
}

/// Calls f(*prepare(b), begin, end) for ranges of the queries (rows of [B, M]) of cloud b. In
/// parallel over clouds, then over queries.
template <class Prepare, class Function>
void for_each_query(int64_t B, int64_t N, int64_t M, const Prepare& prepare, const Function& f) {
  constexpr int64_t kPointsAtOnce = 1 << 22, kGrain = 16;
  const int64_t at_once = std::max<int64_t>(1, kPointsAtOnce / N);
  for (int64_t first = 0; first < B; first += at_once) {
    const int64_t num_clouds = std::min(at_once, B - first);
    std::vector<decltype(prepare(0))> clouds(num_clouds);
    parallel_for(num_clouds, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) clouds[i] = prepare(first + i);
    });
    parallel_for(num_clouds * M, kGrain, [&](int64_t begin, int64_t end) {
      while (begin < end) {
        const int64_t i = begin / M, stop = std::min(end, (i + 1) * M);
        f(*clouds[i], first * M + begin, first * M + stop);
        begin = stop;
      }
    });
  }
}

/// A bound that at least k, and seldom many more, of `num_values` values >= 0 do not exceed.
/// `num_values` is a multiple of kLanes.
inline float kth_bound(const float* values, int64_t num_values, int64_t k) {
  Float least = load(values), most = least;
  for (int64_t i = kLanes; i < num_values; i += kLanes) {
    least = min(least, load(values + i)), most = max(most, load(values + i));
  }
  if (k == 1) return reduce_min(least);
  // Fewer than k values are <= low, at least k are <= high. The first steps bisect by value,
  // because squared distances to a surface are spread evenly; then by bits, which have the same
  // order.
  int32_t low = std::bit_cast<int32_t>(reduce_min(least)) - 1;
  int32_t high = std::bit_cast<int32_t>(reduce_max(most));
  for (int step = 0; high - low > 1; ++step) {
    int32_t middle = low + (high - low) / 2;
    if (step < 8) {
      const float mean =
          std::bit_cast<float>(std::max(low, 0)) / 2 + std::bit_cast<float>(high) / 2;
      const int32_t place = std::bit_cast<int32_t>(mean);
      if (low < place && place < high) middle = place;
    }
    const Float bound = broadcast(std::bit_cast<float>(middle));
    Int hits = broadcast(int32_t{0});
    for (int64_t i = 0; i < num_values; i += kLanes) {
      hits = count(less_equal(load(values + i), bound), hits);
    }
    const int64_t within = reduce_add(hits);
    (within < k ? low : high) = middle;
    if (k <= within && within <= k + k / 8) break;
  }
  return std::bit_cast<float>(high);
}

/// Lists the buckets of a sorted cloud that a query has to search. A list is valid until the next.
class Finder {
 public:
  using List = std::span<const int32_t>;

  explicit Finder(const BucketedCloud& cloud)
      : cloud_(cloud),
        list_(make_buffer<int32_t>(cloud.buckets.stride + kLanes)),
        parents_(make_buffer<int32_t>(cloud.buckets.stride + kLanes)) {}

  /// The buckets that may hold points within the squared distance `bound`.
  List within(const float* point, float bound) {
    if (bound == INFINITY) {  // would also admit the boxes that pad a level
      std::iota(list_.get(), list_.get() + cloud_.buckets.count, 0);
      return {list_.get(), size_t(cloud_.buckets.count)};
    }
    const Query q(point);
    int64_t level = int64_t(cloud_.levels.size()) - 1;
    int64_t num = 0;
    for (int64_t i = 0; i < cloud_.levels[level].stride; i += kLanes) {
      num += append(cloud_.levels[level], i, q, bound, &list_[num]);
    }
    while (level-- > 0) {
      std::swap(list_, parents_);
      int64_t num_below = 0;
      for (int64_t i = 0; i < num; ++i) {
        num_below +=
            append(cloud_.levels[level], parents_[i] * kLanes, q, bound, &list_[num_below]);
      }
      num = num_below;
    }
    return {list_.get(), size_t(num)};
  }

  /// A bucket near the query, found by descending the tree into the nearest box of each level.
  int64_t descend(const float* point) {
    const Query q(point);
    int64_t level = int64_t(cloud_.levels.size()) - 1, box = 0;
    float nearest = INFINITY;
    for (int64_t i = 0; i < cloud_.levels[level].stride; i += kLanes) {
      box = nearer_box(cloud_.levels[level], i, q, nearest, box);
    }
    while (level-- > 0) {
      nearest = INFINITY;
      box = nearer_box(cloud_.levels[level], box * kLanes, q, nearest, box * kLanes);
    }
    return box;
  }

 private:
  using Level = BucketedCloud::Level;

  static Float bounds(const Level& level, int64_t i, const Query& q) {
    return box_lower_bound(level.boxes + i, level.stride, q.x, q.y, q.z);
  }

  // Appends those of kLanes boxes that are within the bound.
  static int append(const Level& level, int64_t i, const Query& q, float bound, int32_t* list) {
    const Mask near = less_equal(bounds(level, i, q), broadcast(bound));
    return compress(near, add(iota(), broadcast(int32_t(i))), list);
  }

  // The nearest of kLanes boxes if it is nearer than `nearest`, which is updated; else `box`.
  static int64_t nearer_box(const Level& level, int64_t i, const Query& q, float& nearest,
                            int64_t box) {
    const Float bound = bounds(level, i, q);
    const float least = reduce_min(bound);
    if (!(least < nearest)) return box;
    nearest = least;
    return i + std::countr_zero(bits(equal(bound, broadcast(least))));
  }

  const BucketedCloud& cloud_;
  Buffer<int32_t> list_, parents_;  // [stride + kLanes] each
};

}  // namespace dapt::cpu::DAPT_ISA
