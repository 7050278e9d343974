// DAPT's adapter on the CPU: a tile of tokens goes through all steps while it is in the L2 cache.
#include <algorithm>
#include <vector>

#include "cpu/activations.h"
#include "cpu/matmul.h"
#include "cpu/parallel.h"
#include "cpu/rows.h"
#include "ops.h"
#include "philox.h"

namespace dapt::cpu::DAPT_ISA {
namespace {

constexpr int64_t kTile = 128;  // tokens
constexpr int64_t kLanes = 16;  // partial sums of a parameter's gradient

/// One thread's view of the arguments, and the steps that both directions share.
template <class Sum>
struct Steps {
  const DynamicAdapterArgs& a;
  const int64_t C = a.C, r = a.r;
  Rows<Sum> x{a.x_dtype, a.x, C};
  std::vector<Sum> dropout_factors = std::vector<Sum>((r + 3) / 4 * 4, 1);  // whole quads

  explicit Steps(const DynamicAdapterArgs& args) : a(args) {}

  static const Sum* vec(const void* data) { return static_cast<const Sum*>(data); }
  Sum* stats(int64_t token) const { return static_cast<Sum*>(a.stats) + 3 * token; }
  Sum path_factor(int64_t token) const {
    return a.path_factor ? vec(a.path_factor)[token / a.T] : 1;
  }

  /// stats[token]: mean and 1 / deviation.
  void measure(int64_t token, const Sum* in) const {
    Sum* out = stats(token);
    out[0] = 0, out[1] = 1;
    if (!a.norm_weight) return;
    const Sum mean = sum_over<Sum>(C, [=](int64_t c) { return in[c]; }) / C;
    const Sum sq_sum = sum_over<Sum>(C, [=](int64_t c) { return (in[c] - mean) * (in[c] - mean); });
    out[0] = mean, out[1] = 1 / std::sqrt(sq_sum / C + Sum(a.eps));
  }

  void normalize(int64_t token, const Sum* in, Sum* z) const {
    const Sum mean = stats(token)[0], rstd = stats(token)[1];
    const Sum *w = vec(a.norm_weight), *b = vec(a.norm_bias);
    if (w) {
      for_each(C, [=](int64_t c) { z[c] = (in[c] - mean) * rstd * w[c] + b[c]; });
    } else {
      for_each(C, [=](int64_t c) { z[c] = in[c]; });
    }
  }

  /// stats[token]: the factor of the adapter's output.
  void choose_scale(int64_t token, const Sum* z) const {
    Sum scale = Sum(a.static_scale);
    if (const Sum* w = vec(a.scale_weight)) {
      scale = sum_over<Sum>(C, [=](int64_t c) { return w[c] * z[c]; }) + *vec(a.scale_bias);
      scale = scale < 0 ? 0 : scale;
    }
    stats(token)[2] = scale;
  }

  /// What each hidden unit of a token is multiplied by.
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

  void multiply_down(const void* z, void* hidden, int64_t count) const {
    matmul(a.compute, {z}, {a.down_weight, true}, hidden, count, C, r);
  }
  void multiply_up(const void* active, void* up, int64_t count) const {
    matmul(a.compute, {active}, {a.up_weight, true}, up, count, r, C);
  }
};

/// Sums of GELU(a) over runs of tokens: a token adds to piece token / kTile + token / T, so that no
/// piece spans two tiles or two clouds.
template <class Sum>
struct PromptSums {
  const DynamicAdapterArgs& a;
  std::vector<Sum> pieces;

  PromptSums(const DynamicAdapterArgs& a, int64_t tiles)
      : a(a), pieces(a.prompt_mean ? (tiles + a.B) * a.C : 0) {}

  Sum* of(int64_t token) { return pieces.data() + (token / kTile + token / a.T) * a.C; }

