// Farthest point sampling on the CPU.
//
// Every point carries its squared distance to the nearest point chosen so far; kNever, below every
// distance, marks points that have been chosen or must not be. A step lowers each distance to that
// from the newest sample, if it is smaller, and chooses the point with the greatest distance, the
// first one among equals. PlainSearch does so for all points, a vector at a time. Most of this is
// wasted: after a few samples, a new one changes only distances near it. BucketSearch therefore
// sorts the points into buckets of neighbors, each with a box and its peak, the greatest distance
// in it. A bucket whose box is farther from the new sample than its peak cannot change and is
// skipped; the next sample is the point of the greatest peak. Sorting has to pay for itself, so
// PlainSearch serves when few samples are wanted.
#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>
#include <vector>

#include "cpu/buckets.h"
#include "cpu/parallel.h"
#include "cpu/simd.h"
#include "ops.h"

namespace dapt::cpu::DAPT_ISA {
namespace {

constexpr float kFar = std::numeric_limits<float>::infinity(), kNever = -1.0f;

struct Sampling {
  const float* points;  // [count, 3]
  int64_t count, start, M;
  bool skip_near_origin;
  int64_t* idx;  // [M] out

  float initial_distance(float x, float y, float z) const {
    const float sq_norm = std::fma(z, z, std::fma(y, y, x * x));
    return skip_near_origin && sq_norm <= 1e-3f ? kNever : kFar;
  }
};

int lowest_bit(uint32_t bits) { return __builtin_ctz(bits); }

// Distances and kNever are compared by their bits, which have the same order: the integer units are
// idle, while those for floats are busy with the distances.
inline Int load_bits(const float* p) { return bits_of(load(p)); }
const int32_t kNeverBits = std::bit_cast<int32_t>(kNever);

// Updates the distances of `count` points for the new sample q and returns their maxima by lane.
inline Int update(const float* x, const float* y, const float* z, float* nearest, int64_t count,
                  const float* q) {
  const Float qx = broadcast(q[0]), qy = broadcast(q[1]), qz = broadcast(q[2]);
  Int farthest = broadcast(kNeverBits);
  for (int64_t i = 0; i < count; i += kLanes) {
    const Float d = squared_distance(load(x + i), load(y + i), load(z + i), qx, qy, qz);
    const Int least = min(load_bits(nearest + i), bits_of(d));
    store(nearest + i, float_of(least));
    farthest = max(farthest, least);
  }
  return farthest;
}

// Updates every distance at every step. Neither the pass nor the search after it branches on the
// points: a misprediction would cost a third of a pass.
class PlainSearch {
 public:
  explicit PlainSearch(const Sampling& sampling)
      : points_(sampling.points),
        blocks_((sampling.count + kBlock - 1) / kBlock),
        buffer_(make_buffer<float>(blocks_ * 4 * kBlock)) {
    const int64_t padded = blocks_ * kBlock;
    x_ = buffer_.get(), y_ = x_ + padded, z_ = y_ + padded, nearest_ = z_ + padded;
    for (int64_t n = 0; n < sampling.count; ++n) {
      const float* p = sampling.points + 3 * n;
      x_[n] = p[0], y_[n] = p[1], z_[n] = p[2];
      nearest_[n] = sampling.initial_distance(p[0], p[1], p[2]);
    }
    for (int64_t n = sampling.count; n < padded; ++n)
      x_[n] = y_[n] = z_[n] = 0, nearest_[n] = kNever;
  }

  // The point farthest from all chosen ones, of which `last` is the newest; -1 when none is left.
  int64_t next(int64_t last) {
    nearest_[last] = kNever;
    const float* q = points_ + 3 * last;
    // For each lane, its greatest distance and the first block that holds it.
    Int farthest = broadcast(kNeverBits), where = broadcast(int32_t{0});
    for (int64_t b = 0; b < blocks_; ++b) {
      const int64_t n = b * kBlock;
      const Int maxima = update(x_ + n, y_ + n, z_ + n, nearest_ + n, kBlock, q);
      where = select(less(farthest, maxima), broadcast(int32_t(b)), where);
      farthest = max(farthest, maxima);
    }
    const int32_t best = reduce_max(farthest);
    if (best == kNeverBits) return -1;
    const Int wanted = broadcast(best);
    const Int none = broadcast(INT32_MAX);
    const int64_t block = reduce_min(select(equal(farthest, wanted), where, none));
    uint64_t hits = 0;
    for (int64_t i = 0; i < kBlock; i += kLanes)
      hits |= uint64_t(bits(equal(load_bits(nearest_ + block * kBlock + i), wanted))) << i;
    return block * kBlock + std::countr_zero(hits);
  }

 private:
  static constexpr int64_t kBlock = 64;  // one bit of a word per point
  const float* points_;
  int64_t blocks_;
  Buffer<float> buffer_;
  float *x_, *y_, *z_, *nearest_;  // [blocks, kBlock]
};

// Visits only the buckets that the newest sample can change: those whose box is nearer to it than
// their peak. A slot is a position in bucket order.
class BucketSearch {
 public:
  explicit BucketSearch(const Sampling& sampling)
      : points_(sampling.points),
        buckets_(sampling.points, sampling.count, sampling.count < 32768 ? 64 : 128),
        nearest_(make_buffer<float>(buckets_.count * buckets_.size)),
        peak_(make_buffer<float>(buckets_.stride)),
        peak_slot_(buckets_.stride, kUnknown),
        touched_(make_buffer<int32_t>(buckets_.stride + kLanes)) {
    const int64_t size = buckets_.size;
    std::fill_n(&peak_[0], buckets_.stride, kNever);
    for (int64_t i = 0; i < buckets_.count; ++i) {
      const float* x = buckets_.at(i);
      const int64_t filled = std::min(size, sampling.count - i * size);
      for (int64_t j = 0; j < size; ++j) {
        const float d = sampling.initial_distance(x[j], x[j + size], x[j + 2 * size]);
        nearest_[i * size + j] = j < filled ? d : kNever;
        peak_[i] = std::max(peak_[i], nearest_[i * size + j]);
      }
    }
    const int32_t* index = buckets_.index.get();
    last_slot_ = std::find(index, index + sampling.count, sampling.start) - index;
  }

