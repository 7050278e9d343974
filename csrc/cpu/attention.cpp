// Attention and its gradient on the CPU, one head of one cloud at a time. Its keys and values are
// few enough to stay in the cache. Queries are processed in tiles, and only one tile's scores
// [queries, T] exist at any time; the backward recomputes the softmax from the stored log-sum-exp.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "cpu/activations.h"
#include "cpu/gemm.h"
#include "cpu/parallel.h"

namespace dapt::cpu::DAPT_ISA {
namespace {

constexpr int64_t kTile = 96;  // queries, a multiple of kBlockRows

enum Part { q, k, v };

template <class Sum>
constexpr Real kReal = std::is_same_v<Sum, double> ? Real::f64 : Real::f32;

template <class Sum>
void read(Real dtype, const void* data, int64_t offset, int64_t count, Sum factor, Sum* to) {
  const char* from = static_cast<const char*>(data) + offset * element_size(dtype);
  if (dtype == kReal<Sum>) {
    for_each(count, [=, from = reinterpret_cast<const Sum*>(from)](int64_t i) {
      to[i] = factor * from[i];
    });
  } else {
    convert_from(dtype, from, count, to);
    for_each(count, [=](int64_t i) { to[i] *= factor; });
  }
}

template <class Sum>
void write(Real dtype, const Sum* from, int64_t count, void* data, int64_t offset) {
  char* to = static_cast<char*>(data) + offset * element_size(dtype);
  if constexpr (std::is_same_v<Sum, float>) {
    if (dtype != Real::f32) return convert_to(dtype, from, count, to);
  }
  std::copy_n(from, count, reinterpret_cast<Sum*>(to));
}

/// One thread's view of the arguments, and the steps that both directions share.
template <class Sum, bool kPaired>
struct Head {
  const AttentionArgs& a;
  const int64_t T = a.T, D = a.D, C = a.H * a.D, scores_stride = padded<Sum>(T),
                head_stride = padded<Sum>(D);
  const Sum scale = 1 / std::sqrt(Sum(D));
  Buffer<Sum> transposed = make_zeros<Sum>(D * padded<Sum>(T));
  Buffer<Sum> few = make_zeros<Sum>(kLanesOf<Sum> * D);
  Factor<Sum, kPaired> keys_transposed{D, T, Pairs::across};
  Buffer<Sum> scores = make_zeros<Sum>(kTile * scores_stride);
  int64_t b = 0, h = 0;

  explicit Head(const AttentionArgs& args) : a(args) {}

  int64_t at(int64_t t, Part part) const { return ((b * T + t) * 3 + part) * C + h * D; }
  int64_t at_out(int64_t t) const { return (b * T + t) * C + h * D; }
  Sum* log_sum() const { return static_cast<Sum*>(a.log_sum) + (b * a.H + h) * T; }

  /// Columns of `part` as rows of a right factor, one vector's worth of tokens at a time.
  void load_transposed(Part part, Factor<Sum, kPaired>& to) {
    constexpr int64_t kFew = kLanesOf<Sum>;
    for (int64_t first = 0; first < T; first += kFew) {
      const int64_t count = std::min(kFew, T - first);
      for (int64_t i = 0; i < count; ++i) {
        read(a.dtype, a.qkv, at(first + i, part), D, Sum(1), few.get() + i * D);
      }
      for (int64_t d = 0; d < D; ++d) {
        Sum* row = transposed.get() + d * scores_stride + first;
        for (int64_t i = 0; i < kFew; ++i) row[i] = few[i * D + d];
      }
    }
    for (int64_t d = 0; d < D; ++d) {
      std::copy_n(transposed.get() + d * scores_stride, T, to.open(d));
      to.close(d);
    }
  }

  void load(Part part, int64_t first, int64_t count, Sum factor, Factor<Sum, kPaired>& to) {
    for (int64_t i = 0; i < count; ++i) {
      read(a.dtype, a.qkv, at(first + i, part), D, factor, to.open(i));
      to.close(i);
    }
  }
};

template <class Sum, bool kPaired>
struct Forward : Head<Sum, kPaired> {
  using Base = Head<Sum, kPaired>;
  using Base::a, Base::T, Base::D, Base::scores, Base::scores_stride;
  Factor<Sum, kPaired> values{T, D, Pairs::across}, queries{kTile, D, Pairs::along},
      shares{kTile, T, Pairs::along};
  Buffer<Sum> mixed = make_zeros<Sum>(kTile * this->head_stride);

  explicit Forward(const AttentionArgs& args) : Base(args) {}

  void head(int64_t b, int64_t h) {
    this->b = b, this->h = h;
    this->load_transposed(k, this->keys_transposed);
    this->load(v, 0, T, Sum(1), values);
    for (int64_t first = 0; first < T; first += kTile) tile(first, std::min(kTile, T - first));
  }

