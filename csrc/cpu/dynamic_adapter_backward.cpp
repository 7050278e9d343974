// The backward of DAPT's adapter on the CPU.
#include <algorithm>
#include <bit>
#include <utility>
#include <vector>

#include "cpu/activations.h"
#include "cpu/adapter.h"
#include "cpu/parallel.h"

namespace dapt::cpu::DAPT_ISA {
namespace {

/// Sums over tokens from which the parameters' gradients follow. Each lane sums a fixed run of
/// tiles, so the order of every sum is fixed. dh and ds are the gradients of a hidden row and of
/// the scale, both before their activations.
template <class Sum>
struct TokenSums {
  const DynamicAdapterBackwardArgs& g;
  const int64_t C = g.forward.C, r = g.forward.r;
  const int64_t wide_stride = padded<Sum>(C), narrow_stride = padded<Sum>(r);
  const int64_t lanes =
      std::bit_floor(uint64_t(std::clamp<int64_t>(tile_count(g.forward) / 4, 1, 32)));
  const bool wants_down = g.grad_down_weight || g.grad_norm_weight;

  struct Lane {
    Sum* up_weight;   // [C, padded r], or null if it is not wanted
    Sum* up_bias;     // [C]
    Sum* down;        // [r, padded C]: dh x̂, or null if it is not wanted
    Sum* down_bias;   // [r]: dh
    Sum* scale;       // [C]: ds x̂
    Sum* scale_bias;  // [1]: ds
  };
  const int64_t up_size = g.grad_up_weight ? C * narrow_stride : 0;
  const int64_t down_size = wants_down ? r * wide_stride : 0;
  const int64_t lane_size = up_size + C + down_size + r + C + 1;
  Buffer<Sum> memory = make_buffer<Sum>(lanes * lane_size);

  explicit TokenSums(const DynamicAdapterBackwardArgs& args) : g(args) {}

  Lane lane(int64_t index) const {
    Sum* at = memory.get() + index * lane_size;
    const auto take = [&at](int64_t size) { return std::exchange(at, at + size); };
    Lane lane;
    lane.up_weight = take(up_size), lane.up_bias = take(C);
    lane.down = take(down_size), lane.down_bias = take(r);
    lane.scale = take(C), lane.scale_bias = take(1);
    if (!up_size) lane.up_weight = nullptr;
    if (!down_size) lane.down = nullptr;
    return lane;
  }

  Lane start(int64_t index) const {
    std::fill_n(memory.get() + index * lane_size, lane_size, Sum(0));
    return lane(index);
  }

  void finish() const {
    // parallel over the elements of a lane
    parallel_for(lane_size, 4096, [&](int64_t begin, int64_t end) {
      Sum* to = memory.get();
      for (int64_t lane = 1; lane < lanes; ++lane) {
        const Sum* from = memory.get() + lane * lane_size;
        for_each(end - begin, [=](int64_t i) { to[begin + i] += from[begin + i]; });
      }
    });
    write_gradients(lane(0));
  }

