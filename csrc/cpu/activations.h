// Activations with their slopes, written so that a loop over a row vectorizes.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "cpu/isa.h"
#include "ops.h"

namespace dapt::cpu::DAPT_ISA {

template <class T>
struct ValueSlope {
  T value, slope;
};

/// e^-x for x >= 0. In float, accurate to 3 ulp up to x = 87; beyond, and for NaN, e^-87.
inline float decay(float x) {
  constexpr float kToNearest = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  constexpr float kMost = 87.0f;
  // The minimum is taken of the bits, because that of floats would compile to a branch.
  const int32_t bits = std::min(std::bit_cast<int32_t>(x), std::bit_cast<int32_t>(kMost));
  const float y = std::bit_cast<float>(bits) * -1.44269504f;
  const float shifted = y + kToNearest;
  const float f = y - (shifted - kToNearest);  // 2^f with f in [-1/2, 1/2]
  float p = 1.326472819e-3f;
  p = p * f + 9.671512836e-3f;
  p = p * f + 5.550733740e-2f;
  p = p * f + 2.402224208e-1f;
  p = p * f + 6.931469776e-1f;
  p = p * f + 1.0f;
  const uint32_t power = std::bit_cast<uint32_t>(shifted) << 23;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(p) + power);
}
inline double decay(double x) { return std::exp(-x); }

/// The standard normal distribution function of x, given `bell` = e^(-x² / 2). In float, Abramowitz
/// and Stegun 7.1.26, accurate to 1e-7.
inline float normal_share(float x, float bell) {
  const float t = 1.0f / (1.0f + 0.231641888f * std::fabs(x));
  float p = 0.530702715f;
  p = p * t - 0.7265760135f;
  p = p * t + 0.7107068705f;
  p = p * t - 0.142248368f;
  p = p * t + 0.127414796f;
  const float tail = p * t * bell;
  return x < 0 ? tail : 1.0f - tail;
}
inline double normal_share(double x, double) { return 0.5 * std::erfc(-x * M_SQRT1_2); }

struct Gelu {
  template <class T>
  ValueSlope<T> operator()(T x) const {
    const T bell = decay(x * x * T(0.5));
    const T share = normal_share(x, bell);
    return {x * share, share + x * bell * T(0.39894228040143268)};
  }
};

struct Relu {
  template <class T>
  ValueSlope<T> operator()(T x) const {
    return {x < 0 ? T(0) : x, x > 0 ? T(1) : T(0)};
  }
};

struct QuickGelu {
  template <class T>
  ValueSlope<T> operator()(T x) const {
    const T small = decay(std::fabs(x) * T(1.702));
    const T gate = (x < 0 ? small : T(1)) / (T(1) + small);
    return {x * gate, gate + T(1.702) * x * gate * (T(1) - gate)};
  }
};

template <class Function>
void with_activation(Activation activation, const Function& f) {
  switch (activation) {
    case Activation::gelu: return f(Gelu{});
    case Activation::relu: return f(Relu{});
    case Activation::quickgelu: return f(QuickGelu{});
  }
}

}  // namespace dapt::cpu::DAPT_ISA
