// Matrix products of a tile and a small matrix, blocked for the registers and the nearest caches.
// Elements are float, double or, with bfloat16 instructions, pairs of bfloat16 that are adjacent
// along the dimension summed over.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cpu/buffer.h"
#include "cpu/isa.h"
#include "cpu/rows.h"

namespace dapt::cpu::DAPT_ISA {

#if defined(__AVX512F__)
constexpr int kRegisterBytes = 64, kBlockRows = 12;  // 24 of 32 registers hold sums
#elif defined(__AVX2__)
constexpr int kRegisterBytes = 32, kBlockRows = 6;  // 12 of 16
#else
constexpr int kRegisterBytes = 16, kBlockRows = 3;
#endif

template <class T>
struct VectorOf {
  typedef T Type [[gnu::vector_size(kRegisterBytes)]];
};
template <class T>
using Vector = typename VectorOf<T>::Type;

template <class T>
constexpr int64_t kLanesOf = kRegisterBytes / sizeof(T);

template <class T>
Vector<T> load_vector(const T* from) {
  Vector<T> out;
  std::memcpy(&out, from, sizeof out);
  return out;
}

inline void multiply_add(Vector<float>& sum, float a, Vector<float> b) { sum += a * b; }
inline void multiply_add(Vector<double>& sum, double a, Vector<double> b) { sum += a * b; }

#if defined(__AVX512F__)
/// sum += a.first * b.first + a.second * b.second, with bfloat16 instructions.
inline void multiply_add(Vector<float>& sum, uint32_t a, Vector<uint32_t> b) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(Vector<uint32_t>{} + a), "v"(b));
}
#endif

/// Element (i, k) of a left factor is data[i * row + k * inner].
template <class Element>
struct Left {
  const Element* data;
  int64_t row, inner;
};

/// Element (k, j) of a right factor is data[k * inner + j].
template <class Element>
struct Right {
  const Element* data;
  int64_t inner;
};

template <int kRows, int kVectors, class Element, class Sum>
void multiply_block(Left<Element> a, Right<Element> b, int64_t inner, bool add, Sum* out,
                    int64_t stride) {
  Vector<Sum> sums[kRows][kVectors] = {};
  for (int64_t k = 0; k < inner; ++k) {
    Vector<Element> right[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v)
      right[v] = load_vector(b.data + k * b.inner + v * kLanesOf<Sum>);
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i) {
      const Element left = a.data[i * a.row + k * a.inner];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) multiply_add(sums[i][v], left, right[v]);
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      Sum* to = out + i * stride + v * kLanesOf<Sum>;
      if (add) sums[i][v] += load_vector(to);
      std::memcpy(to, &sums[i][v], sizeof sums[i][v]);
    }
  }
}

/// `count` rounded up to whole vectors.
template <class T>
int64_t padded(int64_t count) {
  return (count + kLanesOf<T> - 1) / kLanesOf<T> * kLanesOf<T>;
}

/// `count` rounded up so that `multiply` never falls back to single rows.
inline int64_t whole_rows(int64_t count) {
  constexpr int64_t kFew = kBlockRows / 3;
  return (count + kFew - 1) / kFew * kFew;
}

/// out [rows, cols] = a · b, or += with `add`, summed over `inner` numbers. Rows of out and of b
/// are padded(cols) numbers long.
template <class Element, class Sum>
void multiply(Left<Element> a, Right<Element> b, int64_t rows, int64_t inner, int64_t cols,
              bool add, Sum* out) {
  const int64_t stride = padded<Sum>(cols);
  const int64_t elements = std::is_same_v<Element, Sum> ? inner : (inner + 1) / 2;
  const auto columns = [&]<int kVectors>(std::integral_constant<int, kVectors>, int64_t j) {
    int64_t i = 0;
    const auto blocks = [&]<int kRows>(std::integral_constant<int, kRows>) {
      for (; i + kRows <= rows; i += kRows) {
        multiply_block<kRows, kVectors>(Left<Element>{a.data + i * a.row, a.row, a.inner},
                                        Right<Element>{b.data + j, b.inner}, elements, add,
                                        out + i * stride + j, stride);
      }
    };
    blocks(std::integral_constant<int, kBlockRows>{});
    blocks(std::integral_constant<int, kBlockRows / 3>{});
    blocks(std::integral_constant<int, 1>{});
  };
  int64_t j = 0;
  for (; j + 2 * kLanesOf<Sum> <= stride; j += 2 * kLanesOf<Sum>)
    columns(std::integral_constant<int, 2>{}, j);
  if (j < stride) columns(std::integral_constant<int, 1>{}, j);
}

/// A matrix that is written row by row and then serves as a factor. Pairs of bfloat16 are stored
/// along the rows, across them or both ways, as the products need them; plain numbers serve both
/// ways.
enum class Pairs { along, across, both };

template <class Sum, bool kPaired>
class Factor {
 public:
  using Element = std::conditional_t<kPaired, uint32_t, Sum>;

  Factor() = default;
  Factor(int64_t rows, int64_t cols, Pairs pairs) : stride_(padded<Sum>(cols)), cols_(cols) {
    if constexpr (kPaired) {
      row_ = make_zeros<Sum>(stride_);
      bits_ = make_zeros<uint16_t>(stride_);
      if (pairs != Pairs::across) along_ = make_zeros<Element>(rows * stride_ / 2);
      if (pairs != Pairs::along) across_ = make_zeros<Element>((rows + 1) / 2 * stride_);
    } else {
      across_ = make_zeros<Element>(rows * stride_);
    }
  }

  /// A row for writing, until `close`.
  Sum* open(int64_t row) {
    if constexpr (kPaired) {
      return row_.get();
    } else {
      return across_.get() + row * stride_;
    }
  }

  void close([[maybe_unused]] int64_t row) {
    if constexpr (kPaired) {
      uint16_t* bits = bits_.get();
      if (along_) bits = reinterpret_cast<uint16_t*>(along_.get()) + row * stride_;
      round_to_bf16(row_.get(), cols_, bits);
      if (!across_) return;
      uint32_t* to = across_.get() + row / 2 * stride_;
      if (row % 2 == 0) {
        for_each(cols_, [=](int64_t c) { to[c] = bits[c]; });
      } else {
        for_each(cols_, [=](int64_t c) { to[c] |= uint32_t{bits[c]} << 16; });
      }
    }
  }

  /// As the left factor, summed over its columns.
  Left<Element> left() const {
    if constexpr (kPaired) {
      return {along_.get(), stride_ / 2, 1};
    } else {
      return {across_.get(), stride_, 1};
    }
  }
  /// As the left factor, transposed: summed over its rows.
  Left<Element> left_transposed() const { return {across_.get(), 1, stride_}; }
  /// As the right factor, summed over its rows.
  Right<Element> right() const { return {across_.get(), stride_}; }

 private:
  int64_t stride_ = 0, cols_ = 0;  // a row's numbers are padded with zeros to whole vectors
  Buffer<Sum> row_;
  Buffer<uint16_t> bits_;
  Buffer<Element> along_, across_;
};

}  // namespace dapt::cpu::DAPT_ISA