  void write_gradients(const Lane& sum) const {
    const DynamicAdapterArgs& a = g.forward;
    const std::vector<Sum> ones(C, 1), zeros(C);
    const Sum* w = a.norm_weight ? vec<Sum>(a.norm_weight) : ones.data();
    const Sum* b = a.norm_bias ? vec<Sum>(a.norm_bias) : zeros.data();
    const Sum* ws = a.scale_weight ? vec<Sum>(a.scale_weight) : zeros.data();
    const Sum ds = *sum.scale_bias;
    const auto copy = [](const Sum* from, int64_t size, void* to) {
      if (to) std::copy_n(from, size, static_cast<Sum*>(to));
    };
    if (auto* to = static_cast<Sum*>(g.grad_up_weight)) {
      for (int64_t c = 0; c < C; ++c) copy(sum.up_weight + c * narrow_stride, r, to + c * r);
    }
    copy(sum.up_bias, C, g.grad_up_bias);
    copy(sum.down_bias, r, g.grad_down_bias);
    copy(sum.scale_bias, 1, g.grad_scale_bias);
    if (auto* to = static_cast<Sum*>(g.grad_scale_weight)) {
      for_each(C, [=](int64_t c) { to[c] = sum.scale[c] * w[c] + ds * b[c]; });
    }
    auto* weight = static_cast<Sum*>(g.grad_norm_weight);
    auto* bias = static_cast<Sum*>(g.grad_norm_bias);
    if (weight) for_each(C, [=](int64_t c) { weight[c] = sum.scale[c] * ws[c]; });
    if (bias) for_each(C, [=](int64_t c) { bias[c] = ds * ws[c]; });
    Rows<Sum> down_weight(a.compute, a.down_weight, C);
    for (int64_t j = 0; j < r; ++j) {
      const Sum *row = down_weight.read(j), dh = sum.down_bias[j];
      if (bias) for_each(C, [=](int64_t c) { bias[c] += row[c] * dh; });
      if (!sum.down) continue;
      const Sum* hat = sum.down + j * wide_stride;
      if (weight) for_each(C, [=](int64_t c) { weight[c] += row[c] * hat[c]; });
      if (auto* to = static_cast<Sum*>(g.grad_down_weight)) {
        for_each(C, [=, to = to + j * C](int64_t c) { to[c] = hat[c] * w[c] + dh * b[c]; });
      }
    }
  }
};

template <class Sum, bool kPaired>
struct Weights {  // as right factors
  Factor<Sum, kPaired> up, down, up_transposed, down_transposed;

  Weights(const DynamicAdapterBackwardArgs& g, const Folded<Sum>& folded) {
    const int64_t C = g.forward.C, r = g.forward.r;
    up = make_factor<Sum, kPaired>(folded.up_weight, C, r, false);
    down = make_factor<Sum, kPaired>(folded.down_weight, r, C, false);
    up_transposed = make_factor<Sum, kPaired>(folded.up_weight, C, r, true);
    down_transposed = make_factor<Sum, kPaired>(folded.down_weight, r, C, true);
  }
};

template <class Sum, bool kPaired>
struct Backward : Steps<Sum, kPaired> {
  using Base = Steps<Sum, kPaired>;
  using Base::a, Base::C, Base::r, Base::live, Base::folded, Base::x, Base::kept_hidden;
  const DynamicAdapterBackwardArgs& g;
  const Weights<Sum, kPaired>& weights;
  typename TokenSums<Sum>::Lane sum;

  const bool wants_norm = a.norm_weight && (g.grad_norm_weight || g.grad_norm_bias);
  const bool wants_scale =
      a.scale_weight && (g.grad_x || wants_norm || g.grad_scale_weight || g.grad_scale_bias);
  const bool wants_hidden =
      g.grad_x || wants_norm || wants_scale || g.grad_down_weight || g.grad_down_bias;

  Rows<Sum> grad_out{a.out_dtype, g.grad_out, C}, grad_prompt{a.out_dtype, g.grad_prompt_mean, C},
      grad_x{a.x_dtype, g.grad_x, C}, grad_mlp_out{a.mlp_dtype, g.grad_mlp_out, C};
  Factor<Sum, kPaired> x_hat{kTile, C, a.hidden ? Pairs::across : Pairs::both},
      grad_a{kTile, C, Pairs::both}, active{kTile, r, Pairs::along},
      scaled{kTile, r, Pairs::across}, grad_hidden{kTile, r, Pairs::both};
  std::vector<Sum> values = std::vector<Sum>(kTile * r);  // the active rows
  std::vector<Sum> slopes = std::vector<Sum>(kTile * r);  // d hidden / d (up product)
  std::vector<Sum> grad_scales = std::vector<Sum>(kTile), grad_x_hat = std::vector<Sum>(C);

  Backward(const DynamicAdapterBackwardArgs& args, const Folded<Sum>& folded,
           const Weights<Sum, kPaired>& weights)
      : Base(args.forward, folded), g(args), weights(weights) {}