  void finish() const {
    Rows<Sum> prompt(a.out_dtype, a.prompt_mean, a.C);
    for (int64_t b = 0; b < a.B; ++b) {
      Sum* mean = prompt.open(b);
      std::fill_n(mean, a.C, Sum(0));
      for (int64_t p = b * a.T / kTile + b; p <= ((b + 1) * a.T - 1) / kTile + b; ++p) {
        const Sum* piece = pieces.data() + p * a.C;
        for_each(a.C, [=](int64_t c) { mean[c] += piece[c]; });
      }
      for_each(a.C, [mean, T = Sum(a.T)](int64_t c) { mean[c] /= T; });
      prompt.close(b);
    }
  }
};

template <class Sum>
struct Forward : Steps<Sum> {
  using Base = Steps<Sum>;
  using Base::a, Base::C, Base::r, Base::x, Base::vec;
  PromptSums<Sum>& prompt_sums;
  Rows<Sum> mlp_out{a.mlp_dtype, a.mlp_out, C}, residual{a.residual_dtype, a.residual, C},
      out{a.out_dtype, a.out, C}, hidden{a.compute, a.hidden, r};
  Matrix<Sum> wide{a.compute, kTile, C}, active{a.compute, kTile, r},
      unkept{a.compute, a.hidden ? 0 : kTile, r};

  Forward(const DynamicAdapterArgs& args, PromptSums<Sum>& sums) : Base(args), prompt_sums(sums) {}

  void tile(int64_t first, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      const Sum* in = x.read(first + i);
      Sum* z = wide.open(i);
      this->measure(first + i, in);
      this->normalize(first + i, in, z);
      this->choose_scale(first + i, z);
      wide.close(i);
    }
    hidden.data = a.hidden ? hidden.at(a.hidden, first) : unkept.data;
    this->multiply_down(wide.data, hidden.data, count);
    with_activation(a.activation, [&](auto act) {
      for (int64_t i = 0; i < count; ++i) {
        const Sum *h = hidden.read(i), *bias = vec(a.down_bias),
                  *kept = this->draw_dropout(first + i);
        Sum* g = active.open(i);
        for_each(r, [=](int64_t j) { g[j] = act(h[j] + bias[j]).value * kept[j]; });
        active.close(i);
      }
    });
    this->multiply_up(active.data, wide.data, count);
    for (int64_t i = 0; i < count; ++i) finish(first + i, wide.read(i));
  }

  void finish(int64_t token, const Sum* up) {
    const Sum scale = this->stats(token)[2], path = this->path_factor(token);
    const Sum *bias = vec(a.up_bias), *m = mlp_out.read(token), *h = residual.read(token);
    Sum* o = out.open(token);
    for_each(C, [=](int64_t c) { o[c] = h[c] + path * (m[c] + scale * (up[c] + bias[c])); });
    out.close(token);
    if (!a.prompt_mean) return;
    Sum* sum = prompt_sums.of(token);
    for_each(C, [=](int64_t c) { sum[c] += Gelu()(scale * (up[c] + bias[c])).value; });
  }
};

template <class Sum>
void run_forward(const DynamicAdapterArgs& a) {
  const int64_t tokens = a.B * a.T, tiles = (tokens + kTile - 1) / kTile;
  PromptSums<Sum> prompt_sums(a, tiles);
  // parallel over tiles
  parallel_for(tiles, 1, [&](int64_t begin, int64_t end) {
    Forward<Sum> forward(a, prompt_sums);
    for (int64_t tile = begin; tile < end; ++tile) {
      forward.tile(tile * kTile, std::min(kTile, tokens - tile * kTile));
    }
  });
  if (a.prompt_mean) prompt_sums.finish();
}

/// Gradients of the parameters as partial sums, one per lane. A lane is a fixed run of tiles, so
/// the order of every sum is fixed.
template <class Sum>
struct PartialSums {
  struct Part {
    Sum* out;
    int64_t offset, size;
  };
  const int64_t lanes;
  std::vector<Part> parts;
  int64_t lane_size = 0;
  std::vector<Sum> sums;