  // As in PlainSearch; `last` is the result of the previous call, or the start.
  int64_t next(int64_t last) {
    choose(last_slot_, points_ + 3 * last);
    last_slot_ = farthest_slot();
    return last_slot_ < 0 ? -1 : buckets_.index[last_slot_];
  }

 private:
  static constexpr int64_t kUnknown = -1;

  void choose(int64_t slot, const float* q) {
    const int64_t size = buckets_.size;
    nearest_[slot] = kNever;
    peak_[slot / size] = kFar;  // so that the sample's own bucket is visited
    const Float qx = broadcast(q[0]), qy = broadcast(q[1]), qz = broadcast(q[2]);
    int64_t num_touched = 0;
    for (int64_t i = 0; i < buckets_.stride; i += kLanes) {
      const Mask nearer = less(buckets_.lower_bound(i, qx, qy, qz), load(&peak_[i]));
      num_touched += compress(nearer, add(iota(), broadcast(int32_t(i))), &touched_[num_touched]);
    }
    for (int64_t t = 0; t < num_touched; ++t) {
      const int64_t i = touched_[t];
      const float* x = buckets_.at(i);
      const Int maxima = update(x, x + size, x + 2 * size, &nearest_[i * size], size, q);
      peak_[i] = std::bit_cast<float>(reduce_max(maxima));
      peak_slot_[i] = kUnknown;
    }
  }

  // The slot of the farthest point with the lowest index; -1 when none is left.
  int64_t farthest_slot() {
    Float farthest = broadcast(kNever);
    for (int64_t i = 0; i < buckets_.stride; i += kLanes) farthest = max(farthest, load(&peak_[i]));
    const float best = reduce_max(farthest);
    if (best == kNever) return -1;
    int64_t found = -1;
    for (int64_t i = 0; i < buckets_.stride; i += kLanes) {
      const Mask tied = equal(load(&peak_[i]), broadcast(best));
      for (uint32_t hits = bits(tied); hits; hits &= hits - 1) {
        const int64_t bucket = i + lowest_bit(hits);
        if (peak_slot_[bucket] == kUnknown) peak_slot_[bucket] = find_peak(bucket);
        found = lower_index(peak_slot_[bucket], found);
      }
    }
    return found;
  }

  int64_t find_peak(int64_t bucket) const {
    const int64_t begin = bucket * buckets_.size, end = begin + buckets_.size;
    int64_t found = -1;
    for (int64_t slot = begin; slot < end; slot += kLanes) {
      const Mask tied = equal(load(&nearest_[slot]), broadcast(peak_[bucket]));
      for (uint32_t hits = bits(tied); hits; hits &= hits - 1) {
        found = lower_index(slot + lowest_bit(hits), found);
      }
    }
    return found;
  }

  int64_t lower_index(int64_t slot, int64_t other) const {
    return other < 0 || buckets_.index[slot] < buckets_.index[other] ? slot : other;
  }

  const float* points_;
  Buckets buckets_;
  Buffer<float> nearest_;           // [count, size]
  Buffer<float> peak_;              // [stride]
  std::vector<int64_t> peak_slot_;  // [stride] the lowest index at the peak, found on demand
  Buffer<int32_t> touched_;         // [stride + kLanes] buckets
  int64_t last_slot_;
};

template <class Search>
void sample(const Sampling& sampling) {
  Search search(sampling);
  int64_t last = sampling.start;
  for (int64_t m = 0;; ++m) {
    sampling.idx[m] = last;
    if (m + 1 == sampling.M) return;
    last = search.next(last);
    if (last < 0) return std::fill(sampling.idx + m + 1, sampling.idx + sampling.M, sampling.start);
  }
}

// Measured: sorting costs as much as 50 plain steps, and a step of BucketSearch as much as a plain
// step over 1000 points.
bool buckets_pay(int64_t count, int64_t M) {
  return count <= INT32_MAX && count * M > 50 * count + 1000 * M;
}

}  // namespace

void fps(const FpsArgs& a) {
  // parallel over B
  parallel_for(a.B, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const Sampling sampling{.points = a.points + 3 * b * a.N,
                              .count = a.lengths ? a.lengths[b] : a.N,
                              .start = a.starts ? a.starts[b] : a.start,
                              .M = a.M,
                              .skip_near_origin = a.skip_near_origin,
                              .idx = a.idx + b * a.M};
      buckets_pay(sampling.count, sampling.M) ? sample<BucketSearch>(sampling)
                                              : sample<PlainSearch>(sampling);
      for (int64_t m = 0; a.centers && m < a.M; ++m) {
        std::copy_n(sampling.points + 3 * sampling.idx[m], 3, a.centers + 3 * (b * a.M + m));
      }
    }
  });
}

}  // namespace dapt::cpu::DAPT_ISA
