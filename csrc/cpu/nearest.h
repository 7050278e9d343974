// The k nearest points of a query.
//
// In a small cloud all distances are written to a row, along with the minima of groups of points:
// the k-th smallest minimum bounds the k-th distance. In a sorted cloud the k-th distance of the
// previous query bounds that of a nearby one, by the triangle inequality; only buckets within the
// bound are searched, and nearby queries share one list of them. Either way little more than k
// points pass the bound and have to be sorted.
#pragma once

#include <limits>
#include <utility>

#include "cpu/search.h"

namespace dapt::cpu::DAPT_ISA {

// (distance, index) as one integer of the same order: floats >= 0 are ordered like their bits.
inline int64_t make_key(float distance, int32_t index) {
  return int64_t(std::bit_cast<int32_t>(distance)) << 32 | index;
}
inline float distance_of(int64_t key) { return std::bit_cast<float>(int32_t(key >> 32)); }
inline int64_t index_of(int64_t key) { return int32_t(key); }

/// Points that may be among the nearest: distances and indices, with room for one more vector.
struct Candidates {
  explicit Candidates(int64_t most)
      : distance(make_buffer<float>(most + 4 * kLanes)),
        index(make_buffer<int32_t>(most + kLanes)) {}

  /// Adds the lanes that `keep` selects.
  void add(Mask keep, Float d, Int i) {
    compress(keep, bits_of(d), reinterpret_cast<int32_t*>(distance.get()) + count);
    count += compress(keep, i, index.get() + count);
  }

  /// Drops candidates farther than the bound.
  void trim(float bound) {
    const int64_t before = std::exchange(count, 0);
    std::fill_n(distance.get() + before, kLanes, INFINITY);
    for (int64_t i = 0; i < before; i += kLanes) {
      const Float d = load(&distance[i]);
      const Mask keep = less_equal(d, broadcast(bound));
      if (bound == INFINITY && i + kLanes > before) return void(count = before);
      add(keep, d, load(&index[i]));
    }
  }

  Buffer<float> distance;
  Buffer<int32_t> index;
  int64_t count = 0;
};

/// Sorts by counting, for each candidate, those that are nearer.
inline void rank_sort(Candidates& of, int64_t* sorted) {
  constexpr int kTogether = 4;  // vectors
  const float* distance = of.distance.get();
  std::fill_n(of.distance.get() + of.count, kTogether * kLanes, INFINITY);
  int64_t ranks = 0;
  for (int64_t i = 0; i < of.count; i += kTogether * kLanes) {
    Int mine[kTogether], before[kTogether];
    for (int v = 0; v < kTogether; ++v) {
      mine[v] = bits_of(load(distance + i + v * kLanes)), before[v] = broadcast(int32_t{0});
    }
    for (int64_t j = 0; j < of.count; ++j) {
      const Int other = bits_of(broadcast(distance[j]));
      for (int v = 0; v < kTogether; ++v) before[v] = count(less(other, mine[v]), before[v]);
    }
    int32_t rank[kTogether * kLanes];
    for (int v = 0; v < kTogether; ++v) store(rank + v * kLanes, before[v]);
    const int64_t end = std::min<int64_t>(of.count, i + kTogether * kLanes);
    for (int64_t j = i; j < end; ++j) {
      sorted[rank[j - i]] = make_key(distance[j], of.index[j]);
      ranks += rank[j - i];
    }
  }
  if (ranks == of.count * (of.count - 1) / 2) return;
  // Equal distances have overwritten each other: sort by (distance, index) instead.
  for (int64_t i = 0; i < of.count; ++i) sorted[i] = make_key(distance[i], of.index[i]);
  std::sort(sorted, sorted + of.count);
}

/// Sorts by the bytes of the distances, then runs of equal distances by index.
inline void radix_sort(int64_t* key, int64_t count, int64_t* sorted) {
  constexpr int kBytes = 4;
  const auto digit = [](int64_t key, int byte) { return key >> (32 + 8 * byte) & 255; };
  int32_t end[kBytes][256] = {};
  for (int64_t i = 0; i < count; ++i) {
    for (int byte = 0; byte < kBytes; ++byte) ++end[byte][digit(key[i], byte)];
  }
  int64_t *from = key, *to = sorted;
  for (int byte = 0; byte < kBytes; ++byte) {
    if (end[byte][digit(from[0], byte)] == count) continue;
    int32_t total = 0;
    for (int32_t& e : end[byte]) total += std::exchange(e, total);
    for (int64_t i = 0; i < count; ++i) to[end[byte][digit(from[i], byte)]++] = from[i];
    std::swap(from, to);
  }
  if (from != sorted) std::copy(from, from + count, sorted);
  for (int64_t i = 0, j; i < count; i = j) {
    for (j = i + 1; j < count && distance_of(sorted[j]) == distance_of(sorted[i]);) ++j;
    if (j - i > 1) std::sort(sorted + i, sorted + j);
  }
}

class Nearest {
 public:
  Nearest(const BucketedCloud& cloud, int64_t k)
      : cloud_(cloud),
        finder_(cloud),
        k_(k),
        found_(cloud.buckets.count * kBucket),
        distance_(make_buffer<float>(cloud.sorted ? 0 : cloud.buckets.count * kBucket)),
        group_(make_buffer<float>(cloud.sorted ? 0 : cloud.buckets.count * kLanes)),
        key_(make_buffer<int64_t>(cloud.buckets.count * kBucket)),
        sorted_(make_buffer<int64_t>(cloud.buckets.count * kBucket)) {}

