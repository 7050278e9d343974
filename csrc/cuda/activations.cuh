// Activations and their derivatives.
#pragma once

#include "cuda/launch.h"
#include "ops.h"

namespace dapt::cuda {

template <class T>
struct ValueSlope {
  T value, slope;
};

__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }

/// The standard normal distribution function at x; in float to within 1e-7.
__device__ __forceinline__ float normal_share(float x) {
  return 0.5f + 0.5f * erff(x * 0.707106781f);
}
__device__ __forceinline__ double normal_share(double x) {
  return 0.5 * erfc(x * -0.70710678118654752440);
}

template <class T>
__device__ __forceinline__ ValueSlope<T> gelu(T x) {
  const T share = normal_share(x);
  return {x * share, share + x * exponential(x * x * T(-0.5)) * T(0.39894228040143268)};
}

template <class T>
__device__ __forceinline__ ValueSlope<T> activate(Activation activation, T x) {
  if (activation == Activation::gelu) return gelu(x);
  if (activation == Activation::relu) return {x < 0 ? T(0) : x, x > 0 ? T(1) : T(0)};
  const T gate = T(1) / (T(1) + exponential(x * T(-1.702)));
  return {x * gate, gate + T(1.702) * x * gate * (T(1) - gate)};
}

}  // namespace dapt::cuda
