// The k nearest points of a query.
//
// Distances are written to a row; on the way the minima of groups of points are kept. The k-th
// smallest minimum bounds the k-th distance, so that few more than k points survive the comparison
// with it and have to be sorted. In a sorted cloud the buckets about the query bound the k-th
// distance, and only buckets within that bound are looked at.
#pragma once

#include <limits>
#include <utility>

#include "cpu/search.h"

namespace dapt::cpu::DAPT_ISA {

// (distance, index) as one integer of the same order: floats >= 0 are ordered as their bits.
inline int64_t make_key(float distance, int32_t index) {
  return int64_t(std::bit_cast<int32_t>(distance)) << 32 | index;
}
inline float distance_of(int64_t key) { return std::bit_cast<float>(int32_t(key >> 32)); }
inline int64_t index_of(int64_t key) { return int32_t(key); }

/// Sorts by counting for each key those before it. `key` has room for 7 more.
inline void rank_sort(int64_t* key, int64_t count, int64_t* sorted) {
  const int64_t padded = (count + 7) / 8 * 8;
  std::fill(key + count, key + padded, INT64_MAX);
  for (int64_t i = 0; i < count; ++i) {
    int64_t rank = 0;
    for (int64_t j = 0; j < padded; ++j) rank += key[j] < key[i];
    sorted[rank] = key[i];
  }
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
        all_(cloud.sorted ? 0 : cloud.buckets.count),
        distance_(make_buffer<float>(cloud.buckets.count * kBucket)),
        group_(make_buffer<float>(cloud.buckets.count * kLanes)),
        key_(make_buffer<int64_t>(cloud.buckets.count * kBucket + 8)),
        sorted_(make_buffer<int64_t>(cloud.buckets.count * kBucket)) {
    std::iota(all_.begin(), all_.end(), 0);
  }

  /// The keys of the k points nearest to `point`, ascending; valid until the next call.
  const int64_t* search(const float* point) {
    const Finder::List list = cloud_.sorted ? near(point) : all_;
    const int64_t num_buckets = list.size();
    // At least k groups are needed, 3 k make a good bound, 8 kLanes let most of them be passed
    // over.
    const int64_t per_group =
        std::max<int64_t>(1, num_buckets / std::max<int64_t>(8, 3 * k_ / kLanes));
    const int64_t num_groups = measure(point, list, per_group);
    const float bound = num_groups >= 2 * k_
                            ? kth_bound(group_.get(), num_groups, k_)
                            : kth_bound(distance_.get(), num_buckets * kBucket, k_);
    return sort(collect(list, per_group, bound));
  }

 private:
  /// The buckets that can hold one of the k points nearest to the query.
  Finder::List near(const float* point) {
    const Query q(point);
    const Finder::List about = finder_.about(q, 1 + 3 * k_ / 2 / kBucket);
    measure(point, about, 1);
    return finder_.within(q, kth_bound(distance_.get(), about.size() * kBucket, k_));
  }

  static constexpr int kVectors = kBucket / kLanes;

  /// Squared distances from a point to the points of a bucket: in three dimensions,
  struct ToThree {
    Query q;
    void operator()(const float* x, Float* out) const {
      for (int i = 0; i < kVectors; ++i, x += kLanes) {
        out[i] = squared_distance(q.x, q.y, q.z, load(x), load(x + kBucket), load(x + 2 * kBucket));
      }
    }
  };
  /// and in any number of them.
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

  int64_t measure(const float* point, Finder::List list, int64_t per_group) {
    const int64_t dims = cloud_.buckets.dims;
    return dims == 3 ? measure_by(ToThree{Query(point)}, list, per_group)
                     : measure_by(ToAny{point, dims}, list, per_group);
  }

  /// Writes the distances to the points of the listed buckets, and the minima of groups: one for
  /// each lane of `per_group` buckets. Returns the number of groups.
  template <class To>
  int64_t measure_by(const To& to, Finder::List list, int64_t per_group) {
    float *distance = distance_.get(), *group = group_.get();
    for (auto bucket = list.begin(); bucket < list.end(); group += kLanes) {
      Float least = broadcast(std::numeric_limits<float>::infinity());
      for (int64_t i = 0; i < per_group && bucket < list.end(); ++i, ++bucket) {
        Float d[kVectors];
        to(cloud_.buckets.at(*bucket), d);
        for (int j = 0; j < kVectors; ++j, distance += kLanes) {
          store(distance, d[j]);
          least = min(least, d[j]);
        }
      }
      store(group, least);
    }
    return group - group_.get();
  }

  /// Collects the keys of the points that are not farther than `bound`. Returns their number.
  int64_t collect(Finder::List list, int64_t per_group, float bound) {
    const Float limit = broadcast(bound);
    const int64_t num_buckets = list.size();
    const float* group = group_.get();
    int64_t count = 0;
    for (int64_t begin = 0; begin < num_buckets; begin += per_group, group += kLanes) {
      if (!bits(less_equal(load(group), limit))) continue;
      const int64_t end = std::min(num_buckets, begin + per_group);
      for (int64_t i = begin; i < end; ++i) {
        const float* distance = distance_.get() + i * kBucket;
        const int32_t* index = cloud_.buckets.index.get() + list[i] * kBucket;
        uint64_t near = 0;
        for (int64_t j = 0; j < kBucket; j += kLanes) {
          near |= uint64_t(bits(less_equal(load(distance + j), limit))) << j;
        }
        for (; near; near &= near - 1) {
          const int j = std::countr_zero(near);
          key_[count++] = make_key(distance[j], index[j]);
        }
      }
    }
    return count;
  }

  const int64_t* sort(int64_t count) {
    if (count > 2 * k_ + 64) {  // many ties at the bound
      std::nth_element(key_.get(), key_.get() + k_ - 1, key_.get() + count);
      count = k_;
    }
    (count <= 64 ? rank_sort : radix_sort)(key_.get(), count, sorted_.get());
    return sorted_.get();
  }

  const BucketedCloud& cloud_;
  Finder finder_;
  const int64_t k_;
  std::vector<int32_t> all_;        // every bucket
  Buffer<float> distance_, group_;  // [buckets, kBucket], [buckets, kLanes]
  Buffer<int64_t> key_, sorted_;
};

}  // namespace dapt::cpu::DAPT_ISA
