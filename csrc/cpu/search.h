// What kNN, ball query and chamfer share: clouds made ready for searches, the loop over queries,
// and the buckets that a query has to look at.
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

constexpr int64_t kBucket = 64;      // points per bucket: one bit each of a word
constexpr int64_t kSortFrom = 4096;  // points: in smaller clouds a search of all is faster
constexpr int64_t kRegion = kLanes;  // buckets per region: their boxes fill a vector

/// A point in every lane.
struct Query {
  explicit Query(const float* p) : x(broadcast(p[0])), y(broadcast(p[1])), z(broadcast(p[2])) {}
  Float x, y, z;
};

/// A cloud in buckets, in the order of its points; or, `sorted`, in buckets of neighbors with
/// boxes around them and around regions of kRegion of them, so that a search looks at few.
struct BucketedCloud {
  /// For searches for `copies` neighbors.
  BucketedCloud(const float* points, int64_t num_points, bool sorted, int64_t dims = 3,
                int64_t copies = INT64_MAX)
      : buckets(points, num_points, kBucket, sorted, dims, copies), sorted(sorted) {
    if (!sorted) return;
    num_regions = (buckets.count + kRegion - 1) / kRegion;
    stride = (num_regions + kLanes - 1) / kLanes * kLanes;
    regions = make_buffer<float>(6 * stride);
    for (int axis = 0; axis < 6; ++axis) {
      const float* edge = buckets.boxes.get() + axis * buckets.stride;
      float* out = regions.get() + axis * stride;
      for (int64_t r = 0; r < num_regions; ++r, edge += kRegion) {
        const float* end = edge + buckets_of(r);
        out[r] = axis < 3 ? *std::min_element(edge, end) : *std::max_element(edge, end);
      }
      std::fill(out + num_regions, out + stride, INFINITY);
    }
  }

  int64_t buckets_of(int64_t region) const {
    return std::min(kRegion, buckets.count - region * kRegion);
  }

  Buckets buckets;
  bool sorted;
  int64_t num_regions = 0, stride = 0;
  Buffer<float> regions;  // [6, stride], as the boxes of buckets
};

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

/// A value that at least k, and seldom many more, of `count` values >= 0 do not exceed; `count` is
/// a multiple of kLanes.
inline float kth_bound(const float* values, int64_t count, int64_t k) {
  Float least = load(values), most = least;
  for (int64_t i = kLanes; i < count; i += kLanes) {
    least = min(least, load(values + i)), most = max(most, load(values + i));
  }
  if (k == 1) return reduce_min(least);
  // Bisection over the bits of the value, which have its order: fewer than k values are <= low, at
  // least k are <= high.
  int32_t low = std::bit_cast<int32_t>(reduce_min(least)) - 1;
  int32_t high = std::bit_cast<int32_t>(reduce_max(most));
  while (high - low > 1) {
    const int32_t middle = low + (high - low) / 2;
    const Float bound = broadcast(std::bit_cast<float>(middle));
    int64_t within = 0;
    for (int64_t i = 0; i < count; i += kLanes) {
      within += std::popcount(bits(less_equal(load(values + i), bound)));
    }
    (within < k ? low : high) = middle;
    if (k <= within && within <= k + k / 8) break;
  }
  return std::bit_cast<float>(high);
}

/// Lists the buckets of a sorted cloud that a query has to look at. A list is valid until the next.
class Finder {
 public:
  using List = std::span<const int32_t>;

  explicit Finder(const BucketedCloud& cloud)
      : cloud_(cloud),
        list_(make_buffer<int32_t>(cloud.buckets.count)),
        near_regions_(make_buffer<int32_t>(cloud.num_regions)),
        region_bounds_(make_buffer<float>(cloud.stride)),
        bucket_bounds_(make_buffer<float>(cloud.num_regions * kRegion)) {}

  /// Buckets that hold points not farther than `bound`, and few others.
  List within(const Query& q, float bound) {
    bound_regions(q);
    bound_buckets(q, bound);
    return list_buckets(bound);
  }

  /// At least `wanted` buckets about the query.
  List about(const Query& q, int64_t wanted) {
    wanted = std::min(wanted, cloud_.buckets.count);
    bound_regions(q);
    bound_buckets(q, kth_bound(region_bounds_.get(), cloud_.stride, 1 + (wanted - 1) / kRegion));
    return list_buckets(kth_bound(bucket_bounds_.get(), num_near_ * kRegion, wanted));
  }

 private:
  void bound_regions(const Query& q) {
    for (int64_t r = 0; r < cloud_.stride; r += kLanes) {
      store(&region_bounds_[r], box_lower_bound(&cloud_.regions[r], cloud_.stride, q.x, q.y, q.z));
    }
  }

  void bound_buckets(const Query& q, float region_bound) {
    num_near_ = append_within(region_bounds_.get(), cloud_.num_regions, region_bound, 0,
                              near_regions_.get()) -
                near_regions_.get();
    for (int64_t i = 0; i < num_near_; ++i) {
      store(&bucket_bounds_[i * kRegion],
            cloud_.buckets.lower_bound(near_regions_[i] * kRegion, q.x, q.y, q.z));
    }
  }

  List list_buckets(float bound) {
    int32_t* end = list_.get();
    for (int64_t i = 0; i < num_near_; ++i) {
      const int64_t region = near_regions_[i];
      end = append_within(&bucket_bounds_[i * kRegion], cloud_.buckets_of(region), bound,
                          region * kRegion, end);
    }
    return {list_.get(), end};
  }

  // Appends `shift` + the places among `count` values that do not exceed `bound`.
  static int32_t* append_within(const float* values, int64_t count, float bound, int64_t shift,
                                int32_t* list) {
    for (int64_t i = 0; i < count; i += kLanes) {
      uint32_t within = bits(less_equal(load(values + i), broadcast(bound)));
      if (count - i < kLanes) within &= (1u << (count - i)) - 1;
      for (; within; within &= within - 1) *list++ = int32_t(shift + i + std::countr_zero(within));
    }
    return list;
  }

  const BucketedCloud& cloud_;
  Buffer<int32_t> list_, near_regions_;
  Buffer<float> region_bounds_, bucket_bounds_;  // squared distances to boxes
  int64_t num_near_ = 0;
};

}  // namespace dapt::cpu::DAPT_ISA