  void tile(int64_t first, int64_t count) {
    const int64_t rows = whole_rows(count);
    this->load(q, first, count, this->scale, queries);
    multiply(queries.left(), this->keys_transposed.right(), rows, D, T, false, scores.get());
    std::vector<Sum> sums(count);
    for (int64_t i = 0; i < count; ++i) {
      const Sum* score = scores.get() + i * scores_stride;
      Sum most = -std::numeric_limits<Sum>::infinity(), sum = 0, total = 0;
#pragma omp simd reduction(max : most) reduction(+ : total)
      for (int64_t t = 0; t < T; ++t) {
        most = std::max(most, score[t]);
        total += score[t];
      }
      Sum* share = shares.open(i);
#pragma omp simd reduction(+ : sum)
      for (int64_t t = 0; t < T; ++t) {
        const Sum e = decay(most - score[t]);
        share[t] = e;
        sum += e;
      }
      shares.close(i);
      sum += total - total;  // a NaN or infinite score makes the result of its query NaN
      sums[i] = sum;
      this->log_sum()[first + i] = most + std::log(sum);
    }
    multiply(shares.left(), values.right(), rows, T, D, false, mixed.get());
    for (int64_t i = 0; i < count; ++i) {
      Sum* row = mixed.get() + i * this->head_stride;
      for_each(D, [=, over = 1 / sums[i]](int64_t d) { row[d] *= over; });
      write(a.dtype, row, D, a.out, this->at_out(first + i));
    }
  }
};

template <class Sum, bool kPaired>
struct Backward : Head<Sum, kPaired> {
  using Base = Head<Sum, kPaired>;
  using Base::a, Base::T, Base::D, Base::scores, Base::scores_stride, Base::head_stride;
  const AttentionBackwardArgs& backward;
  Factor<Sum, kPaired> values_transposed{D, T, Pairs::across}, keys{T, D, Pairs::across},
      queries{kTile, D, Pairs::both}, grad_out{kTile, D, Pairs::both},
      shares{kTile, T, Pairs::across}, grad_scores{kTile, T, Pairs::both};
  Buffer<Sum> grad_shares = make_zeros<Sum>(kTile * scores_stride);
  Buffer<Sum> grad_q = make_zeros<Sum>(kTile * head_stride);
  Buffer<Sum> grad_k = make_zeros<Sum>(whole_rows(T) * head_stride);
  Buffer<Sum> grad_v = make_zeros<Sum>(whole_rows(T) * head_stride);

  explicit Backward(const AttentionBackwardArgs& args) : Base(args.forward), backward(args) {}

  void head(int64_t b, int64_t h) {
    this->b = b, this->h = h;
    this->load_transposed(k, this->keys_transposed);
    this->load_transposed(v, values_transposed);
    this->load(k, 0, T, this->scale, keys);
    for (int64_t first = 0; first < T; first += kTile) tile(first, std::min(kTile, T - first));
    for (int64_t t = 0; t < T; ++t) {
      write(a.dtype, grad_k.get() + t * head_stride, D, backward.grad_qkv, this->at(t, k));
      write(a.dtype, grad_v.get() + t * head_stride, D, backward.grad_qkv, this->at(t, v));
    }
  }

  void tile(int64_t first, int64_t count) {
    const int64_t rows = whole_rows(count);
    this->load(q, first, count, this->scale, queries);
    std::vector<Sum> out(D), inner(count);  // inner: the product of out and its gradient
    for (int64_t i = 0; i < count; ++i) {
      Sum* grad = grad_out.open(i);
      read(a.dtype, backward.grad_out, this->at_out(first + i), D, Sum(1), grad);
      read(a.dtype, a.out, this->at_out(first + i), D, Sum(1), out.data());
      inner[i] = sum_over<Sum>(D, [grad, o = out.data()](int64_t d) { return grad[d] * o[d]; });
      grad_out.close(i);
    }
    multiply(queries.left(), this->keys_transposed.right(), rows, D, T, false, scores.get());
    multiply(grad_out.left(), values_transposed.right(), rows, D, T, false, grad_shares.get());
    for (int64_t i = 0; i < count; ++i) {
      const Sum *score = scores.get() + i * scores_stride,
                *grad_share = grad_shares.get() + i * scores_stride;
      Sum *share = shares.open(i), *grad_score = grad_scores.open(i);
      const Sum log_sum = this->log_sum()[first + i], mean = inner[i];
      for_each(T, [=](int64_t t) {
        const Sum p = decay(std::max(log_sum - score[t], Sum(0)));
        share[t] = p;
        grad_score[t] = p * (grad_share[t] - mean);
      });
      shares.close(i);
      grad_scores.close(i);
    }
    const bool add = first > 0;
    multiply(grad_scores.left(), keys.right(), rows, T, D, false, grad_q.get());
    multiply(grad_scores.left_transposed(), queries.right(), whole_rows(T), count, D, add,
             grad_k.get());
    multiply(shares.left_transposed(), grad_out.right(), whole_rows(T), count, D, add,
             grad_v.get());
    for (int64_t i = 0; i < count; ++i) {
      write(a.dtype, grad_q.get() + i * head_stride, D, backward.grad_qkv, this->at(first + i, q));
    }
  }
};

template <class Worker, class Args>
void run(const Args& args, const AttentionArgs& sizes) {
  // parallel over heads
  parallel_for(sizes.B * sizes.H, 1, [&](int64_t begin, int64_t end) {
    Worker worker(args);
    for (int64_t i = begin; i < end; ++i) worker.head(i / sizes.H, i % sizes.H);
  });
}

template <template <class, bool> class Worker, class Args>
void choose(const Args& args, const AttentionArgs& sizes) {
  if (sizes.dtype == Real::f64) return run<Worker<double, false>>(args, sizes);
#if defined(__AVX512F__)
  if (sizes.dtype == Real::bf16 && has_bf16_instructions()) {
    return run<Worker<float, true>>(args, sizes);
  }
#endif
  run<Worker<float, false>>(args, sizes);
}

}  // namespace

void attention(const AttentionArgs& args) { choose<Forward>(args, args); }
void attention_backward(const AttentionBackwardArgs& args) { choose<Backward>(args, args.forward); }

}  // namespace dapt::cpu::DAPT_ISA
