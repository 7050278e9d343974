// Submanifold convolution and the gradient of its weight on the CPU.
//
// For each tap the rows that have that neighbor are listed. A block of them is multiplied by the
// tap's weight in registers: factors are read where they lie, and sums are added where they belong,
// so that nothing is gathered or scattered.
#include <algorithm>
#include <array>

#include "cpu/gemm.h"
#include "cpu/parallel.h"
#include "ops.h"

namespace dapt::cpu::DAPT_ISA {
namespace {

constexpr int kVectors = 2;  // of columns that are worked on at a time: a strip
template <class T>
constexpr int64_t kStrip = kVectors * kLanesOf<T>;

struct Pair {
  int32_t row, neighbor;
};

/// The pairs of some rows, tap by tap.
class Pairs {
 public:
  Pairs(int64_t rows, int64_t taps)
      : rows_(rows),
        taps_(taps),
        pairs_(make_buffer<Pair>((rows + 1) * taps)),
        counts_(make_buffer<int64_t>(taps)) {}

  void list(const int64_t* neighbors, int64_t first, int64_t rows) {
    std::fill_n(counts_.get(), taps_, 0);
    neighbors += first * taps_;
    for (int64_t row = first; row < first + rows; ++row) {
      Pair* list = pairs_.get();
      for (int64_t tap = 0; tap < taps_; ++tap, ++neighbors, list += rows_ + 1) {
        list[counts_[tap]] = {int32_t(row), int32_t(*neighbors)};  // kept if there is a neighbor
        counts_[tap] += *neighbors >= 0;
      }
    }
  }

  const Pair* of(int64_t tap) const { return pairs_.get() + tap * (rows_ + 1); }
  int64_t count(int64_t tap) const { return counts_[tap]; }

