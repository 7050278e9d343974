// Sums over tokens for the gradients of a scale and a shift on the CPU.
#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/parallel.h"
#include "cpu/rows.h"
#include "ops.h"

namespace dapt::cpu::DAPT_ISA {
namespace {

constexpr int64_t kRuns = 16;  // of tokens, each summed by itself

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

void scale_shift_grad(const ScaleShiftGradArgs& args) {
  args.dtype == Real::f64 ? sum_tokens<double>(args) : sum_tokens<float>(args);
}

}  // namespace dapt::cpu::DAPT_ISA
