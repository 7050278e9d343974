// The smallest of the keys offered to a warp, kept sorted in its registers.
#pragma once

#include "cuda/warp.cuh"

namespace dapt::cuda {

/// A neighbor as one number: the bits of its squared distance, which sort like the distance because
/// it is not negative, followed by its index.
using Key = unsigned long long;
/// Above every key whose distance is a number: a NaN distance is never among the smallest.
constexpr Key kNoKey = 0x7f800001ffffffff;

__device__ __forceinline__ Key make_key(unsigned distance_bits, unsigned index) {
  return static_cast<Key>(distance_bits) << 32 | index;
}
__device__ __forceinline__ unsigned distance_bits(Key key) {
  return static_cast<unsigned>(key >> 32);
}
__device__ __forceinline__ unsigned index_of(Key key) { return static_cast<unsigned>(key); }

// A warp's list of 32 * kRows keys: key i is in row i / 32 of lane i % 32.

/// One step of a bitonic network: orders keys that are kStride apart, ascending in every even run
/// of kSpan keys and descending in every odd one.
template <int kSpan, int kStride, int kRows>
__device__ __forceinline__ void order_pairs(Key (&keys)[kRows]) {
  const int lane = static_cast<int>(lane_id());
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
    if constexpr (kStride < 32) {
      const Key other = __shfl_xor_sync(kFullWarp, keys[row], kStride);
      const bool upwards = ((row * 32 + lane) & kSpan) == 0, lower = (lane & kStride) == 0;
      if ((other < keys[row]) == (upwards == lower)) keys[row] = other;
    } else if ((row * 32 & kStride) == 0) {
      const bool upwards = (row * 32 & kSpan) == 0;
      Key &lower = keys[row], &upper = keys[row + kStride / 32];
      const Key key = lower;
      if ((upper < key) == upwards) lower = upper, upper = key;
    }
  }
}

/// Sorts every run of kSpan keys; each must be bitonic: rising then falling, or the reverse.
template <int kSpan, int kRows, int kStride = kSpan / 2>
__device__ __forceinline__ void sort_bitonic(Key (&keys)[kRows]) {
  order_pairs<kSpan, kStride>(keys);
  if constexpr (kStride > 1) sort_bitonic<kSpan, kRows, kStride / 2>(keys);
}

template <int kRows, int kSpan = 2>
__device__ __forceinline__ void sort(Key (&keys)[kRows]) {
  sort_bitonic<kSpan>(keys);
  if constexpr (kSpan < 32 * kRows) sort<kRows, 2 * kSpan>(keys);
}

constexpr int kOffersAtOnce = 4;

/// Keeps the k smallest keys offered, k <= 32 * kRows. Offers are cheap: keys that may be among the
/// k smallest wait in shared memory until a batch of them is sorted and merged into the list.
template <int kRows>
struct TopK {
  static constexpr int kBatchRows = kRows < 4 ? 1 : kRows / 4;
  static constexpr int kBatch = 32 * kBatchRows;
  static constexpr int kBuffer = kBatch + 32 * kOffersAtOnce;  // keys of shared memory a warp needs

  Key keys[kRows];  // sorted; kNoKey where fewer were offered
  Key* buffer;      // [kBuffer]
  int k;
  int waiting = 0;
  unsigned limit = distance_bits(kNoKey);  // distance bits of the k-th key

  __device__ TopK(Key* buffer, int k) : buffer(buffer), k(k) {
#pragma unroll
    for (int row = 0; row < kRows; ++row) keys[row] = kNoKey;
  }

  /// Offers one key per lane. Keys of equal distance must be offered in ascending order of index,
  /// so that one no nearer than the k-th cannot be among the k smallest. Call merge() after every
  /// kOffersAtOnce offers.
  __device__ __forceinline__ void offer(Key key, bool wanted = true) {
    wanted = wanted && distance_bits(key) < limit;
    const unsigned lanes = __ballot_sync(kFullWarp, wanted);
    if (lanes == 0) return;
    if (wanted) buffer[waiting + __popc(lanes & ((1u << lane_id()) - 1))] = key;
    waiting += __popc(lanes);
  }

  /// Merges the full batches, or with `all` every waiting key.
  __device__ __forceinline__ void merge(bool all) {
    while (waiting >= (all ? 1 : kBatch)) merge_batch(waiting < kBatch ? waiting : kBatch);
  }

  /// Key i of the list, for every lane.
  __device__ __forceinline__ Key at(int i) const {
    Key key = 0;  // by masks: a selection would be compiled to an index into local memory
#pragma unroll
    for (int row = 0; row < kRows; ++row) key |= keys[row] & -static_cast<Key>(row == i / 32);
    return __shfl_sync(kFullWarp, key, i % 32);
  }

 private:
  __device__ __forceinline__ void merge_batch(int count) {
    waiting -= count;
    Key batch[kBatchRows];
    __syncwarp();
#pragma unroll
    for (int row = 0; row < kBatchRows; ++row) {
      const int i = row * 32 + static_cast<int>(lane_id());
      batch[row] = i < count ? buffer[waiting + i] : kNoKey;
    }
    __syncwarp();
    sort(batch);
    // The smaller of each pair from the list and the reversed batch: together these are the
    // smallest keys of both, first rising and then falling.
#pragma unroll
    for (int row = 0; row < kBatchRows; ++row) {
      const Key other = __shfl_xor_sync(kFullWarp, batch[kBatchRows - 1 - row], 31);
      Key& key = keys[kRows - kBatchRows + row];
      if (other < key) key = other;
    }
    sort_bitonic<32 * kRows>(keys);
    limit = distance_bits(at(k - 1));
  }
};

}  // namespace dapt::cuda