 private:
  int64_t rows_, taps_;
  Buffer<Pair> pairs_;  // [taps, rows + 1]
  Buffer<int64_t> counts_;
};

/// to[i] += sum over c of from[i][c] * weight[c], for kRows rows of kWide vectors.
template <int kRows, int kWide, class T>
void multiply_rows(const T* const* from, const T* weight, int64_t C, T* const* to) {
  Vector<T> sums[kRows][kWide] = {};
  for (int64_t c = 0; c < C; ++c, weight += kStrip<T>) {
    Vector<T> right[kWide];
#pragma GCC unroll 2
    for (int v = 0; v < kWide; ++v) right[v] = load_vector(weight + v * kLanesOf<T>);
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
      for (int v = 0; v < kWide; ++v) multiply_add(sums[i][v], from[i][c], right[v]);
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kWide; ++v) {
      sums[i][v] += load_vector(to[i] + v * kLanesOf<T>);
      std::memcpy(to[i] + v * kLanesOf<T>, &sums[i][v], sizeof sums[i][v]);
    }
  }
}

/// Calls f with `count`, which is at most kMost, as a compile-time constant.
template <int kMost = kBlockRows, class Function>
void with_count(int64_t count, const Function& f) {
  if constexpr (kMost > 0) {
    count == kMost ? f(std::integral_constant<int, kMost>()) : with_count<kMost - 1>(count, f);
  }
}

/// The weight in strips of output channels, [strips, taps, C, kStrip], zeros beyond D.
template <class T>
Buffer<T> pack(const SubmanifoldConvArgs& a, int64_t strips) {
  constexpr int64_t kSide = 16;  // of a square that is turned in the nearest cache
  Buffer<T> packed = make_buffer<T>(strips * a.taps * a.C * kStrip<T>);
  const T* weight = static_cast<const T*>(a.weight);
  // parallel over strips and taps
  parallel_for(strips * a.taps, 1 + 16384 / std::max<int64_t>(1, a.C * kStrip<T>),
               [&](int64_t begin, int64_t end) {
                 for (int64_t item = begin; item < end; ++item) {
                   const int64_t d = item / a.taps * kStrip<T>, tap = item % a.taps;
                   const int64_t width = std::min(kStrip<T>, a.D - d);
                   const T* from = weight + d * a.weight_d + tap * a.weight_tap;
                   T* to = packed.get() + item * a.C * kStrip<T>;
                   if (width < kStrip<T>) std::fill_n(to, a.C * kStrip<T>, T(0));
                   for (int64_t first = 0; first < a.C; first += kSide) {
                     for (int64_t i = 0; i < width; ++i) {
                       for (int64_t c = first; c < std::min(first + kSide, a.C); ++c) {
                         to[c * kStrip<T> + i] = from[i * a.weight_d + c * a.weight_c];
                       }
                     }
                   }
                 }
               });
  return packed;
}

/// sums [rows, kStrip] += the listed neighbors times one strip of the weight.
template <class T>
void add_taps(const SubmanifoldConvArgs& a, const Pairs& pairs, int64_t first, const T* packed,
              int64_t width, T* sums) {
  const T* x = static_cast<const T*>(a.x);
  for (int64_t tap = 0; tap < a.taps; ++tap, packed += a.C * kStrip<T>) {
    const Pair* list = pairs.of(tap);
    for (int64_t left = pairs.count(tap); left > 0; left -= kBlockRows, list += kBlockRows) {
      const int64_t count = std::min<int64_t>(left, kBlockRows);
      const T* from[kBlockRows];
      T* to[kBlockRows];
      for (int64_t i = 0; i < count; ++i) {
        from[i] = x + list[i].neighbor * a.C;
        to[i] = sums + (list[i].row - first) * kStrip<T>;
      }
      with_count(count, [&](auto rows) {
        width <= kLanesOf<T> ? multiply_rows<rows, 1>(from, packed, a.C, to)
                             : multiply_rows<rows, kVectors>(from, packed, a.C, to);
      });
    }
  }
}

template <class T>
void convolve(const SubmanifoldConvArgs& a) {
  const int64_t strips = (a.D + kStrip<T> - 1) / kStrip<T>;
  const Buffer<T> packed = pack<T>(a, strips);
  const T* bias = static_cast<const T*>(a.bias);
  // Few enough rows for their sums to stay near, but more where they share a large weight.
  const int64_t rows = std::clamp<int64_t>(2 * a.C, 256, 512);
  const int64_t chunks = (a.M + rows - 1) / rows;
  const int64_t strips_together = chunks < 16 ? 1 : strips;
  const int64_t parts = (strips + strips_together - 1) / strips_together;
  // parallel over chunks of rows, and over strips where there are few chunks
  parallel_for(chunks * parts, 1, [&](int64_t begin, int64_t end) {
    Pairs pairs(rows, a.taps);
    const Buffer<T> sums = make_buffer<T>(rows * kStrip<T>);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t first = item / parts * rows, count = std::min(rows, a.M - first);
      pairs.list(a.neighbors, first, count);
      const int64_t strip = item % parts * strips_together;
      for (int64_t d = strip * kStrip<T>; d < std::min((strip + strips_together) * kStrip<T>, a.D);
           d += kStrip<T>) {
        const int64_t width = std::min(kStrip<T>, a.D - d);
        std::fill_n(sums.get(), count * kStrip<T>, T(0));
        add_taps(a, pairs, first, packed.get() + d * a.taps * a.C, width, sums.get());
        for (int64_t row = 0; row < count; ++row) {
          const T* from = sums.get() + row * kStrip<T>;
          T* to = static_cast<T*>(a.out) + (first + row) * a.D + d;
          for (int64_t i = 0; i < width; ++i) to[i] = bias ? from[i] + bias[d + i] : from[i];
        }
      }
    }
  });
}

/// sums[i] += sum over k of grad[k][i] * x[k], for kRows channels of grad and kWide vectors of x.
template <int kRows, int kWide, class T>
void sum_products(const T* const* grad, const T* x, int64_t count, T* sums) {
  Vector<T> block[kRows][kWide] = {};
  for (int64_t k = 0; k < count; ++k, x += kStrip<T>) {
    Vector<T> right[kWide];
#pragma GCC unroll 2
    for (int v = 0; v < kWide; ++v) right[v] = load_vector(x + v * kLanesOf<T>);
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
      for (int v = 0; v < kWide; ++v) multiply_add(block[i][v], grad[k][i], right[v]);
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kWide; ++v) {
      T* to = sums + i * kStrip<T> + v * kLanesOf<T>;
      block[i][v] += load_vector(to);
      std::memcpy(to, &block[i][v], sizeof block[i][v]);
    }
  }
}

/// How the sums of a weight's gradient are shared out, which also is their order: by taps, as many
/// as leave their sums in the second cache, by strips of input channels, and where these are few by
/// rows.
struct WeightGradParts {
  int64_t taps, tap_groups, strips, rows, row_parts;

