// Products of a warp: 16 rows in shared memory times 16 columns of a weight, with the inner
// dimension in blocks of `kBlock`. One interface, three implementations: tensor cores on float16
// and bfloat16, tensor cores on float32 rounded to tf32, and strict fused multiply-adds on float32
// and float64.
//
// A thread owns rows g and g + 8 with g = lane / 4, and four columns of each:
//   sums[i] is row g, sums[4 + i] row g + 8; i of 0 to 3 is column 4 t + i with t = lane % 4.
//
// The inner dimension may be fed to a tensor core in any order, as long as both factors use the
// same one. Here a thread takes 16 adjacent bytes of a row, so that every load is one instruction
// without a bank conflict (the row stride is an odd multiple of 64 bytes). Weights are packed in
// the order in which a warp reads them (pack_weights.cuh).
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>

#include "cuda/device.h"
#include "cuda/launch.h"
#include "cuda/warp.cuh"
#include "ops.h"

namespace dapt::cuda {

struct alignas(16) Bytes16 {
  uint32_t at[4];
};

__device__ __forceinline__ Bytes16 load_bytes(const void* address) {
#ifdef DAPT_ON_HOST
  Bytes16 bytes;
  std::memcpy(&bytes, address, sizeof bytes);
  return bytes;
#else
  return *static_cast<const Bytes16*>(address);
#endif
}

/// The columns of `sums` if the right factor was loaded across: 2 t, 2 t + 1, 8 + 2 t and
/// 9 + 2 t.
__device__ __forceinline__ int column_across(int i) {
  return i / 2 * 8 + 2 * (lane_id() % 4) + i % 2;
}

struct Tf32 {};

/// Tensor cores; Kind is __half, __nv_bfloat16 or Tf32.
template <class Kind>
struct TensorCore {
  static constexpr bool kTf32 = std::is_same_v<Kind, Tf32>;
  using Element = std::conditional_t<kTf32, float, Kind>;
  using Sum = float;
  static constexpr int kVector = 16 / sizeof(Element), kBlock = 4 * kVector;
  static constexpr int kRowTiles = 4;  // that share a right factor in registers

  struct Left {
    Bytes16 low, high;  // rows g, g + 8
  };
  struct Right {
    Bytes16 at[2];  // one per instruction, eight columns each
  };

  /// Rounds a factor to what the product takes.
  static __device__ __forceinline__ Element factor(float value) {
    if constexpr (!kTf32) {
      return static_cast<Element>(value);
    } else {
#ifdef DAPT_ON_HOST
      return value != value ? value
                            : __uint_as_float((__float_as_uint(value) + 0x1000) & 0xffffe000);
#elif !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
      uint32_t bits;
      asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
      return __uint_as_float(bits);
#else
      return value;
#endif
    }
  }

  /// rows: [16, stride], starting at the block's first inner element.
  static __device__ __forceinline__ Left load_left(const Element* rows, int stride) {
    const Element* own = rows + lane_id() / 4 * stride + lane_id() % 4 * kVector;
    return {load_bytes(own), load_bytes(own + 8 * stride)};
  }
  static __device__ __forceinline__ Right load_right(const Element* packed) {
    const Element* own = packed + lane_id() * kVector;
    return {load_bytes(own), load_bytes(own + 32 * kVector)};
  }

  /// The column and inner index of element i of a packed unit of 16 x kBlock.
  static __device__ __forceinline__ int2 packed_from(int i) {
    const int lane = i / kVector % 32, half = i / kVector / 32, g = lane / 4;
    return make_int2(g / 2 * 4 + g % 2 + half * 2, lane % 4 * kVector + i % kVector);
  }

  /// columns: [kBlock, stride], with the inner dimension going down, as in a sum over tokens. The
  /// stride is a multiple of 32 plus or minus 8 and aligned to 16 bytes.
  static __device__ __forceinline__ Left load_left_across(const Element* columns, int stride) {
    Left left;
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      uint32_t words[4];
      load_across(columns + step * kBlock / 2 * stride, stride, 8, kBlock / 4 * stride, words);
      left.low.at[2 * step] = words[0], left.high.at[2 * step] = words[1];
      left.low.at[2 * step + 1] = words[2], left.high.at[2 * step + 1] = words[3];
    }
    return left;
  }
  static __device__ __forceinline__ Right load_right_across(const Element* columns, int stride) {
    Right right;
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      uint32_t words[4];
      load_across(columns + step * kBlock / 2 * stride, stride, kBlock / 4 * stride, 8, words);
      right.at[0].at[2 * step] = words[0], right.at[0].at[2 * step + 1] = words[1];
      right.at[1].at[2 * step] = words[2], right.at[1].at[2 * step + 1] = words[3];
    }
    return right;
  }

  /// sums += left · right.
  static __device__ __forceinline__ void multiply(Sum (&sums)[8], const Left& left,
                                                  const Right& right) {
#pragma unroll
    for (int step = 0; step < 2; ++step) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        instruction(sums[2 * half], sums[2 * half + 1], sums[4 + 2 * half], sums[5 + 2 * half],
                    left.low.at[2 * step], left.high.at[2 * step], left.low.at[2 * step + 1],
                    left.high.at[2 * step + 1], right.at[half].at[2 * step],
                    right.at[half].at[2 * step + 1]);
      }
    }
  }

 private:
  /// Four 8 x 8 (16-bit) or 4 x 8 (tf32) matrices, at `columns` + i % 2 * odd + i / 2 * upper. A
  /// thread gets column g at inner 2 t and 2 t + 1 (t for tf32) of each.
  static __device__ __forceinline__ void load_across(const Element* columns, int stride, int odd,
                                                     int upper, uint32_t (&words)[4]) {
    if constexpr (kTf32) {
      const float* own = columns + lane_id() % 4 * stride + lane_id() / 4;
#pragma unroll
      for (int i = 0; i < 4; ++i) words[i] = __float_as_uint(own[i % 2 * odd + i / 2 * upper]);
    } else {
      const int matrix = lane_id() / 8;
      const Element* row = columns + matrix % 2 * odd + matrix / 2 * upper + lane_id() % 8 * stride;
#ifdef DAPT_ON_HOST
      on_host::load_matrices_transposed(row, words);
#else
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                   : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                   : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
                   : "memory");
#endif
    }
  }

  static __device__ __forceinline__ void instruction(float& c0, float& c1, float& c2, float& c3,
                                                     uint32_t a0, uint32_t a1, uint32_t a2,
                                                     uint32_t a3, uint32_t b0, uint32_t b1) {
#ifdef DAPT_ON_HOST
    on_host::mma<Element>(c0, c1, c2, c3, a0, a1, a2, a3, b0, b1);
#elif !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
#define DAPT_MMA(shape, type)                                                \
  asm("mma.sync.aligned." shape ".row.col.f32." type "." type                \
      ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
      : "+f"(c0), "+f"(c1), "+f"(c2), "+f"(c3)                               \
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1))
    if constexpr (kTf32) {
      DAPT_MMA("m16n8k8", "tf32");
    } else if constexpr (std::is_same_v<Element, __half>) {
      DAPT_MMA("m16n8k16", "f16");
    } else {
      DAPT_MMA("m16n8k16", "bf16");
    }
