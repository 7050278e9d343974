// DAPT's adapter on the CPU. A tile of tokens goes through all steps before the next one starts, so
// that intermediate results stay in the cache.
#include <algorithm>
#include <memory>
#include <type_traits>
#include <vector>

#include "cpu/activations.h"
#include "cpu/adapter.h"
#include "cpu/parallel.h"

namespace dapt::cpu::DAPT_ISA {
namespace {

/// Tiles of tokens of about the same size. With a prompt no tile spans two clouds, so that the mean
/// over a cloud is rounded the same way whatever the rest of the batch.
struct Tiles {
  int64_t runs, tokens, each, step;  // `runs` of `tokens`, each cut into `each` tiles of `step`

  explicit Tiles(const DynamicAdapterArgs& a)
      : runs(a.prompt_mean ? a.B : 1), tokens(a.prompt_mean ? a.T : a.B * a.T) {
    each = std::max<int64_t>(1, (tokens + kTile - 1) / kTile);
    step = (tokens + each - 1) / each;
    step = (step + kBlockRows - 1) / kBlockRows * kBlockRows;
  }

  int64_t count() const { return runs * each; }
  int64_t begin(int64_t tile) const { return tile / each * tokens + tile % each * step; }
  int64_t size(int64_t tile) const { return std::min(step, tokens - tile % each * step); }
};

/// Sums of GELU(a) over the tokens of each tile.
template <class Sum>
struct PromptSums {
  const DynamicAdapterArgs& a;
  const Tiles tiles{a};
  std::vector<Sum> sums = std::vector<Sum>(a.prompt_mean ? tiles.count() * a.C : 0);

  explicit PromptSums(const DynamicAdapterArgs& args) : a(args) {}

  Sum* of(int64_t tile) { return sums.data() + tile * a.C; }

  void finish() {
    Rows<Sum> prompt(a.out_dtype, a.prompt_mean, a.C);
    for (int64_t b = 0; b < a.B; ++b) {
      Sum* mean = prompt.open(b);
      std::fill_n(mean, a.C, Sum(0));
      for (int64_t tile = b * tiles.each; tile < (b + 1) * tiles.each; ++tile) {
        for_each(a.C, [mean, sum = of(tile)](int64_t c) { mean[c] += sum[c]; });
      }
      for_each(a.C, [mean, T = Sum(a.T)](int64_t c) { mean[c] /= T; });
      prompt.close(b);
    }
  }
};

template <class Sum, bool kPaired>
struct Forward : Steps<Sum, kPaired> {
  using Base = Steps<Sum, kPaired>;
  using Base::a, Base::C, Base::r, Base::live, Base::folded, Base::x, Base::kept_hidden;
  PromptSums<Sum>& prompt_sums;
  const Factor<Sum, kPaired>& down_weight;  // transposed
  const Factor<Sum, kPaired>& up_weight;    // transposed
  Factor<Sum, kPaired> x_hat{kTile, C, Pairs::along}, active{kTile, r, Pairs::along};
  Rows<Sum> mlp_out{a.mlp_dtype, a.mlp_out, C}, residual{a.residual_dtype, a.residual, C},
      out{a.out_dtype, a.out, C};

  Forward(const DynamicAdapterArgs& args, const Folded<Sum>& folded,
          const Factor<Sum, kPaired>& down_weight, const Factor<Sum, kPaired>& up_weight,
          PromptSums<Sum>& sums)
      : Base(args, folded), prompt_sums(sums), down_weight(down_weight), up_weight(up_weight) {}

