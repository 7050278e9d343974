// Folding a scale and a shift into a frozen layer, and the sums over tokens for their gradients, on
// the CPU.
#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/parallel.h"
#include "cpu/rows.h"
#include "ops.h"

namespace dapt::cpu::DAPT_ISA {
namespace {

constexpr int64_t kGrain = 32768;  // elements of a weight that are worth another thread

template <class Sum>
void fold(const ScaleShiftFoldArgs& a) {
  const auto *scale = static_cast<const Sum*>(a.scale), *shift = static_cast<const Sum*>(a.shift);
  const auto* bias = static_cast<const Sum*>(a.bias);
  // parallel over rows
  parallel_for(a.C, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, a.D)),
               [&](int64_t begin, int64_t end) {
                 Rows<Sum> weight(a.weight_dtype, a.weight, a.D), folded(a.dtype, a.folded, a.D);
                 for (int64_t row = begin; row < end; ++row) {
                   const Sum *from = weight.read(row), by = scale[row];
                   Sum* to = folded.open(row);
                   for_each(a.D, [=](int64_t i) { to[i] = by * from[i]; });
                   folded.close(row);
                 }
               });
  if (!a.offset) return;
  Rows<Sum> offset(a.dtype, a.offset, a.C);
  Sum* to = offset.open(0);
  for_each(a.C, [=](int64_t c) { to[c] = bias ? scale[c] * bias[c] + shift[c] : shift[c]; });
  offset.close(0);
}

template <class Sum>
void fold_grad(const ScaleShiftFoldGradArgs& a) {
  const auto* grad_offset = static_cast<const Sum*>(a.grad_offset);
  const auto* bias = static_cast<const Sum*>(a.bias);
  auto* grad_scale = static_cast<Sum*>(a.grad_scale);
  Rows<Sum> weight(a.weight_dtype, a.weight, a.D);
  for (int64_t row = 0; row < a.C; ++row) {
    const Sum *w = weight.read(row), *grad = static_cast<const Sum*>(a.grad_folded) + row * a.D;
    const Sum sum = sum_over<Sum>(a.D, [=](int64_t i) { return grad[i] * w[i]; });
    grad_scale[row] = bias ? sum + grad_offset[row] * bias[row] : sum;
  }
}

constexpr int64_t kRuns = 16;  // runs of tokens, each summed on its own

template <class Sum>
void sum_tokens(const ScaleShiftGradArgs& a) {
  const int64_t C = a.C;
  const auto *scale = static_cast<const Sum*>(a.scale), *shift = static_cast<const Sum*>(a.shift);
  auto *grad_scale = static_cast<Sum*>(a.grad_scale), *grad_shift = static_cast<Sum*>(a.grad_shift);
  std::vector<Sum> sums(kRuns * 2 * C);
  // parallel over runs
  parallel_for(kRuns, 1, [&](int64_t begin, int64_t end) {
    Rows<Sum> grad(a.dtype, a.grad, C), output(a.dtype, a.output, C);
    for (int64_t run = begin; run < end; ++run) {
      Sum *to_scale = sums.data() + run * 2 * C, *to_shift = to_scale + C;
      for (int64_t t = run * a.tokens / kRuns; t < (run + 1) * a.tokens / kRuns; ++t) {
        const Sum *dy = grad.read(t), *y = output.read(t);
        for_each(C, [=](int64_t c) {
          to_scale[c] += dy[c] * (y[c] - shift[c]);
          to_shift[c] += dy[c];
        });
      }
    }
  });
  std::fill_n(grad_scale, C, Sum(0));
  std::fill_n(grad_shift, C, Sum(0));
  for (int64_t run = 0; run < kRuns; ++run) {
    const Sum *from_scale = sums.data() + run * 2 * C, *from_shift = from_scale + C;
    for_each(C, [=](int64_t c) {
      grad_scale[c] += from_scale[c];
      grad_shift[c] += from_shift[c];
    });
  }
  const Sum least = static_cast<Sum>(a.least_scale);
  for_each(C, [=](int64_t c) {
    const Sum size = scale[c] < 0 ? -scale[c] : scale[c];
    grad_scale[c] /= size < least ? (std::signbit(scale[c]) ? -least : least) : scale[c];
  });
}

}  // namespace

void scale_shift_fold(const ScaleShiftFoldArgs& args) {
  args.weight_dtype == Real::f64 ? fold<double>(args) : fold<float>(args);
}

void scale_shift_fold_grad(const ScaleShiftFoldGradArgs& args) {
  args.weight_dtype == Real::f64 ? fold_grad<double>(args) : fold_grad<float>(args);
}

void scale_shift_grad(const ScaleShiftGradArgs& args) {
  args.dtype == Real::f64 ? sum_tokens<double>(args) : sum_tokens<float>(args);
}

}  // namespace dapt::cpu::DAPT_ISA