  /// The keys of the k points nearest to `point`, ascending; valid until the next call. In a
  /// sorted cloud it is fastest if the previous call was for a nearby point.
  const int64_t* search(const float* point) {
    found_.count = 0;
    cloud_.sorted ? collect_near(point) : collect_from_all(point);
    if (found_.count > k_ + k_ / 4 + kLanes) keep_nearest();
    const int64_t* keys = sort();
    if (cloud_.sorted) {
      std::copy_n(point, 3, last_);
      last_radius_ = std::sqrt(distance_of(keys[k_ - 1]));
    }
    return keys;
  }

 private:
  // --- a sorted cloud -------------------------------------------------------------------------

  /// The square of `radius`, enlarged so that rounding never makes a bound too small: the relative
  /// error of a distance is a few parts in 10^7; near 0, kTiny covers the absolute error.
  static float square_up(float radius) {
    constexpr float kTiny = 1e-37f;
    return radius * radius * (1 + 1e-5f) + kTiny;
  }

  void collect_near(const float* point) {
    const float step = std::sqrt(squared_distance(point, last_));
    float radius = step + last_radius_;
    const bool follows = step < last_radius_ / 2 || radius < cloud_.extent / 2;
    if (!follows) radius = std::min(radius, first_radius(point));
    const float away = std::sqrt(squared_distance(point, place_));
    const bool listed = (away + radius) * (1 + 1e-5f) <= reach_ && reach_ <= 4 * radius;
    if (!listed) move_to(point, follows ? 1.5f * radius : radius);
    // The nearest buckets come first, because they tighten the bound for the others.
    const Query q(point);
    const float bound = square_up(radius), half = bound / 4;
    collect_between(q, -1, half, bound);
    const float rest = found_.count < k_ ? bound : keep_nearest();
    collect_between(q, half, rest, rest);
  }

  /// Collects the points within `limit` from the listed buckets whose boxes are farther than
  /// `inner` and at most `outer` away.
  void collect_between(const Query& q, float inner, float outer, float limit) {
    for (int64_t i = 0; i < num_listed_; i += kLanes) {
      const Float lower = box_lower_bound(&boxes_[i], boxes_stride_, q.x, q.y, q.z);
      uint32_t near =
          bits(less_equal(lower, broadcast(outer))) & bits(less(broadcast(inner), lower));
      if (num_listed_ - i < kLanes) near &= (1u << (num_listed_ - i)) - 1;
      for (; near; near &= near - 1) {
        collect_bucket(q, list_[i + std::countr_zero(near)], broadcast(limit));
      }
    }
  }

  /// Drops candidates beyond a bound of the k-th distance, which it returns.
  float keep_nearest() {
    const int64_t whole = (found_.count + kLanes - 1) / kLanes * kLanes;
    std::fill_n(&found_.distance[found_.count], whole - found_.count, INFINITY);
    const float bound = kth_bound(found_.distance.get(), whole, k_);
    found_.trim(bound);
    return bound;
  }

  /// A radius within which at least k points lie.
  float first_radius(const float* point) {
    const Query q(point);
    const int64_t wanted = std::min(2 + 3 * k_ / 2 / kBucket, cloud_.buckets.count);
    const int64_t begin =
        std::clamp<int64_t>(finder_.descend(point) - wanted / 2, 0, cloud_.buckets.count - wanted);
    float* distance = found_.distance.get();
    for (int64_t i = 0; i < wanted; ++i) {
      Float d[kVectors];
      ToThree{q}(cloud_.buckets.at(begin + i), d);
      for (int v = 0; v < kVectors; ++v) store(distance + i * kBucket + v * kLanes, d[v]);
    }
    return std::sqrt(kth_bound(distance, wanted * kBucket, k_));
  }

  /// Lists the buckets within `reach` of a place, with their boxes, for the queries near it.
  void move_to(const float* point, float reach) {
    const Finder::List list = finder_.within(point, square_up(reach));
    std::copy_n(point, 3, place_);
    reach_ = reach;
    num_listed_ = int64_t(list.size());
    boxes_stride_ = (num_listed_ + kLanes - 1) / kLanes * kLanes;
    list_.assign(list.begin(), list.end());
    boxes_.resize(6 * boxes_stride_);
    for (int axis = 0; axis < 6; ++axis) {
      const float* edge = cloud_.buckets.boxes.get() + axis * cloud_.buckets.stride;
      for (int64_t i = 0; i < num_listed_; ++i) boxes_[axis * boxes_stride_ + i] = edge[list_[i]];
    }
  }

