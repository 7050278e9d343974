// Submanifold convolution and the gradient of its weight on the CPU.
//
// For each tap, the rows that have that neighbor are listed. A block of them is multiplied by the
// tap's weight in registers: rows are read and sums updated in place, so that nothing is copied for
// a gather or a scatter. Columns are processed in strips, as wide as the registers allow for the
// rows of a block.
#include <algorithm>
#include <array>
#include <bit>

#include "cpu/gemm.h"
#include "cpu/parallel.h"
#include "ops.h"

namespace dapt::cpu::DAPT_ISA {
namespace {

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

struct Pair {
  int32_t row, neighbor;
};

/// The (row, neighbor) pairs of some rows and taps, tap by tap.
class Pairs {
 public:
  Pairs(int64_t rows, int64_t taps)
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

/// to[i] += sum over c of from[i][c] * weight[c], for kRows rows of kWide vectors.
template <int kRows, int kWide, class T>
void multiply_rows(const T* const* from, const T* weight, int64_t C, T* const* to) {
  Vector<T> sums[kRows][kWide] = {};
  for (int64_t c = 0; c < C; ++c, weight += kWide * kLanesOf<T>) {
    Vector<T> right[kWide];
#pragma GCC unroll 3
    for (int v = 0; v < kWide; ++v) right[v] = load_vector(weight + v * kLanesOf<T>);
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 3
      for (int v = 0; v < kWide; ++v) multiply_add(sums[i][v], from[i][c], right[v]);
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 3
    for (int v = 0; v < kWide; ++v) {
      sums[i][v] += load_vector(to[i] + v * kLanesOf<T>);
      std::memcpy(to[i] + v * kLanesOf<T>, &sums[i][v], sizeof sums[i][v]);
    }
  }
}

/// Selects lanes by number from those of a followed by those of b.
template <class T, int... lanes>
Vector<T> shuffle(Vector<T> a, Vector<T> b) {
#ifdef __clang__
  return __builtin_shufflevector(a, b, lanes...);
#else  // GCC has __builtin_shufflevector only from version 12 on.
  using Lane = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  using Lanes [[gnu::vector_size(sizeof(Vector<T>))]] = Lane;
  return __builtin_shuffle(a, b, Lanes{lanes...});
#endif
}

/// Transposes a square of vectors: row i becomes column i.
template <class T, int kStep = 1>
void transpose(Vector<T> (&square)[kLanesOf<T>]) {
  constexpr int kLanes = kLanesOf<T>;
  if constexpr (kStep < kLanes) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      if (i & kStep) continue;
      const Vector<T> a = square[i], b = square[i + kStep];
      [&]<int... lane>(std::integer_sequence<int, lane...>) {
        square[i] = shuffle<T, (lane & kStep ? kLanes + lane - kStep : lane)...>(a, b);
        square[i + kStep] = shuffle<T, (lane & kStep ? kLanes + lane : lane + kStep)...>(a, b);
      }(std::make_integer_sequence<int, kLanes>());
    }
    transpose<T, 2 * kStep>(square);
  }
}

/// Packs the weight of one tap and one strip of output channels as [C, vectors of the strip], with
/// zeros beyond its width.
template <class T>
void pack(const SubmanifoldConvArgs& a, int64_t tap, Strip strip, T* packed) {
  constexpr int64_t kLanes = kLanesOf<T>, kAhead = 8;
  const int64_t stride = strip.vectors * kLanes;
  const T* weight = static_cast<const T*>(a.weight) + strip.begin * a.weight_d + tap * a.weight_tap;
  if (strip.width < stride) std::fill_n(packed, a.C * stride, T(0));
  if (a.weight_d == 1) {
    for (int64_t c = 0; c < a.C; ++c, weight += a.weight_c, packed += stride) {
      if (c + kAhead < a.C) prefetch(weight + kAhead * a.weight_c, strip.width);
      std::copy_n(weight, strip.width, packed);
    }
    return;
  }
  for (int64_t i = 0; i < strip.width; i += kLanes, weight += kLanes * a.weight_d) {
    const int64_t width = std::min(kLanes, strip.width - i);
    int64_t c = 0;
    for (; width == kLanes && c + kLanes <= a.C; c += kLanes) {
      Vector<T> square[kLanes];
#pragma GCC unroll 16
      for (int64_t j = 0; j < kLanes; ++j) square[j] = load_vector(weight + j * a.weight_d + c);
      transpose<T>(square);
#pragma GCC unroll 16
      for (int64_t j = 0; j < kLanes; ++j) {
        std::memcpy(packed + (c + j) * stride + i, &square[j], sizeof square[j]);
      }
    }
    for (; c < a.C; ++c) {
      for (int64_t j = 0; j < width; ++j) packed[c * stride + i + j] = weight[j * a.weight_d + c];
    }
  }
}

/// sums [rows from `first`, kWide vectors] += the listed neighbors times one tap of the weight.
template <int kWide, class T>
void add_tap(const SubmanifoldConvArgs& a, const Pair* list, int64_t count, int64_t first,
             const T* packed, T* sums) {
  constexpr int64_t kRows = kRowsBeside<kWide>;
  const T* x = static_cast<const T*>(a.x);
  const Pair* end = list + count;
  for (; list < end; list += kRows) {
    const int64_t rows = std::min<int64_t>(end - list, kRows);
    const T* from[kRows];
    T* to[kRows];
    for (int64_t i = 0; i < rows; ++i) {
      from[i] = x + list[i].neighbor * a.C;
      to[i] = sums + (list[i].row - first) * kWide * kLanesOf<T>;
    }
    for (const Pair* next = list + kRows; next < std::min(list + 2 * kRows, end); ++next) {
      prefetch(x + next->neighbor * a.C, a.C);
    }
    with_count<kRows>(rows, [&](auto rows) { multiply_rows<rows, kWide>(from, packed, a.C, to); });
  }
}

/// Computes one strip of rows [first, first + count). weight_of(tap) is that tap's packed weight.
template <class T, class WeightOf>
void convolve_strip(const SubmanifoldConvArgs& a, const Pairs& pairs, int64_t first, int64_t count,
                    Strip strip, const WeightOf& weight_of, T* sums) {
  const int64_t stride = strip.vectors * kLanesOf<T>;
  std::fill_n(sums, count * stride, T(0));
  with_count<kMostVectors>(strip.vectors, [&](auto vectors) {
    for (int64_t tap = 0; tap < a.taps; ++tap) {
      if (pairs.count(tap) == 0) continue;
      add_tap<vectors>(a, pairs.of(tap), pairs.count(tap), first, weight_of(tap), sums);
    }
  });
  const T* bias = a.bias ? static_cast<const T*>(a.bias) + strip.begin : nullptr;
  T* out = static_cast<T*>(a.out) + first * a.D + strip.begin;
  for (int64_t row = 0; row < count; ++row, sums += stride, out += a.D) {
    for (int64_t i = 0; i < strip.width; ++i) out[i] = bias ? sums[i] + bias[i] : sums[i];
  }
}

template <class T>
void convolve(const SubmanifoldConvArgs& a) {
  const Strips<T> strips(a.D);
  // Few enough rows that their sums stay in the cache, but more when they share a large weight.
  const int64_t rows = std::clamp<int64_t>(2 * a.C, 256, 512);
  const int64_t chunks = (a.M + rows - 1) / rows;
  if (chunks <= strips.count()) {
    // parallel over strips; each weight is used once, so it is packed just before its use
    parallel_for(strips.count(), 1, [&](int64_t begin, int64_t end) {
      Pairs pairs(a.M, a.taps);
      pairs.list(a.neighbors, a.taps, 0, a.M, a.taps);
      const Buffer<T> sums = make_buffer<T>(a.M * strips.longest());
      const Buffer<T> packed = make_buffer<T>(a.C * strips.longest());
      for (int64_t i = begin; i < end; ++i) {
        const auto weight_of = [&](int64_t tap) {
          pack(a, tap, strips[i], packed.get());
          return packed.get();
        };
        convolve_strip(a, pairs, 0, a.M, strips[i], weight_of, sums.get());
      }
    });
    return;
  }
  const Buffer<T> packed = make_buffer<T>(a.taps * a.C * padded<T>(a.D));
  const auto weight_of = [&](Strip strip, int64_t tap) {
    return packed.get() + a.C * (strip.begin * a.taps + tap * strip.vectors * kLanesOf<T>);
  };
  // parallel over strips and taps
  parallel_for(strips.count() * a.taps, 1 + 16384 / std::max<int64_t>(1, a.C * strips.longest()),
               [&](int64_t begin, int64_t end) {
                 for (int64_t i = begin; i < end; ++i) {
                   const Strip strip = strips[i / a.taps];
                   pack(a, i % a.taps, strip, weight_of(strip, i % a.taps));
                 }
               });
  // parallel over chunks of rows
  parallel_for(chunks, 1, [&](int64_t begin, int64_t end) {
    Pairs pairs(rows, a.taps);
    const Buffer<T> sums = make_buffer<T>(rows * strips.longest());
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t first = chunk * rows, count = std::min(rows, a.M - first);
      pairs.list(a.neighbors + first * a.taps, a.taps, first, count, a.taps);
      for (int64_t i = 0; i < strips.count(); ++i) {
        const auto weight = [&](int64_t tap) { return weight_of(strips[i], tap); };
        convolve_strip(a, pairs, first, count, strips[i], weight, sums.get());
      }
    }
  });
}