  PartialSums(const DynamicAdapterBackwardArgs& g, int64_t lanes) : lanes(lanes) {
    const int64_t C = g.forward.C, r = g.forward.r;
    const std::pair<void*, int64_t> outs[] = {{g.grad_norm_weight, C},     {g.grad_norm_bias, C},
                                              {g.grad_down_weight, r * C}, {g.grad_down_bias, r},
                                              {g.grad_scale_weight, C},    {g.grad_scale_bias, 1},
                                              {g.grad_up_weight, C * r},   {g.grad_up_bias, C}};
    for (const auto& [out, size] : outs) {
      if (!out) continue;
      parts.push_back({static_cast<Sum*>(out), lane_size, size});
      lane_size += size;
    }
    sums.resize(lanes * lane_size);
  }

  /// Where `lane` adds to a gradient, or null where that is not wanted.
  Sum* of(const void* out, int64_t lane) {
    for (const Part& part : parts)
      if (part.out == out) return sums.data() + lane * lane_size + part.offset;
    return nullptr;
  }

  void finish() const {
    for (const Part& part : parts) {
      // parallel over elements
      parallel_for(part.size, 4096, [&](int64_t begin, int64_t end) {
        Sum* to = part.out + begin;
        std::fill_n(to, end - begin, Sum(0));
        for (int64_t lane = 0; lane < lanes; ++lane) {
          const Sum* from = sums.data() + lane * lane_size + part.offset + begin;
          for_each(end - begin, [=](int64_t i) { to[i] += from[i]; });
        }
      });
    }
  }
};

template <class Sum>
struct Backward : Steps<Sum> {
  using Base = Steps<Sum>;
  using Base::a, Base::C, Base::r, Base::x, Base::vec;
  const DynamicAdapterBackwardArgs& g;
  PartialSums<Sum>& partial_sums;
  int64_t lane = 0;

  const bool wants_norm = a.norm_weight && (g.grad_norm_weight || g.grad_norm_bias);
  const bool wants_z = g.grad_x || wants_norm;
  const bool wants_scale = a.scale_weight && (wants_z || g.grad_scale_weight || g.grad_scale_bias);
  const bool wants_hidden = wants_z || wants_scale || g.grad_down_weight || g.grad_down_bias;

  Rows<Sum> grad_out{a.out_dtype, g.grad_out, C}, grad_prompt{a.out_dtype, g.grad_prompt_mean, C},
      grad_x{a.x_dtype, g.grad_x, C}, grad_mlp_out{a.mlp_dtype, g.grad_mlp_out, C},
      hidden{a.compute, a.hidden, r};
  Matrix<Sum> z{a.compute, kTile, C}, wide{a.compute, kTile, C}, grad_a{a.compute, kTile, C},
      active{a.compute, kTile, r}, scaled{a.compute, kTile, r}, grad_hidden{a.compute, kTile, r},
      unkept{a.compute, a.hidden ? 0 : kTile, r};
  Matrix<Sum> up_product{a.compute, g.grad_up_weight ? C : 0, r},
      down_product{a.compute, g.grad_down_weight ? r : 0, C};
  std::vector<Sum> slopes = std::vector<Sum>(kTile * r);  // d hidden / d (up product)
  std::vector<Sum> grad_scales = std::vector<Sum>(kTile), grad_z = std::vector<Sum>(C);

  Backward(const DynamicAdapterBackwardArgs& args, PartialSums<Sum>& sums)
      : Base(args.forward), g(args), partial_sums(sums) {}

  Sum* sum_of(const void* out) { return partial_sums.of(out, lane); }