  void tile(int64_t first, int64_t count) {
    live.clear();
    for (int64_t token = first; token < first + count; ++token) {
      if (g.grad_mlp_out) pass_to_mlp(token);
      if (this->stats(token)[2] != 0) {
        live.push_back(token);
      } else if (g.grad_x) {
        std::fill_n(grad_x.open(token), C, Sum(0));
        grad_x.close(token);
      }
    }
    const int64_t tokens = live.size(), rows = whole_rows(tokens);
    recompute(rows);
    for (int64_t i = 0; i < tokens; ++i) pass_output(i, live[i]);
    if (sum.up_weight) {
      multiply(grad_a.left_transposed(), scaled.right(), C, tokens, r, true, sum.up_weight);
    }
    if (!wants_hidden) return;
    multiply(grad_a.left(), weights.up.right(), rows, C, r, false, this->narrow.get());
    for (int64_t i = 0; i < tokens; ++i) pass_hidden(i);
    if (sum.down) {
      multiply(grad_hidden.left_transposed(), x_hat.right(), r, tokens, C, true, sum.down);
    }
    if (!g.grad_x && !wants_scale) return;
    multiply(grad_hidden.left(), weights.down.right(), rows, r, C, false, this->wide.get());
    for (int64_t i = 0; i < tokens; ++i) pass_input(i, live[i]);
  }

  void pass_to_mlp(int64_t token) {
    const Sum *d = grad_out.read(token), path = this->path_factor(token);
    Sum* dm = grad_mlp_out.open(token);
    for_each(C, [=](int64_t c) { dm[c] = path * d[c]; });
    grad_mlp_out.close(token);
  }

  /// Recomputes the forward's rows: x̂, hidden, active and, for the prompt, the up product in
  /// `wide`.
  void recompute(int64_t rows) {
    if (!a.hidden || sum.down) {
      for (size_t i = 0; i < live.size(); ++i) {
        const Sum *in = x.read(live[i]), mean = this->stats(live[i])[0],
                  rstd = this->stats(live[i])[1];
        Sum* to = x_hat.open(i);
        for_each(C, [=](int64_t c) { to[c] = (in[c] - mean) * rstd; });
        x_hat.close(i);
      }
    }
    if (!a.hidden) {
      multiply(x_hat.left(), weights.down_transposed.right(), rows, C, r, false,
               this->narrow.get());
    }
    with_activation(a.activation, [&](auto act) {
      for (size_t i = 0; i < live.size(); ++i) {
        const Sum *bias = vec<Sum>(a.down_bias), *offset = folded.down_offset.data(),
                  *kept = this->draw_dropout(live[i]), scale = this->stats(live[i])[2];
        const Sum* h = a.hidden ? kept_hidden.read(live[i]) : this->narrow_row(i);
        if (!a.hidden) {
          for_each(r, [=, to = this->narrow_row(i)](int64_t j) { to[j] += offset[j]; });
        }
        Sum *y = active.open(i), *sy = scaled.open(i), *value = values.data() + i * r,
            *slope = slopes.data() + i * r;
        for_each(r, [=](int64_t j) {
          const ValueSlope<Sum> at = act(h[j] + bias[j]);
          value[j] = y[j] = at.value * kept[j];
          sy[j] = scale * at.value * kept[j];
          slope[j] = scale * at.slope * kept[j];
        });
        active.close(i);
        scaled.close(i);
      }
    });
    if (g.grad_prompt_mean) {
      multiply(active.left(), weights.up_transposed.right(), rows, r, C, false, this->wide.get());
    }
  }