/// sums[i] += sum over k of grad[k][d + i] * x[k], for kRows channels and kWide vectors of x.
template <int kRows, int kWide, class T>
void sum_products(const T* const* grad, int64_t d, const T* x, int64_t count, T* sums) {
  constexpr int64_t kStride = kWide * kLanesOf<T>;
  Vector<T> block[kRows][kWide] = {};
  for (int64_t k = 0; k < count; ++k, x += kStride) {
    const T* left = grad[k] + d;
    Vector<T> right[kWide];
#pragma GCC unroll 3
    for (int v = 0; v < kWide; ++v) right[v] = load_vector(x + v * kLanesOf<T>);
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
      T* to = sums + i * kStride + v * kLanesOf<T>;
      block[i][v] += load_vector(to);
      std::memcpy(to, &block[i][v], sizeof block[i][v]);
    }
  }
}

/// How the sums of a weight's gradient are divided, which also fixes their order: by groups of taps
/// whose sums fit in the L2 cache, by strips of input channels and, if these are few, by rows.
struct WeightGradParts {
  int64_t taps, tap_groups, strips, rows, row_parts;

  template <class T>
  WeightGradParts(const SubmanifoldConvWeightGradArgs& a, const Strips<T>& strips_of_x) {
    constexpr int64_t kSums = 65536, kEnough = 16, kFewRows = 2048;
    taps = std::clamp<int64_t>(kSums / (a.D * strips_of_x.longest()), 3, a.taps);
    tap_groups = (a.taps + taps - 1) / taps;
    strips = strips_of_x.count();
    const int64_t wanted = std::min(kEnough / (tap_groups * strips), a.M / kFewRows);
    row_parts = std::max<int64_t>(1, wanted);
    rows = (a.M + row_parts - 1) / row_parts;
  }
};