  void tile(int64_t number) {
    const Tiles& tiles = prompt_sums.tiles;
    const int64_t first = tiles.begin(number), end = first + tiles.size(number);
    live.clear();
    for (int64_t token = first; token < end; ++token) {
      if (normalize(token)) {
        live.push_back(token);
      } else {
        pass_by(token);
      }
    }
    const int64_t rows = whole_rows(live.size());
    multiply(x_hat.left(), down_weight.right(), rows, C, r, false, this->narrow.get());
    with_activation(a.activation, [&](auto act) {
      for (size_t i = 0; i < live.size(); ++i) {
        const Sum *offset = folded.down_offset.data(), *bias = vec<Sum>(a.down_bias),
                  *kept = this->draw_dropout(live[i]);
        Sum* h = this->narrow_row(i);
        for_each(r, [=](int64_t j) { h[j] += offset[j]; });
        if (a.hidden) {
          std::copy_n(h, r, kept_hidden.open(live[i]));
          kept_hidden.close(live[i]);
        }
        Sum* y = active.open(i);
        for_each(r, [=](int64_t j) { y[j] = act(h[j] + bias[j]).value * kept[j]; });
        active.close(i);
      }
    });
    multiply(active.left(), up_weight.right(), rows, r, C, false, this->wide.get());
    for (size_t i = 0; i < live.size(); ++i) finish(this->wide_row(i), live[i], number);
  }

  /// Writes the token's statistics and, to the next row, x̂. Returns whether the adapter adds
  /// anything to the token, that is, whether its scale is not 0.
  bool normalize(int64_t token) {
    const Sum *in = x.read(token), *ws = folded.scale_weight.data();
    Sum mean = 0, rstd = 1, scale = folded.scale_bias;
    if (a.norm_weight) {
      mean = sum_over<Sum>(C, [=](int64_t c) { return in[c]; }) / C;
      const Sum sq_sum =
          sum_over<Sum>(C, [=](int64_t c) { return (in[c] - mean) * (in[c] - mean); });
      rstd = 1 / std::sqrt(sq_sum / C + Sum(a.eps));
    }
    Sum* to = x_hat.open(live.size());
#pragma omp simd reduction(+ : scale)
    for (int64_t c = 0; c < C; ++c) {
      const Sum value = (in[c] - mean) * rstd;
      to[c] = value;
      scale += ws[c] * value;
    }
    scale = !a.scale_weight ? Sum(a.static_scale) : scale < 0 ? 0 : scale;
    Sum* stat = this->stats(token);
    stat[0] = mean, stat[1] = rstd, stat[2] = scale;
    if (scale == 0) return false;
    x_hat.close(live.size());
    return true;
  }

  /// The outputs of a token whose scale is 0.
  void pass_by(int64_t token) {
    const Sum *m = mlp_out.read(token), *h = residual.read(token), path = this->path_factor(token);
    Sum* o = out.open(token);
    for_each(C, [=](int64_t c) { o[c] = h[c] + path * m[c]; });
    out.close(token);
    if (!a.hidden) return;
    std::fill_n(kept_hidden.open(token), r, Sum(0));
    kept_hidden.close(token);
  }

  void finish(const Sum* up, int64_t token, int64_t tile) {
    const Sum scale = this->stats(token)[2], path = this->path_factor(token);
    const Sum *bias = vec<Sum>(a.up_bias), *m = mlp_out.read(token), *h = residual.read(token);
    Sum* o = out.open(token);
    for_each(C, [=](int64_t c) { o[c] = h[c] + path * (m[c] + scale * (up[c] + bias[c])); });
    out.close(token);
    if (!a.prompt_mean) return;
    Sum* sum = prompt_sums.of(tile);
    for_each(C, [=](int64_t c) { sum[c] += Gelu()(scale * (up[c] + bias[c])).value; });
  }
};

/// The projections of one adapter, ready for the products.
template <class Sum, bool kPaired>
struct Projections {
  Folded<Sum> folded;
  Factor<Sum, kPaired> down_weight, up_weight;  // both transposed