  /// Propagates the gradient from the outputs to a.
  void pass_output(int64_t i, int64_t token) {
    const Sum scale = this->stats(token)[2], path = this->path_factor(token);
    const Sum *d = grad_out.read(token), *bias = vec<Sum>(a.up_bias);
    Sum* da = grad_a.open(i);
    if (g.grad_prompt_mean) {
      const Sum *up = this->wide_row(i), *dp = grad_prompt.read(token / a.T), share = Sum(1) / a.T;
      for_each(C, [=](int64_t c) {
        da[c] = path * d[c] + share * dp[c] * Gelu()(scale * (up[c] + bias[c])).slope;
      });
    } else {
      for_each(C, [=](int64_t c) { da[c] = path * d[c]; });
    }
    Sum grad_scale = 0, *up_bias = sum.up_bias;
#pragma omp simd reduction(+ : grad_scale)
    for (int64_t c = 0; c < C; ++c) {
      up_bias[c] += scale * da[c];
      grad_scale += bias[c] * da[c];
    }
    grad_scales[i] = grad_scale;
    grad_a.close(i);
  }

  /// Propagates it from the active row to the down product and to the scale. The scale's gradient
  /// is the inner product of a's gradient with the up projection's output: pass_output has added
  /// the share of `up_bias`; the rest is an inner product of hidden rows.
  void pass_hidden(int64_t i) {
    const Sum *y = values.data() + i * r, *dy = this->narrow_row(i), *slope = slopes.data() + i * r;
    Sum *dh = grad_hidden.open(i), *down_bias = sum.down_bias, grad_scale = grad_scales[i];
#pragma omp simd reduction(+ : grad_scale)
    for (int64_t j = 0; j < r; ++j) {
      grad_scale += y[j] * dy[j];
      dh[j] = dy[j] * slope[j];
      down_bias[j] += dh[j];
    }
    grad_hidden.close(i);
    grad_scales[i] = wants_scale ? grad_scale : 0;
    *sum.scale_bias += grad_scales[i];
  }

  /// Propagates it from x̂ to x.
  void pass_input(int64_t i, int64_t token) {
    const Sum mean = this->stats(token)[0], rstd = this->stats(token)[1], ds = grad_scales[i];
    const Sum *in = x.read(token), *from = this->wide_row(i), *ws = folded.scale_weight.data();
    Sum *d = grad_x_hat.data(), *scale = sum.scale, level = 0, tilt = 0;
#pragma omp simd reduction(+ : level, tilt)
    for (int64_t c = 0; c < C; ++c) {
      const Sum value = (in[c] - mean) * rstd;
      d[c] = from[c] + ds * ws[c];
      level += d[c];
      tilt += d[c] * value;
      scale[c] += ds * value;
    }
    if (!g.grad_x) return;
    level = a.norm_weight ? level / C : 0, tilt = a.norm_weight ? tilt / C : 0;
    Sum* dx = grad_x.open(token);
    for_each(C, [=](int64_t c) { dx[c] = rstd * (d[c] - level - (in[c] - mean) * rstd * tilt); });
    grad_x.close(token);
  }
};

template <class Sum, bool kPaired>
void run_backward(const DynamicAdapterBackwardArgs& g) {
  const DynamicAdapterArgs& a = g.forward;
  const Folded<Sum> folded(a);
  const Weights<Sum, kPaired> weights(g, folded);
  TokenSums<Sum> sums(g);
  const int64_t tiles = tile_count(a), lanes = sums.lanes;
  // parallel over lanes
  parallel_for(lanes, 1, [&](int64_t begin, int64_t end) {
    Backward<Sum, kPaired> backward(g, folded, weights);
    for (int64_t lane = begin; lane < end; ++lane) {
      backward.sum = sums.start(lane);
      for (int64_t tile = lane * tiles / lanes; tile < (lane + 1) * tiles / lanes; ++tile) {
        backward.tile(tile * kTile, std::min(kTile, a.B * a.T - tile * kTile));
      }
    }
  });
  sums.finish();
}

}  // namespace

void dynamic_adapter_backward(const DynamicAdapterBackwardArgs& args) {
  if (args.forward.compute == Real::f64) return run_backward<double, false>(args);
#if defined(__AVX512F__)
  if (args.forward.compute == Real::bf16 && has_bf16_instructions()) {
    return run_backward<float, true>(args);
  }
#endif
  run_backward<float, false>(args);
}

}  // namespace dapt::cpu::DAPT_ISA