  WeightGradParts(const SubmanifoldConvWeightGradArgs& a, int64_t strip) {
    constexpr int64_t kSums = 65536, kEnough = 16, kFewRows = 2048;
    taps = std::clamp<int64_t>(kSums / (a.D * strip), 3, a.taps);
    tap_groups = (a.taps + taps - 1) / taps;
    strips = (a.C + strip - 1) / strip;
    const int64_t wanted = std::min(kEnough / (tap_groups * strips), a.M / kFewRows);
    row_parts = std::max<int64_t>(1, wanted);
    rows = (a.M + row_parts - 1) / row_parts;
  }
};

/// sums [taps, D, kStrip] of rows [first, end), one group of taps and one strip of input channels.
template <class T>
void sum_weight_grad(const SubmanifoldConvWeightGradArgs& a, int64_t first_tap, int64_t taps,
                     int64_t c, int64_t first, int64_t end, T* sums) {
  constexpr int64_t kRows = 512;  // at a time
  const int64_t width = std::min(kStrip<T>, a.C - c);
  const Buffer<T> x = make_zeros<T>(kRows * kStrip<T>);  // of the neighbors
  std::array<const T*, kRows> grad;
  std::fill_n(sums, taps * a.D * kStrip<T>, T(0));
  for (; first < end; first += kRows) {
    for (int64_t tap = 0; tap < taps; ++tap) {
      int64_t count = 0;
      for (int64_t row = first; row < std::min(first + kRows, end); ++row) {
        const int64_t neighbor = a.neighbors[row * a.taps + first_tap + tap];
        if (neighbor < 0) continue;
        std::copy_n(static_cast<const T*>(a.x) + neighbor * a.C + c, width,
                    x.get() + count * kStrip<T>);
        grad[count++] = static_cast<const T*>(a.grad) + row * a.D;
      }
      for (int64_t d = 0; d < a.D; d += kBlockRows) {
        T* to = sums + (tap * a.D + d) * kStrip<T>;
        with_count(std::min<int64_t>(kBlockRows, a.D - d), [&](auto rows) {
          width <= kLanesOf<T> ? sum_products<rows, 1>(grad.data(), x.get(), count, to)
                               : sum_products<rows, kVectors>(grad.data(), x.get(), count, to);
        });
        for (int64_t k = 0; k < count; ++k) grad[k] += kBlockRows;
      }
    }
  }
}

template <class T>
void weight_grad(const SubmanifoldConvWeightGradArgs& a) {
  const WeightGradParts parts(a, kStrip<T>);
  const int64_t size = parts.taps * a.D * kStrip<T>, blocks = parts.tap_groups * parts.strips;
  const Buffer<T> sums = make_buffer<T>(blocks * parts.row_parts * size);
  const auto each_block = [&](int64_t block, const auto& f) {
    const int64_t tap = block / parts.strips * parts.taps;
    f(tap, std::min(parts.taps, a.taps - tap), block % parts.strips * kStrip<T>);
  };
  // parallel over blocks and parts of the rows
  parallel_for(blocks * parts.row_parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t first = item % parts.row_parts * parts.rows;
      each_block(item / parts.row_parts, [&](int64_t tap, int64_t taps, int64_t c) {
        sum_weight_grad(a, tap, taps, c, first, std::min(first + parts.rows, a.M),
                        sums.get() + item * size);
      });
    }
  });
  // parallel over blocks
  parallel_for(blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      T* total = sums.get() + block * parts.row_parts * size;
      for (int64_t part = 1; part < parts.row_parts; ++part) {
        for (int64_t i = 0; i < size; ++i) total[i] += total[part * size + i];
      }
      each_block(block, [&](int64_t first_tap, int64_t taps, int64_t c) {
        const int64_t width = std::min(kStrip<T>, a.C - c);
        for (int64_t tap = 0; tap < taps; ++tap) {
          for (int64_t d = 0; d < a.D; ++d) {
            std::copy_n(total + (tap * a.D + d) * kStrip<T>, width,
                        static_cast<T*>(a.grad_weight) + (d * a.taps + first_tap + tap) * a.C + c);
          }
        }
      });
    }
  });
}

}  // namespace

void submanifold_conv(const SubmanifoldConvArgs& a) {
  a.dtype == Real::f64 ? convolve<double>(a) : convolve<float>(a);
}

void submanifold_conv_weight_grad(const SubmanifoldConvWeightGradArgs& a) {
  a.dtype == Real::f64 ? weight_grad<double>(a) : weight_grad<float>(a);
}

}  // namespace dapt::cpu::DAPT_ISA