  explicit Projections(const DynamicAdapterArgs& a)
      : folded(a),
        down_weight(make_factor<Sum, kPaired>(folded.down_weight, a.r, a.C, true)),
        up_weight(make_factor<Sum, kPaired>(folded.up_weight, a.C, a.r, true)) {}
};

/// Advances `data` to the `index`-th of consecutive matrices of `numbers` numbers; null stays null.
template <class Data>
void skip(Data*& data, int64_t index, int64_t numbers, int64_t size) {
  using Byte = std::conditional_t<std::is_const_v<Data>, const char, char>;
  if (data) data = static_cast<Byte*>(data) + index * numbers * size;
}

/// The arguments restricted to the weights of one adapter.
template <class Sum>
DynamicAdapterArgs of_adapter(DynamicAdapterArgs a, int64_t index) {
  const int64_t sum = sizeof(Sum), compute = element_size(a.compute);
  skip(a.norm_weight, index, a.C, sum), skip(a.norm_bias, index, a.C, sum);
  skip(a.down_weight, index, a.r * a.C, compute), skip(a.down_bias, index, a.r, sum);
  skip(a.scale_weight, index, a.C, sum), skip(a.scale_bias, index, 1, sum);
  skip(a.up_weight, index, a.C * a.r, compute), skip(a.up_bias, index, a.C, sum);
  return a;
}

/// The arguments restricted to the rows of one cloud.
template <class Sum>
DynamicAdapterArgs of_cloud(DynamicAdapterArgs a, int64_t b) {
  skip(a.x, b, a.T * a.C, element_size(a.x_dtype));
  skip(a.mlp_out, b, a.T * a.C, element_size(a.mlp_dtype));
  skip(a.residual, b, a.T * a.C, element_size(a.residual_dtype));
  skip(a.out, b, a.T * a.C, element_size(a.out_dtype));
  skip(a.prompt_mean, b, a.C, element_size(a.out_dtype));
  skip(a.stats, b, a.T * 3, sizeof(Sum));
  a.B = 1;
  return a;
}

/// Clouds that share one adapter: the whole batch, or a single cloud of it.
template <class Sum, bool kPaired>
struct Part {
  DynamicAdapterArgs args;
  const Projections<Sum, kPaired>& projections;
  PromptSums<Sum> prompt_sums{args};
};

template <class Sum, bool kPaired>
void run_forward(const DynamicAdapterArgs& a) {
  const int64_t count = a.adapters ? a.B : 1;
  std::vector<std::unique_ptr<Projections<Sum, kPaired>>> projections(a.adapters ? a.A : 1);
  std::vector<std::unique_ptr<Part<Sum, kPaired>>> parts(count);
  std::vector<DynamicAdapterArgs> own(projections.size(), a);
  std::vector<int64_t> used;
  for (int64_t b = 0; b < count; ++b) {
    const int64_t index = a.adapters ? a.adapters[b] : 0;
    if (std::find(used.begin(), used.end(), index) == used.end()) used.push_back(index);
  }
  // parallel over adapters
  parallel_for(int64_t(used.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t index = used[i];
      own[index] = of_adapter<Sum>(a, index);
      projections[index] = std::make_unique<Projections<Sum, kPaired>>(own[index]);
    }
  });
  for (int64_t b = 0; b < count; ++b) {
    const int64_t index = a.adapters ? a.adapters[b] : 0;
    const DynamicAdapterArgs args = a.adapters ? of_cloud<Sum>(own[index], b) : a;
    parts[b].reset(new Part<Sum, kPaired>{args, *projections[index]});
  }
  const int64_t tiles = parts[0]->prompt_sums.tiles.count();
  // parallel over tiles
  parallel_for(count * tiles, 1, [&](int64_t begin, int64_t end) {
    for (int64_t next = begin; next < end;) {
      Part<Sum, kPaired>& part = *parts[next / tiles];
      const DynamicAdapterArgs& own = part.args;
      Forward<Sum, kPaired> forward(own, part.projections.folded, part.projections.down_weight,
                                    part.projections.up_weight, part.prompt_sums);
      for (const int64_t last = std::min(end, (next / tiles + 1) * tiles); next < last; ++next) {
        forward.tile(next % tiles);
      }
    }
  });
  if (!a.prompt_mean) return;
  for (const auto& part : parts) part->prompt_sums.finish();
}

}  // namespace

void dynamic_adapter(const DynamicAdapterArgs& args) {
  if (args.compute == Real::f64) return run_forward<double, false>(args);
#if defined(__AVX512F__)
  if (args.compute == Real::bf16 && has_bf16_instructions()) return run_forward<float, true>(args);
#endif
  run_forward<float, false>(args);
}

}  // namespace dapt::cpu::DAPT_ISA