/// Copies a strip of the neighbors' rows to consecutive memory, to [count, kWide vectors].
template <int kWide, class T>
void collect(const T* x, int64_t C, int64_t width, const Pair* list, int64_t count, T* to) {
  constexpr int64_t kStride = kWide * kLanesOf<T>;
  for (int64_t k = 0; k < count; ++k, to += kStride) {
    const T* from = x + list[k].neighbor * C;
    if (width == kStride) {
      std::memcpy(to, from, kStride * sizeof(T));
    } else {
      std::copy_n(from, width, to);
    }
  }
}

/// Computes sums [taps, D, vectors of the strip] over rows [first, end), for some taps and one
/// strip of input channels.
template <class T>
void sum_weight_grad(const SubmanifoldConvWeightGradArgs& a, int64_t first_tap, int64_t taps,
                     Strip strip, int64_t first, int64_t end, T* sums) {
  constexpr int64_t kRows = 512;  // per step
  const int64_t stride = strip.vectors * kLanesOf<T>;
  const T* x = static_cast<const T*>(a.x) + strip.begin;
  const Buffer<T> collected = make_zeros<T>(kRows * stride);  // neighbors' rows
  std::array<const T*, kRows> grad;
  Pairs pairs(kRows, taps);
  std::fill_n(sums, taps * a.D * stride, T(0));
  for (; first < end; first += kRows) {
    pairs.list(a.neighbors + first * a.taps + first_tap, a.taps, first,
               std::min(kRows, end - first), taps);
    for (int64_t tap = 0; tap < taps; ++tap) {
      const Pair* list = pairs.of(tap);
      const int64_t count = pairs.count(tap);
      for (int64_t k = 0; k < count; ++k) {
        grad[k] = static_cast<const T*>(a.grad) + list[k].row * a.D;
      }
      with_count<kMostVectors>(strip.vectors, [&](auto vectors) {
        constexpr int64_t kBlock = kRowsBeside<vectors>;
        collect<vectors>(x, a.C, strip.width, list, count, collected.get());
        for (int64_t d = 0; d < a.D; d += kBlock) {
          T* to = sums + (tap * a.D + d) * stride;
          with_count<kBlock>(std::min(kBlock, a.D - d), [&](auto rows) {
            sum_products<rows, vectors>(grad.data(), d, collected.get(), count, to);
          });
        }
      });
    }
  }
}

template <class T>
void weight_grad(const SubmanifoldConvWeightGradArgs& a) {
  const Strips<T> strips(a.C);
  const WeightGradParts parts(a, strips);
  const int64_t size = parts.taps * a.D * strips.longest();
  const int64_t blocks = parts.tap_groups * parts.strips;
  const Buffer<T> sums = make_buffer<T>(blocks * parts.row_parts * size);
  const auto each_block = [&](int64_t block, const auto& f) {
    const int64_t tap = block / parts.strips * parts.taps;
    f(tap, std::min(parts.taps, a.taps - tap), strips[block % parts.strips]);
  };
  // parallel over blocks and parts of the rows
  parallel_for(blocks * parts.row_parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t first = item % parts.row_parts * parts.rows;
      each_block(item / parts.row_parts, [&](int64_t tap, int64_t taps, Strip strip) {
        sum_weight_grad(a, tap, taps, strip, first, std::min(first + parts.rows, a.M),
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
      each_block(block, [&](int64_t first_tap, int64_t taps, Strip strip) {
        const int64_t stride = strip.vectors * kLanesOf<T>;
        for (int64_t tap = 0; tap < taps; ++tap) {
          for (int64_t d = 0; d < a.D; ++d) {
            T* to = static_cast<T*>(a.grad_weight) + (d * a.taps + first_tap + tap) * a.C;
            std::copy_n(total + (tap * a.D + d) * stride, strip.width, to + strip.begin);
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