  void tile(int64_t first, int64_t count) {
    recompute(first, count);
    for (int64_t i = 0; i < count; ++i) pass_output(i, first + i);
    if (Sum* sum = sum_of(g.grad_up_weight)) add_product(sum, grad_a, scaled, up_product, count);
    if (!wants_hidden) return;
    matmul(a.compute, {grad_a.data}, {a.up_weight}, grad_hidden.data, count, C, r);
    for (int64_t i = 0; i < count; ++i) pass_hidden(i, first + i);
    if (Sum* sum = sum_of(g.grad_down_weight))
      add_product(sum, grad_hidden, z, down_product, count);
    if (!wants_z) return;
    matmul(a.compute, {grad_hidden.data}, {a.down_weight}, wide.data, count, r, C);
    for (int64_t i = 0; i < count; ++i) pass_input(i, first + i);
  }

  /// The forward's rows: z, hidden, active and, for the prompt, the up product in `wide`.
  void recompute(int64_t first, int64_t count) {
    if (!a.hidden || g.grad_down_weight || g.grad_scale_weight) {
      for (int64_t i = 0; i < count; ++i) {
        this->normalize(first + i, x.read(first + i), z.open(i));
        z.close(i);
      }
    }
    hidden.data = a.hidden ? hidden.at(a.hidden, first) : unkept.data;
    if (!a.hidden) this->multiply_down(z.data, unkept.data, count);
    with_activation(a.activation, [&](auto act) {
      for (int64_t i = 0; i < count; ++i) {
        const Sum scale = this->stats(first + i)[2];
        const Sum *h = hidden.read(i), *bias = vec(a.down_bias),
                  *kept = this->draw_dropout(first + i);
        Sum *y = active.open(i), *sy = scaled.open(i), *slope = slopes.data() + i * r;
        for_each(r, [=](int64_t j) {
          const ValueSlope<Sum> at = act(h[j] + bias[j]);
          y[j] = at.value * kept[j];
          sy[j] = scale * y[j];
          slope[j] = scale * at.slope * kept[j];
        });
        active.close(i);
        scaled.close(i);
      }
    });
    if (g.grad_prompt_mean) this->multiply_up(active.data, wide.data, count);
  }

  /// From the outputs to a.
  void pass_output(int64_t i, int64_t token) {
    const Sum scale = this->stats(token)[2], path = this->path_factor(token);
    const Sum *d = grad_out.read(token), *bias = vec(a.up_bias);
    Sum* da = grad_a.open(i);
    for_each(C, [=](int64_t c) { da[c] = path * d[c]; });
    if (g.grad_mlp_out) {
      std::copy_n(da, C, grad_mlp_out.open(token));
      grad_mlp_out.close(token);
    }
    if (g.grad_prompt_mean) {
      const Sum *up = wide.read(i), *dp = grad_prompt.read(token / a.T), share = Sum(1) / a.T;
      for_each(
          C, [=](int64_t c) { da[c] += Gelu()(scale * (up[c] + bias[c])).slope * dp[c] * share; });
    }
    grad_scales[i] = sum_over<Sum>(C, [=](int64_t c) { return da[c] * bias[c]; });
    if (Sum* sum = sum_of(g.grad_up_bias)) {
      for_each(C, [=](int64_t c) { sum[c] += scale * da[c]; });
    }
    grad_a.close(i);
  }

  /// From the up product's hidden row to the down product and the scale. The gradient of the scale
  /// is a's product with `up`, and that is the product of the hidden rows on the other side.
  void pass_hidden(int64_t i, int64_t token) {
    const Sum *y = active.read(i), *dy = grad_hidden.read(i), *slope = slopes.data() + i * r;
    Sum& grad_scale = grad_scales[i];
    grad_scale += sum_over<Sum>(r, [=](int64_t j) { return y[j] * dy[j]; });
    if (!wants_scale || !(this->stats(token)[2] > 0)) grad_scale = 0;
    Sum* dh = grad_hidden.open(i);
    for_each(r, [=](int64_t j) { dh[j] = dy[j] * slope[j]; });
    if (Sum* sum = sum_of(g.grad_down_bias)) {
      for_each(r, [=](int64_t j) { sum[j] += dh[j]; });
    }
    grad_hidden.close(i);
    if (Sum* sum = sum_of(g.grad_scale_bias)) *sum += grad_scale;
    if (Sum* sum = sum_of(g.grad_scale_weight)) {
      for_each(C, [sum, grad_scale, in = z.read(i)](int64_t c) { sum[c] += grad_scale * in[c]; });
    }
  }

