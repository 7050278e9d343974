// Submanifold convolution on the CPU.
//
// For each tap, the rows that have that neighbor are listed. A block of them is multiplied by the
// tap's weight in registers: rows are read and sums updated in place, so that nothing is copied for
// a gather or a scatter. Columns are processed in strips, as wide as the registers allow for the
// rows of a block.
#include <algorithm>

#include "cpu/neighbor_pairs.h"
#include "cpu/parallel.h"
#include "ops.h"

namespace dapt::cpu::DAPT_ISA {
namespace {

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
void convolve_strip(const SubmanifoldConvArgs& a, const NeighborPairs& pairs, int64_t first,
                    int64_t count, Strip strip, const WeightOf& weight_of, T* sums) {
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
      NeighborPairs pairs(a.M, a.taps);
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
    NeighborPairs pairs(rows, a.taps);
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

}  // namespace

void submanifold_conv(const SubmanifoldConvArgs& a) {
  a.dtype == Real::f64 ? convolve<double>(a) : convolve<float>(a);
}

}  // namespace dapt::cpu::DAPT_ISA
