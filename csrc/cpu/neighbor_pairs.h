// What both products of the submanifold convolution share: the pairs of rows that are neighbors,
// and strips of columns.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <type_traits>

#include "cpu/buffer.h"
#include "cpu/gemm.h"
#include "cpu/isa.h"

namespace dapt::cpu::DAPT_ISA {

struct Pair {
  int32_t row, neighbor;
};

/// The (row, neighbor) pairs of some rows and taps, tap by tap.
class NeighborPairs {
 public:
  NeighborPairs(int64_t rows, int64_t taps)
      : rows_(rows), pairs_(make_buffer<Pair>(rows * taps)), counts_(make_buffer<int64_t>(taps)) {}

  /// Lists the first `taps` columns of neighbors [rows, all_taps], whose first row is `first`.
  void list(const int64_t* neighbors, int64_t all_taps, int64_t first, int64_t rows, int64_t taps) {
    std::fill_n(counts_.get(), taps, 0);
    for (int64_t row = first; row < first + rows; ++row, neighbors += all_taps) {
      uint64_t found = 0;  // one bit per tap
      for (int64_t tap = 0; tap < taps; ++tap) found |= uint64_t(neighbors[tap] >= 0) << tap;
      for (; found; found &= found - 1) {
        const int tap = std::countr_zero(found);
        pairs_[tap * rows_ + counts_[tap]++] = {int32_t(row), int32_t(neighbors[tap])};
      }
    }
  }

  const Pair* of(int64_t tap) const { return pairs_.get() + tap * rows_; }
  int64_t count(int64_t tap) const { return counts_[tap]; }

 private:
  int64_t rows_;
  Buffer<Pair> pairs_;  // [taps, rows]
  Buffer<int64_t> counts_;
};

/// Prefetches the first lines of a row that is read soon; the hardware fetches the rest.
template <class T>
void prefetch(const T* row, int64_t columns) {
  constexpr int64_t kLine = 64 / sizeof(T), kLines = 4;
  for (int64_t i = 0; i < std::min(columns, kLines * kLine); i += kLine)
    __builtin_prefetch(row + i);
}

constexpr int kMostVectors = 3;  // per strip
template <int kVectors>          // rows x vectors = the sums that fit in registers
constexpr int kRowsBeside = std::min(kBlockRows, 2 * kBlockRows / kVectors);

/// Columns [begin, begin + width) in `vectors` vectors, the last of which may be partly filled.
struct Strip {
  int64_t begin, width;
  int vectors;
};

template <class T>
class Strips {
 public:
  explicit Strips(int64_t columns)
      : columns_(columns),
        vectors_(padded<T>(columns) / kLanesOf<T>),
        most_(vectors_ % kMostVectors == 0 ? kMostVectors : std::min<int64_t>(vectors_, 2)) {}

  int64_t count() const { return (vectors_ + most_ - 1) / most_; }
  int64_t longest() const { return most_ * kLanesOf<T>; }

  Strip operator[](int64_t i) const {
    const int64_t begin = i * longest(), vectors = std::min(most_, vectors_ - i * most_);
    return {begin, std::min(longest(), columns_ - begin), int(vectors)};
  }

 private:
  int64_t columns_, vectors_, most_;  // most_: vectors per strip, so that few registers stay empty
};

/// Calls f with `count`, which is at most kMost, as a compile-time constant.
template <int kMost, class Function>
void with_count(int64_t count, const Function& f) {
  if constexpr (kMost > 0) {
    count == kMost ? f(std::integral_constant<int, kMost>()) : with_count<kMost - 1>(count, f);
  }
}

}  // namespace dapt::cpu::DAPT_ISA