  /// From z to x through the norm.
  void pass_input(int64_t i, int64_t token) {
    const Sum mean = this->stats(token)[0], rstd = this->stats(token)[1];
    const Sum *in = x.read(token), *from = wide.read(i), *w = vec(a.norm_weight);
    Sum* dz = grad_z.data();
    std::copy_n(from, C, dz);
    if (wants_scale) {
      for_each(C, [dz, ds = grad_scales[i], ws = vec(a.scale_weight)](int64_t c) {
        dz[c] += ds * ws[c];
      });
    }
    const auto x_hat = [=](int64_t c) { return (in[c] - mean) * rstd; };
    if (Sum* sum = sum_of(g.grad_norm_weight)) {
      for_each(C, [=](int64_t c) { sum[c] += dz[c] * x_hat(c); });
    }
    if (Sum* sum = sum_of(g.grad_norm_bias)) {
      for_each(C, [=](int64_t c) { sum[c] += dz[c]; });
    }
    if (!g.grad_x) return;
    Sum* dx = grad_x.open(token);
    if (w) {
      const Sum level = sum_over<Sum>(C, [=](int64_t c) { return dz[c] * w[c]; }) / C;
      const Sum tilt = sum_over<Sum>(C, [=](int64_t c) { return dz[c] * w[c] * x_hat(c); }) / C;
      for_each(C, [=](int64_t c) { dx[c] = rstd * (dz[c] * w[c] - level - x_hat(c) * tilt); });
    } else {
      std::copy_n(dz, C, dx);
    }
    grad_x.close(token);
  }

  /// sum += left^T · right over the rows of a tile.
  void add_product(Sum* sum, Rows<Sum>& left, Rows<Sum>& right, Rows<Sum>& product, int64_t count) {
    matmul(a.compute, {left.data, true}, {right.data}, product.data, left.cols, count, right.cols);
    for (int64_t row = 0; row < left.cols; ++row) {
      const Sum* from = product.read(row);
      Sum* to = sum + row * right.cols;
      for_each(right.cols, [=](int64_t c) { to[c] += from[c]; });
    }
  }
};

template <class Sum>
void run_backward(const DynamicAdapterBackwardArgs& g) {
  const int64_t tokens = g.forward.B * g.forward.T, tiles = (tokens + kTile - 1) / kTile;
  const int64_t lanes = std::min(kLanes, tiles);
  PartialSums<Sum> partial_sums(g, lanes);
  // parallel over lanes
  parallel_for(lanes, 1, [&](int64_t begin, int64_t end) {
    Backward<Sum> backward(g, partial_sums);
    for (int64_t lane = begin; lane < end; ++lane) {
      backward.lane = lane;
      for (int64_t tile = lane * tiles / lanes; tile < (lane + 1) * tiles / lanes; ++tile) {
        backward.tile(tile * kTile, std::min(kTile, tokens - tile * kTile));
      }
    }
  });
  partial_sums.finish();
}

}  // namespace

void dynamic_adapter(const DynamicAdapterArgs& args) {
  args.compute == Real::f64 ? run_forward<double>(args) : run_forward<float>(args);
}

void dynamic_adapter_backward(const DynamicAdapterBackwardArgs& args) {
  args.forward.compute == Real::f64 ? run_backward<double>(args) : run_backward<float>(args);
}

}  // namespace dapt::cpu::DAPT_ISA