#undef DAPT_MMA
#else
    __trap();  // with_product() refuses code compiled for such devices
#endif
  }
};

__device__ __forceinline__ float multiply_add(float a, float b, float c) {
  return __fmaf_rn(a, b, c);
}
__device__ __forceinline__ double multiply_add(double a, double b, double c) {
  return __fma_rn(a, b, c);
}

/// Fused multiply-adds; Real is float or double.
template <class Real>
struct Fma {
  using Element = Real;
  using Sum = Real;
  static constexpr int kVector = 16 / sizeof(Real), kBlock = kVector;
  static constexpr int kRowTiles = sizeof(Real) == 4 ? 4 : 1;

  struct alignas(16) Vector {
    Real at[kVector];
  };
  struct Left {
    Vector low, high;
  };
  struct Right {
    Vector at[4];
  };

  static __device__ __forceinline__ Element factor(Real value) { return value; }

  static __device__ __forceinline__ Left load_left(const Element* rows, int stride) {
    const Element* own = rows + lane_id() / 4 * stride;
    return {*reinterpret_cast<const Vector*>(own),
            *reinterpret_cast<const Vector*>(own + 8 * stride)};
  }
  static __device__ __forceinline__ Right load_right(const Element* packed) {
    Right right;
#pragma unroll
    for (int i = 0; i < 4; ++i)
      right.at[i] = reinterpret_cast<const Vector*>(packed)[4 * i + lane_id() % 4];
    return right;
  }

  static __device__ __forceinline__ int2 packed_from(int i) {
    const int slot = i / kVector;
    return make_int2(slot % 4 * 4 + slot / 4, i % kVector);
  }

  static __device__ __forceinline__ Left load_left_across(const Element* columns, int stride) {
    Left left;
#pragma unroll
    for (int k = 0; k < kVector; ++k) {
      left.low.at[k] = columns[k * stride + lane_id() / 4];
      left.high.at[k] = columns[k * stride + lane_id() / 4 + 8];
    }
    return left;
  }
  static __device__ __forceinline__ Right load_right_across(const Element* columns, int stride) {
    Right right;
#pragma unroll
    for (int k = 0; k < kVector; ++k)
#pragma unroll
      for (int i = 0; i < 4; ++i) right.at[i].at[k] = columns[k * stride + column_across(i)];
    return right;
  }

  static __device__ __forceinline__ void multiply(Sum (&sums)[8], const Left& left,
                                                  const Right& right) {
#pragma unroll
    for (int k = 0; k < kVector; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        sums[i] = multiply_add(left.low.at[k], right.at[i].at[k], sums[i]);
        sums[4 + i] = multiply_add(left.high.at[k], right.at[i].at[k], sums[4 + i]);
      }
    }
  }
};

/// Calls f with the type that computes products of this dtype.
template <class Function>
void with_product(Real compute, bool tf32, const Function& f) {
  const int code = current_device().code;
  if (code < 80 && compute != Real::f64 && (compute != Real::f32 || tf32)) {
    throw std::runtime_error(
        "float16, bfloat16 and tf32 need kernels compiled for compute capability 8.0 or later, "
        "those of this build were for " +
        std::to_string(code / 10) + "." + std::to_string(code % 10) +
        ": use float32 without tf32, or build with TORCH_CUDA_ARCH_LIST of the GPU");
  }
  switch (compute) {
    case Real::f16: return f(TensorCore<__half>());
    case Real::bf16: return f(TensorCore<__nv_bfloat16>());
    case Real::f32: return tf32 ? f(TensorCore<Tf32>()) : f(Fma<float>());
    case Real::f64: return f(Fma<double>());
  }
  throw std::invalid_argument("there is no product of dtype " +
                              std::to_string(static_cast<int>(compute)));
}

}  // namespace dapt::cuda
