// Gradient of a submanifold convolution's weight on the CPU.
//
// For each tap, the rows that have that neighbor are listed. A block of the tap's gradient stays in
// registers while the products of all listed pairs are added to it.
#include <algorithm>
#include <array>

#include "cpu/neighbor_pairs.h"
#include "cpu/parallel.h"
#include "ops.h"

namespace dapt::cpu::DAPT_ISA {
namespace {

/// Rows of whole vectors, filled up with zeros, the same columns of which do not share few sets of
/// a cache: their distance is no large power of two. Rows that are not like that are copied.
template <class T>
class SpreadRows {
 public:
  SpreadRows(const void* rows, int64_t count, int64_t columns)
      : rows_(static_cast<const T*>(rows)), stride_(padded<T>(columns)) {
    constexpr int64_t kLine = 64 / sizeof(T);
    if (stride_ % (8 * kLine) == 0) stride_ += kLine;
    if (stride_ == columns) return;
    copy_ = make_buffer<T>(count * stride_);
    // parallel over rows
    parallel_for(count, 1 + 65536 / stride_, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        T* to = std::copy_n(rows_ + row * columns, columns, copy_.get() + row * stride_);
        std::fill_n(to, stride_ - columns, T(0));
      }
    });
  }

  const T* operator[](int64_t row) const { return (copy_ ? copy_.get() : rows_) + row * stride_; }

 private:
  const T* rows_;
  int64_t stride_;
  Buffer<T> copy_;
};

/// Rows of grad and of x that are multiplied.
template <class T>
struct Factors {
  const T *grad, *x;
};

constexpr int64_t kAhead = 8;  // Rows are prefetched by as many factors.

/// sums[i] += sum over k of grad[k][d + i] * x[k][c...], for kRows columns of grad and kWide
/// vectors of x. With kCollect, these vectors are also written to `collected`, side by side;
/// without, they are read from there. There must be kAhead more than `count` factors.
template <bool kCollect, int kRows, int kWide, class T>
void sum_products(const Factors<T>* factors, int64_t count, int64_t d, int64_t c, T* collected,
                  T* sums) {
  constexpr int64_t kLanes = kLanesOf<T>, kStride = kWide * kLanes;
  Vector<T> block[kRows][kWide] = {};
  for (int64_t k = 0; k < count; ++k, collected += kStride) {
    const Factors<T> next = factors[k + kAhead];
    __builtin_prefetch(next.grad + d);
    __builtin_prefetch(next.grad + d + kRows - 1);  // often one line further
    if (kCollect) prefetch(next.x + c, kStride);
    const T* left = factors[k].grad + d;
    const T* x = kCollect ? factors[k].x + c : collected;
    Vector<T> right[kWide];
#pragma GCC unroll 3
    for (int v = 0; v < kWide; ++v) {
      right[v] = load_vector(x + v * kLanes);
      if (kCollect) std::memcpy(collected + v * kLanes, &right[v], sizeof right[v]);
    }
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 3
      for (int v = 0; v < kWide; ++v) multiply_add(block[i][v], left[i], right[v]);
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 3
    for (int v = 0; v < kWide; ++v) {
      T* to = sums + i * kStride + v * kLanes;
      block[i][v] += load_vector(to);
      std::memcpy(to, &block[i][v], sizeof block[i][v]);
    }
  }
}

/// How the sums are divided, which also fixes their order: by groups of taps whose sums leave room
/// in the L2 cache for the rows of a step and, if these groups are few, by rows.
struct WeightGradParts {
  int64_t taps, tap_groups, rows, row_parts;

  WeightGradParts(const SubmanifoldConvWeightGradArgs& a, int64_t sums_per_tap) {
    constexpr int64_t kSums = 49152, kEnough = 16, kFewRows = 2048;
    taps = std::clamp<int64_t>(kSums / sums_per_tap, 1, a.taps);
    tap_groups = (a.taps + taps - 1) / taps;
    row_parts = std::max<int64_t>(1, std::min(kEnough / tap_groups, a.M / kFewRows));
    rows = (a.M + row_parts - 1) / row_parts;
  }
};

template <class T>
class WeightGrad {
 public:
  explicit WeightGrad(const SubmanifoldConvWeightGradArgs& a)
      : a_(a),
        strips_(a.C),
        grad_(a.grad, a.M, a.D),
        x_(a.x, a.M, a.C),
        sums_per_tap_(a.D * padded<T>(a.C)),
        parts_(a, sums_per_tap_) {}

