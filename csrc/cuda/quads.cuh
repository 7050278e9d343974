// Rows of any real dtype, read and written four adjacent elements at a time as `Sum`: double
// for float64, float for the others.
#pragma once

#include <cstdint>
#include <cstring>

#include "cuda/launch.h"
#include "ops.h"

namespace dapt::cuda {

template <class Sum>
struct alignas(16) Quad {
  Sum at[4];
};

inline int element_size(Real dtype) { return dtype == Real::f64 ? 8 : dtype == Real::f32 ? 4 : 2; }

template <class Sum>
constexpr Real real_of() {
  return sizeof(Sum) == 8 ? Real::f64 : Real::f32;
}

/// A row-major matrix. Without data it reads as zeros, as do columns past the last one.
struct Rows {
  void* data = nullptr;
  int cols = 0;
  Real dtype = Real::f32;
  bool in_quads = false;  // rows are aligned to quads

  Rows() = default;
  Rows(Real dtype, const void* data, int64_t cols)
      : data(const_cast<void*>(data)), cols(static_cast<int>(cols)), dtype(dtype) {
    const uintptr_t alignment = 4 * element_size(dtype) < 16 ? 8 : 16;
    in_quads = cols % 4 == 0 && reinterpret_cast<uintptr_t>(data) % alignment == 0;
  }
};

template <class T>
struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) StoredQuad {
  T at[4];
};

/// For rows of T with `in_quads`.
template <class T, class Sum>
__device__ __forceinline__ Quad<Sum> read_stored_quad(const Rows& rows, int64_t row, int c) {
  const T* from = static_cast<const T*>(rows.data) + row * rows.cols + c;
  const auto stored = *reinterpret_cast<const StoredQuad<T>*>(from);
  Quad<Sum> quad;
#pragma unroll
  for (int i = 0; i < 4; ++i) quad.at[i] = static_cast<Sum>(stored.at[i]);
  return quad;
}

template <class T, class Sum>
__device__ __forceinline__ Quad<Sum> read_quad_of(const Rows& rows, int64_t row, int c) {
  if (rows.in_quads) return read_stored_quad<T, Sum>(rows, row, c);
  const T* from = static_cast<const T*>(rows.data) + row * rows.cols + c;
  Quad<Sum> quad;
#pragma unroll
  for (int i = 0; i < 4; ++i) quad.at[i] = c + i < rows.cols ? static_cast<Sum>(from[i]) : Sum(0);
  return quad;
}

/// Columns c to c + 3 of a row; c is a multiple of 4.
template <class Sum>
__device__ __forceinline__ Quad<Sum> read_quad(const Rows& rows, int64_t row, int c) {
  if (!rows.data || c >= rows.cols) return {};
  if constexpr (sizeof(Sum) == 8) {
    return read_quad_of<double, Sum>(rows, row, c);
  } else {
    if (rows.dtype == Real::f32) return read_quad_of<float, Sum>(rows, row, c);
    if (rows.dtype == Real::bf16) return read_quad_of<__nv_bfloat16, Sum>(rows, row, c);
    return read_quad_of<__half, Sum>(rows, row, c);
  }
}

/// Writes element c of a matrix with one row.
template <class Sum>
__device__ __forceinline__ void write_one(const Rows& rows, int64_t c, Sum value) {
  if constexpr (sizeof(Sum) == 8) {
    static_cast<double*>(rows.data)[c] = value;
  } else {
    if (rows.dtype == Real::f32) static_cast<float*>(rows.data)[c] = value;
    if (rows.dtype == Real::bf16)
      static_cast<__nv_bfloat16*>(rows.data)[c] = static_cast<__nv_bfloat16>(value);
    if (rows.dtype == Real::f16) static_cast<__half*>(rows.data)[c] = static_cast<__half>(value);
  }
}

template <class T, class Sum>
__device__ __forceinline__ void write_quad_of(const Rows& rows, int64_t row, int c,
                                              const Quad<Sum>& quad) {
  T* to = static_cast<T*>(rows.data) + row * rows.cols + c;
  if (rows.in_quads) {
    StoredQuad<T> stored;
#pragma unroll
    for (int i = 0; i < 4; ++i) stored.at[i] = static_cast<T>(quad.at[i]);
    *reinterpret_cast<StoredQuad<T>*>(to) = stored;
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (c + i < rows.cols) to[i] = static_cast<T>(quad.at[i]);
  }
}

template <class Sum>
__device__ __forceinline__ void write_quad(const Rows& rows, int64_t row, int c,
                                           const Quad<Sum>& quad) {
  if (!rows.data || c >= rows.cols) return;
  if constexpr (sizeof(Sum) == 8) {
    write_quad_of<double>(rows, row, c, quad);
  } else {
    if (rows.dtype == Real::f32) return write_quad_of<float>(rows, row, c, quad);
    if (rows.dtype == Real::bf16) return write_quad_of<__nv_bfloat16>(rows, row, c, quad);
    return write_quad_of<__half>(rows, row, c, quad);
  }
}

}  // namespace dapt::cuda