  void collect_bucket(const Query& q, int64_t bucket, Float limit) {
    Float d[kVectors];
    ToThree{q}(cloud_.buckets.at(bucket), d);
    const int32_t* index = cloud_.buckets.index.get() + bucket * kBucket;
    for (int v = 0; v < kVectors; ++v) {
      const Mask keep = less_equal(d[v], limit);
      if (bits(keep)) found_.add(keep, d[v], load(index + v * kLanes));
    }
  }

  // --- a small cloud --------------------------------------------------------------------------

  void collect_from_all(const float* point) {
    const int64_t num_buckets = cloud_.buckets.count;
    // At least k groups are needed; 3 k give a tight bound, and with 8 kLanes most can be skipped.
    const int64_t per_group =
        std::max<int64_t>(1, num_buckets / std::max<int64_t>(8, 3 * k_ / kLanes));
    const int64_t num_groups = cloud_.buckets.dims == 3
                                   ? measure(ToThree{Query(point)}, per_group)
                                   : measure(ToAny{point, cloud_.buckets.dims}, per_group);
    const float bound = num_groups >= 2 * k_
                            ? kth_bound(group_.get(), num_groups, k_)
                            : kth_bound(distance_.get(), num_buckets * kBucket, k_);
    const Float limit = broadcast(bound);
    const float* group = group_.get();
    for (int64_t begin = 0; begin < num_buckets; begin += per_group, group += kLanes) {
      if (!bits(less_equal(load(group), limit))) continue;
      const int64_t end = std::min(num_buckets, begin + per_group);
      for (int64_t i = begin * kBucket; i < end * kBucket; i += kLanes) {
        const Float d = load(&distance_[i]);
        const Mask keep = less_equal(d, limit);
        if (bits(keep)) found_.add(keep, d, load(&cloud_.buckets.index[i]));
      }
    }
  }

  static constexpr int kVectors = kBucket / kLanes;

  /// Squared distances from a point to the points of a bucket, in three dimensions,
  struct ToThree {
    Query q;
    void operator()(const float* x, Float* out) const {
      for (int i = 0; i < kVectors; ++i, x += kLanes) {
        out[i] = squared_distance(q.x, q.y, q.z, load(x), load(x + kBucket), load(x + 2 * kBucket));
      }
    }
  };
  /// or in any number of them.
  struct ToAny {
    const float* point;
    int64_t dims;
    void operator()(const float* x, Float* out) const {
      for (int i = 0; i < kVectors; ++i) out[i] = broadcast(0.0f);
      for (int64_t d = 0; d < dims; ++d, x += kBucket) {
        const Float q = broadcast(point[d]);
        for (int i = 0; i < kVectors; ++i) {
          const Float gap = sub(q, load(x + i * kLanes));
          out[i] = fma(gap, gap, out[i]);
        }
      }
    }
  };

  /// Writes the distances to all points, and the minima of groups, each of which is one lane of
  /// `per_group` buckets. Returns the number of groups.
  template <class To>
  int64_t measure(const To& to, int64_t per_group) {
    float *distance = distance_.get(), *group = group_.get();
    for (int64_t bucket = 0; bucket < cloud_.buckets.count; group += kLanes) {
      Float least = broadcast(INFINITY);
      for (int64_t i = 0; i < per_group && bucket < cloud_.buckets.count; ++i, ++bucket) {
        Float d[kVectors];
        to(cloud_.buckets.at(bucket), d);
        for (int j = 0; j < kVectors; ++j, distance += kLanes) {
          store(distance, d[j]);
          least = min(least, d[j]);
        }
      }
      store(group, least);
    }
    return group - group_.get();
  }

  // --- both -----------------------------------------------------------------------------------

  const int64_t* sort() {
    constexpr int64_t kFew = 96;
    if (found_.count <= kFew) {
      rank_sort(found_, sorted_.get());
      return sorted_.get();
    }
    int64_t count = found_.count;
    for (int64_t i = 0; i < count; ++i) key_[i] = make_key(found_.distance[i], found_.index[i]);
    if (count > 2 * k_ + 64) {  // many ties at the bound
      std::nth_element(key_.get(), key_.get() + k_ - 1, key_.get() + count);
      count = k_;
    }
    radix_sort(key_.get(), count, sorted_.get());
    return sorted_.get();
  }

  const BucketedCloud& cloud_;
  Finder finder_;
  const int64_t k_;
  Candidates found_;
  Buffer<float> distance_, group_;  // [buckets, kBucket], [buckets, kLanes] of a small cloud
  Buffer<int64_t> key_, sorted_;
  // The previous query and the distance of its k-th neighbor.
  float last_[3] = {INFINITY, 0, 0}, last_radius_ = INFINITY;
  // A place, the buckets within reach of it, and their boxes [6, stride].
  float place_[3] = {}, reach_ = -1;
  std::vector<int32_t> list_;
  std::vector<float> boxes_;
  int64_t num_listed_ = 0, boxes_stride_ = 0;
};

}  // namespace dapt::cpu::DAPT_ISA