  void run() const {
    const int64_t parts = parts_.row_parts, size = parts_.taps * sums_per_tap_;
    const Buffer<T> all_sums = make_buffer<T>(parts > 1 ? parts_.tap_groups * parts * size : 0);
    // parallel over groups of taps and parts of the rows
    parallel_for(parts_.tap_groups * parts, 1, [&](int64_t begin, int64_t end) {
      const Buffer<T> own_sums = make_buffer<T>(parts > 1 ? 0 : size);
      for (int64_t item = begin; item < end; ++item) {
        const int64_t group = item / parts, first = item % parts * parts_.rows;
        T* sums = parts > 1 ? all_sums.get() + item * size : own_sums.get();
        add_rows(group, first, std::min(first + parts_.rows, a_.M), sums);
        if (parts == 1) write(group, sums);
      }
    });
    if (parts == 1) return;
    // parallel over groups of taps
    parallel_for(parts_.tap_groups, 1, [&](int64_t begin, int64_t end) {
      for (int64_t group = begin; group < end; ++group) {
        T* total = all_sums.get() + group * parts * size;
        for (int64_t part = 1; part < parts; ++part) {
          for (int64_t i = 0; i < size; ++i) total[i] += total[part * size + i];
        }
        write(group, total);
      }
    });
  }

 private:
  int64_t first_tap(int64_t group) const { return group * parts_.taps; }
  int64_t taps_of(int64_t group) const { return std::min(parts_.taps, a_.taps - first_tap(group)); }

  /// Where the sums of a strip begin among those of a tap, [strips, D, vectors of the strip].
  int64_t offset_of(Strip strip) const { return a_.D * strip.begin; }

  /// Computes the sums [taps, of a tap] of a group over rows [first, end).
  void add_rows(int64_t group, int64_t first, int64_t end, T* sums) const {
    constexpr int64_t kRows = 512;  // per step
    const int64_t taps = taps_of(group);
    const Buffer<T> collected = make_buffer<T>(kRows * strips_.longest());
    std::array<Factors<T>, kRows + kAhead> factors;
    NeighborPairs pairs(kRows, taps);
    std::fill_n(sums, taps * sums_per_tap_, T(0));
    for (; first < end; first += kRows) {
      pairs.list(a_.neighbors + first * a_.taps + first_tap(group), a_.taps, first,
                 std::min(kRows, end - first), taps);
      for (int64_t tap = 0; tap < taps; ++tap) {
        const int64_t count = pairs.count(tap);
        if (count == 0) continue;
        for (int64_t k = 0; k < count + kAhead; ++k) {
          const Pair pair = pairs.of(tap)[std::min(k, count - 1)];
          factors[k] = {grad_[pair.row], x_[pair.neighbor]};
        }
        for (int64_t i = 0; i < strips_.count(); ++i) {
          T* sums_of_strip = sums + tap * sums_per_tap_ + offset_of(strips_[i]);
          add_strip(factors.data(), count, strips_[i], collected.get(), sums_of_strip);
        }
      }
    }
  }

  /// sums [D, vectors of the strip] += the products of some rows.
  void add_strip(const Factors<T>* factors, int64_t count, Strip strip, T* collected,
                 T* sums) const {
    with_count<kMostVectors>(strip.vectors, [&](auto vectors) {
      constexpr int64_t kBlock = kRowsBeside<vectors>;
      for (int64_t d = 0; d < a_.D; d += kBlock) {
        T* to = sums + d * vectors * kLanesOf<T>;
        with_count<kBlock>(std::min(kBlock, a_.D - d), [&](auto rows) {
          const auto add =
              d == 0 ? sum_products<true, rows, vectors, T> : sum_products<false, rows, vectors, T>;
          add(factors, count, d, strip.begin, collected, to);
        });
      }
    });
  }

  /// Copies the sums of a group to the gradient.
  void write(int64_t group, const T* sums) const {
    T* out = static_cast<T*>(a_.grad_weight) + first_tap(group) * a_.C;
    for (int64_t tap = 0; tap < taps_of(group); ++tap, sums += sums_per_tap_, out += a_.C) {
      for (int64_t d = 0; d < a_.D; ++d) {
        for (int64_t i = 0; i < strips_.count(); ++i) {
          const Strip strip = strips_[i];
          const T* from = sums + offset_of(strip) + d * strip.vectors * kLanesOf<T>;
          std::copy_n(from, strip.width, out + d * a_.taps * a_.C + strip.begin);
        }
      }
    }
  }

  const SubmanifoldConvWeightGradArgs& a_;
  Strips<T> strips_;  // of x
  SpreadRows<T> grad_, x_;
  int64_t sums_per_tap_;
  WeightGradParts parts_;
};

}  // namespace

void submanifold_conv_weight_grad(const SubmanifoldConvWeightGradArgs& a) {
  a.dtype == Real::f64 ? WeightGrad<double>(a).run() : WeightGrad<float>(a).run();
}

}  // namespace dapt::cpu::DAPT_ISA
