// Farthest point sampling on the CPU. Both algorithms keep for each point the squared distance to
// the chosen set; -1 marks what is chosen or may not be, below every distance.
#include <cstdint>
#include <limits>

#include "cpu/buckets.h"
#include "cpu/parallel.h"
#include "cpu/simd.h"
#include "ops.h"

namespace dapt::cpu::DAPT_ISA {
namespace {

constexpr float kFar = std::numeric_limits<float>::infinity(), kNever = -1.0f;

struct Cloud {
  const float* points;  // [count, 3]
  int64_t count, start, M;
  bool skip_near_origin;
  int64_t* idx;  // [M] out

  float initial_distance(const float* p) const {
    const float sq_norm = std::fma(p[2], p[2], std::fma(p[1], p[1], p[0] * p[0]));
    return skip_near_origin && sq_norm <= 1e-3f ? kNever : kFar;
  }
};

int first_lane(Mask m) {
  return __builtin_ctz(bits(m));
}

// Brings the distances of `count` points up to date with the new sample q: their maxima by lane.
inline Float update(const float* x, const float* y, const float* z, float* nearest, int64_t count,
                    const float* q) {
  const Float qx = broadcast(q[0]), qy = broadcast(q[1]), qz = broadcast(q[2]);
  Float farthest = broadcast(kNever);
  for (int64_t i = 0; i < count; i += kLanes) {
    const Float d = squared_distance(load(x + i), load(y + i), load(z + i), qx, qy, qz);
    const Float least = min(load(nearest + i), d);
    store(nearest + i, least);
    farthest = max(farthest, least);
  }
  return farthest;
}

// Every distance at every step, in blocks whose maxima narrow the search for the winner.
void sample_all(const Cloud& cloud) {
  constexpr int64_t kBlock = 8 * kLanes;
  const int64_t blocks = (cloud.count + kBlock - 1) / kBlock, padded = blocks * kBlock;
  const auto buffer = make_buffer<float>(4 * padded + blocks * kLanes);
  float *x = buffer.get(), *y = x + padded, *z = y + padded, *nearest = z + padded;
  float* block_max = nearest + padded;  // [blocks, kLanes]
  for (int64_t n = 0; n < cloud.count; ++n) {
    const float* p = cloud.points + 3 * n;
    x[n] = p[0], y[n] = p[1], z[n] = p[2];
    nearest[n] = cloud.initial_distance(p);
  }
  for (int64_t n = cloud.count; n < padded; ++n) x[n] = y[n] = z[n] = 0, nearest[n] = kNever;

  int64_t last = cloud.start;
  for (int64_t m = 0;; ++m) {
    cloud.idx[m] = last;
    if (m + 1 == cloud.M) return;
    nearest[last] = kNever;
    Float farthest = broadcast(kNever);
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t n = b * kBlock;
      const Float here = update(x + n, y + n, z + n, nearest + n, kBlock, cloud.points + 3 * last);
      store(block_max + b * kLanes, here);
      farthest = max(farthest, here);
    }
    const float best = reduce_max(farthest);
    if (best == kNever) return std::fill(cloud.idx + m + 1, cloud.idx + cloud.M, cloud.start);
    const Float wanted = broadcast(best);
    const float* block = block_max;
    while (!bits(equal(load(block), wanted))) block += kLanes;
    last = (block - block_max) / kLanes * kBlock;
    while (!bits(equal(load(nearest + last), wanted))) last += kLanes;
    last += first_lane(equal(load(nearest + last), wanted));
  }
}

// Only the buckets that the new sample can change: those whose box is nearer than their maximum.
void sample_buckets(const Cloud& cloud) {
  const int64_t size = cloud.count < 65536 ? 64 : 128;
  const Buckets buckets(cloud.points, cloud.count, size);
  const auto nearest = make_buffer<float>(buckets.count * size);
  for (int64_t n = 0; n < buckets.count * size; ++n) {
    nearest[n] =
        n < cloud.count ? cloud.initial_distance(cloud.points + 3 * buckets.index[n]) : kNever;
  }
  // Of each bucket the greatest distance and, once asked for, the slot of the lowest index with it.
  std::vector<float> peak(buckets.stride, kNever);
  std::vector<int64_t> peak_slot(buckets.stride, -1), touched(buckets.stride);
  std::fill(peak.begin(), peak.begin() + buckets.count, kFar);
  const auto find_peak = [&](int64_t i) {
    const Float wanted = broadcast(peak[i]);
    int64_t found = -1;
    for (int64_t n = i * size; n < (i + 1) * size; n += kLanes) {
      for (uint32_t hit = bits(equal(load(&nearest[n]), wanted)); hit; hit &= hit - 1) {
        const int64_t slot = n + __builtin_ctz(hit);
        if (found < 0 || buckets.index[slot] < buckets.index[found]) found = slot;
      }
    }
    return found;
  };

  int64_t slot =
      std::find(&buckets.index[0], &buckets.index[cloud.count], cloud.start) - &buckets.index[0];
  for (int64_t m = 0;; ++m) {
    const int64_t last = buckets.index[slot];
    cloud.idx[m] = last;
    if (m + 1 == cloud.M) return;
    nearest[slot] = kNever;
    peak[slot / size] = kFar;  // its own bucket is always touched
    const float* q = cloud.points + 3 * last;
    const Float qx = broadcast(q[0]), qy = broadcast(q[1]), qz = broadcast(q[2]);
    int64_t num_touched = 0;
    for (int64_t i = 0; i < buckets.stride; i += kLanes) {
      const Mask nearer = less(buckets.lower_bound(i, qx, qy, qz), load(&peak[i]));
      for (uint32_t hit = bits(nearer); hit; hit &= hit - 1) {
        touched[num_touched++] = i + __builtin_ctz(hit);
      }
    }
    for (int64_t t = 0; t < num_touched; ++t) {
      const int64_t i = touched[t];
      const float* x = buckets.at(i);
      peak[i] = reduce_max(update(x, x + size, x + 2 * size, &nearest[i * size], size, q));
      peak_slot[i] = -1;
    }
    Float farthest = broadcast(kNever);
    for (int64_t i = 0; i < buckets.stride; i += kLanes) farthest = max(farthest, load(&peak[i]));
    const float best = reduce_max(farthest);
    if (best == kNever) return std::fill(cloud.idx + m + 1, cloud.idx + cloud.M, cloud.start);
    slot = -1;
    for (int64_t i = 0; i < buckets.stride; i += kLanes) {
      for (uint32_t hit = bits(equal(load(&peak[i]), broadcast(best))); hit; hit &= hit - 1) {
        const int64_t bucket = i + __builtin_ctz(hit);
        int64_t& found = peak_slot[bucket];
        if (found < 0) found = find_peak(bucket);
        if (slot < 0 || buckets.index[found] < buckets.index[slot]) slot = found;
      }
    }
  }
}

// Measured: sorting into buckets costs about as much as a hundred steps of the plain algorithm.
bool buckets_pay(int64_t count, int64_t M) {
  return count >= 2048 && count <= INT32_MAX && M > 128;
}

}  // namespace

void fps(const FpsArgs& a) {
  // parallel over B
  parallel_for(a.B, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const Cloud cloud{.points = a.points + 3 * b * a.N,
                        .count = a.lengths ? a.lengths[b] : a.N,
                        .start = a.starts ? a.starts[b] : a.start,
                        .M = a.M,
                        .skip_near_origin = a.skip_near_origin,
                        .idx = a.idx + b * a.M};
      buckets_pay(cloud.count, cloud.M) ? sample_buckets(cloud) : sample_all(cloud);
      for (int64_t m = 0; a.centers && m < a.M; ++m) {
        const float* chosen = cloud.points + 3 * cloud.idx[m];
        std::copy(chosen, chosen + 3, a.centers + 3 * (b * a.M + m));
      }
    }
  });
}

}  // namespace dapt::cpu::DAPT_ISA
