// What the forward and the backward of DAPT's adapter share.
//
// The norm's weight w and bias b are folded into the projections that read z = x̂ * w + b, so that
// per token only x̂ = (x - mean) / deviation is computed, and the norm's gradients follow from sums
// over x̂.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu/gemm.h"
#include "cpu/rows.h"
#include "ops.h"
#include "philox.h"

namespace dapt::cpu::DAPT_ISA {

/// Tokens per tile; a tile goes through all steps while it is in the cache.
constexpr int64_t kTile = 96;  // a multiple of kBlockRows

inline int64_t tile_count(const DynamicAdapterArgs& a) { return (a.B * a.T + kTile - 1) / kTile; }

template <class Sum>
const Sum* vec(const void* data) {
  return static_cast<const Sum*>(data);
}

/// The projections in float32 or float64; those for down and scale apply to x̂.
template <class Sum>
struct Folded {
  std::vector<Sum> down_weight;   // [r, C]
  std::vector<Sum> down_offset;   // [r]: what the norm's bias adds to the down product
  std::vector<Sum> scale_weight;  // [C], zeros if the scale is static
  Sum scale_bias = 0;
  std::vector<Sum> up_weight;  // [C, r]

  explicit Folded(const DynamicAdapterArgs& a)
      : down_weight(a.r * a.C), down_offset(a.r), scale_weight(a.C), up_weight(a.C * a.r) {
    const int64_t C = a.C, r = a.r;
    const std::vector<Sum> ones(C, 1), zeros(C);
    const Sum* w = a.norm_weight ? vec<Sum>(a.norm_weight) : ones.data();
    const Sum* b = a.norm_bias ? vec<Sum>(a.norm_bias) : zeros.data();
    const auto fold = [=](const Sum* row, Sum bias, Sum* out) {
      for_each(C, [=](int64_t c) { out[c] = row[c] * w[c]; });
      return bias + sum_over<Sum>(C, [=](int64_t c) { return row[c] * b[c]; });
    };
    Rows<Sum> down(a.compute, a.down_weight, C), up(a.compute, a.up_weight, r);
    for (int64_t j = 0; j < r; ++j) {
      down_offset[j] = fold(down.read(j), Sum(0), down_weight.data() + j * C);
    }
    for (int64_t c = 0; c < C; ++c) std::copy_n(up.read(c), r, up_weight.data() + c * r);
    if (a.scale_weight) {
      scale_bias = fold(vec<Sum>(a.scale_weight), *vec<Sum>(a.scale_bias), scale_weight.data());
    }
  }
};

/// A weight [rows, cols], or its transpose, as a right factor.
template <class Sum, bool kPaired>
Factor<Sum, kPaired> make_factor(const std::vector<Sum>& weight, int64_t rows, int64_t cols,
                                 bool transpose) {
  Factor<Sum, kPaired> out(transpose ? cols : rows, transpose ? rows : cols, Pairs::across);
  for (int64_t i = 0; i < (transpose ? cols : rows); ++i) {
    Sum* row = out.open(i);
    const Sum* from = weight.data() + (transpose ? i : i * cols);
    const int64_t step = transpose ? cols : 1;
    for (int64_t j = 0; j < (transpose ? rows : cols); ++j) row[j] = from[j * step];
    out.close(i);
  }
  return out;
}

/// One thread's view of the arguments, and the steps that both directions share.
template <class Sum, bool kPaired>
struct Steps {
  const DynamicAdapterArgs& a;
  const Folded<Sum>& folded;
  const int64_t C = a.C, r = a.r, wide_stride = padded<Sum>(C), narrow_stride = padded<Sum>(r);
  std::vector<int64_t> live;  // the tile's tokens with a nonzero scale; row i belongs to live[i]
  Rows<Sum> x{a.x_dtype, a.x, C}, kept_hidden{a.compute, a.hidden, r};
  Buffer<Sum> wide = make_zeros<Sum>(kTile * wide_stride);
  Buffer<Sum> narrow = make_zeros<Sum>(kTile * narrow_stride);
  std::vector<Sum> dropout_factors = std::vector<Sum>((r + 3) / 4 * 4, 1);  // whole quads

  Steps(const DynamicAdapterArgs& args, const Folded<Sum>& folded) : a(args), folded(folded) {}

  /// [mean, 1 / deviation, scale] of a token.
  Sum* stats(int64_t token) const { return static_cast<Sum*>(a.stats) + 3 * token; }
  Sum path_factor(int64_t token) const {
    return a.path_factor ? vec<Sum>(a.path_factor)[token / a.T] : 1;
  }
  Sum* wide_row(int64_t i) const { return wide.get() + i * wide_stride; }
  Sum* narrow_row(int64_t i) const { return narrow.get() + i * narrow_stride; }

  /// The dropout factor of each hidden unit of a token, 0 where the unit is dropped.
  const Sum* draw_dropout(int64_t token) {
    Sum* to = dropout_factors.data();
    if (!a.seed) return to;
    const auto seed = uint64_t(*a.seed);
    const uint32_t low = uint32_t(token), high = uint32_t(uint64_t(token) >> 32);
    const Dropout dropout(a.dropout);
    const auto factor_of = [=, factor = Sum(dropout.factor)](uint32_t word) {
      return word >= dropout.threshold ? factor : Sum(0);
    };
    for_each((r + 3) / 4, [=](int64_t quad) {
      const Words words = philox(low, high, uint32_t(quad), seed);
      to[4 * quad] = factor_of(words.x), to[4 * quad + 1] = factor_of(words.y);
      to[4 * quad + 2] = factor_of(words.z), to[4 * quad + 3] = factor_of(words.w);
    });
    return to;
  }
};

}  // namespace dapt::cpu::DAPT_ISA
