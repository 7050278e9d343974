// Submanifold convolution and its gradients: checks, allocation, registration, and for wide ones on
// CUDA the products of gathered neighborhoods.
#include <algorithm>
#include <array>
#include <cstdlib>
#include <vector>

#include "cells.h"
#include "checks.h"

namespace dapt {
namespace {

// The CPU multiplies in float32 or float64, CUDA in any of the four dtypes.
ScalarType product_type(ScalarType dtype) {
  const bool is_half = dtype == ScalarType::Half || dtype == ScalarType::BFloat16;
  return is_half && !kOnCuda ? ScalarType::Float : dtype;
}

Tensor as_neighbors(const Tensor& t, int64_t M, const Tensor& like, const char* like_name) {
  return as_integers(t, "neighbors", {M, kTaps}, -1, M, like, like_name);
}

void check_rows(const Tensor& t, const char* name, const char* shape) {
  check(t.dim() == 2, name, " must be ", shape, ", got ", shape_of(t));
  check_real(t.scalar_type(), name);
}

void check_weight(const Tensor& weight, int dim, int64_t channels, const char* of) {
  check(weight.dim() == 5 && weight.size(1) == 3 && weight.size(2) == 3 && weight.size(3) == 3 &&
            weight.size(dim) == channels,
        "weight must be [D, 3, 3, 3, C] with ", channels, " channels ", of, ", got ",
        shape_of(weight));
}

// From this many channels on, in or out, CUDA gathers the neighborhoods and leaves the product to
// torch. In float32 an H200 took 0.32, 0.31, 0.64 and 2.2 ms with our kernel for 32, 64, 128 and
// 512 channels, and 0.14, 0.13, 0.13 and 0.11 ms this way. Forward and both gradients for 64
// took 1.30 ms with our kernels, 1.11 all this way, and 0.87 with only the weight's gradient this
// way.
constexpr int64_t kGatherFrom = 32, kGatherFromOfInputGrad = 80, kGatherFromOfWeightGrad = 64;
// At a time, but one row or tap at least.
constexpr int64_t kMostGatheredBytes = int64_t{256} << 20;

/// DAPT_GATHER_FROM overrides the number of channels, on the CPU, too.
bool is_gathered(int64_t C, int64_t D, int64_t from) {
  const char* wish = std::getenv("DAPT_GATHER_FROM");
  if (wish) from = std::atoll(wish);
  return (kOnCuda || wish) && std::max(C, D) >= from;
}

template <class... Args>
Tensor call_torch(const char* op, const char* overload, const Args&... args) {
  std::array<StableIValue, sizeof...(Args)> stack{torch::stable::detail::from(args)...};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(op, overload, stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

/// out [M, N] = x [M, K] · weight [N, K]ᵀ + bias [N], in tf32 if torch's setting allows that.
/// Autocast, which the caller of the op has followed, changes linear but not linear.out.
void multiply(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
              const Tensor& out) {
  call_torch("aten::linear", "out", x, weight, bias, out);
}

/// x [M, C], idx [n, taps] -> [n, taps C], with zeros where there is no neighbor.
Tensor gather_rows(const Tensor& x, const Tensor& idx_any) {
  const Tensor idx = torch::stable::contiguous(idx_any);
  const int64_t C = x.size(1);
  Tensor out = torch::stable::new_empty(x, {idx.size(0), idx.size(1) * C});
  if (out.numel() > 0) {
    launch(&backend::gather,
           GatherArgs{.values = x.const_data_ptr(),
                      .idx = idx.const_data_ptr<int64_t>(),
                      .out = out.mutable_data_ptr(),
                      .B = 1,
                      .N = x.size(0),
                      .Q = idx.numel(),
                      .row_bytes = C * int64_t(x.element_size())},
           x);
  }
  return out;
}

/// How many of `all` rows or taps to gather at a time.
int64_t gathered_at_once(int64_t all, int64_t bytes_of_one) {
  const int64_t most = kMostGatheredBytes / std::max<int64_t>(1, bytes_of_one);
  return std::max<int64_t>(1, std::min(all, most));
}

void convolve_gathered(const Tensor& x, const Tensor& weight_5d, const OptionalTensor& bias,
                       Tensor neighbors, bool transposed, Tensor& out) {
  const int64_t M = x.size(0), D = weight_5d.size(0), C = weight_5d.size(4);
  Tensor weight = torch::stable::view(weight_5d, {D, kTaps * C});
  if (transposed) {
    const std::array<int64_t, 1> taps{1};
    neighbors =
        call_torch("aten::flip", "", neighbors, torch::headeronly::IntHeaderOnlyArrayRef(taps));
    const Tensor of_taps = torch::stable::view(weight, {D, kTaps, C});
    weight = torch::stable::reshape(torch::stable::transpose(of_taps, 0, 1), {kTaps * D, C});
    weight = torch::stable::transpose(weight, 0, 1);  // [C, 27 D]
  }
  const int64_t step = gathered_at_once(M, weight.size(1) * int64_t(x.element_size()));
  for (int64_t first = 0; first < M; first += step) {
    const int64_t rows = std::min(step, M - first);
    const Tensor around = gather_rows(x, torch::stable::narrow(neighbors, 0, first, rows));
    multiply(around, weight, bias, torch::stable::narrow(out, 0, first, rows));
  }
}

/// A tap's gradient is one product over all rows, so no sum depends on how many taps are gathered.
Tensor weight_grad_gathered(const Tensor& grad, const Tensor& x, Tensor neighbors) {
  const int64_t M = grad.size(0), D = grad.size(1), C = x.size(1);
  Tensor grad_weight = torch::stable::new_empty(grad, {D, kTaps * C});
  const Tensor columns = torch::stable::transpose(grad, 0, 1);  // [D, M]
  const int64_t step = gathered_at_once(kTaps, M * C * int64_t(x.element_size()));
  for (int64_t first = 0; first < kTaps; first += step) {
    const int64_t taps = std::min<int64_t>(step, kTaps - first);
    const Tensor around = gather_rows(x, torch::stable::narrow(neighbors, 1, first, taps));
    multiply(columns, torch::stable::transpose(around, 0, 1), std::nullopt,
             torch::stable::narrow(grad_weight, 1, first * C, taps * C));
  }
  return torch::stable::view(grad_weight, {D, 3, 3, 3, C});
}

Tensor convolve(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                const Tensor& neighbors, bool transposed, bool tf32, ScalarType out_dtype) {
  const int64_t M = x.size(0), D = weight.size(0), C = weight.size(4);
  const int64_t out_width = transposed ? C : D;
  Tensor out = torch::stable::new_empty(x, {M, out_width});
  if (out.numel() == 0) return torch::stable::to(out, out_dtype);
  if (is_gathered(C, D, transposed ? kGatherFromOfInputGrad : kGatherFrom)) {
    convolve_gathered(x, weight, bias, neighbors, transposed, out);
    return torch::stable::to(out, out_dtype);
  }
  SubmanifoldConvArgs args{.x = x.const_data_ptr(),
                           .weight = weight.const_data_ptr(),
                           .bias = data_or_null(bias),
                           .neighbors = neighbors.const_data_ptr<int64_t>(),
                           .out = out.mutable_data_ptr(),
                           .M = M,
                           .C = C,
                           .D = D,
                           .taps = kTaps,
                           .weight_d = kTaps * C,
                           .weight_tap = C,
                           .weight_c = 1,
                           .dtype = real_of(x),
                           .tf32 = tf32};
  if (transposed) {
    std::swap(args.C, args.D);
    std::swap(args.weight_d, args.weight_c);
    args.weight_tap = -C;
    args.weight = static_cast<const char*>(args.weight) + (kTaps - 1) * C * weight.element_size();
  }
  launch(&backend::submanifold_conv, args, x);
  return out.scalar_type() == out_dtype ? out : torch::stable::to(out, out_dtype);
}

}  // namespace

Tensor submanifold_conv(const Tensor& x_any, const Tensor& weight_any,
                        const OptionalTensor& bias_any, const Tensor& neighbors_any, bool tf32) {
  check_rows(x_any, "x", "[M, C]");
  const int64_t M = x_any.size(0), C = x_any.size(1);
  check_weight(weight_any, 4, C, "in, those of x");
  const int64_t D = weight_any.size(0);
  const ScalarType compute = product_type(x_any.scalar_type());
  const Tensor x = as_contiguous(x_any, "x", compute);
  const Tensor weight = as_shaped(weight_any, "weight", {D, 3, 3, 3, C}, compute, x, "x");
  const OptionalTensor bias = as_shaped(bias_any, "bias", {D}, compute, x, "x");
  const Tensor neighbors = as_neighbors(neighbors_any, M, x, "x");
  return convolve(x, weight, bias, neighbors, false, tf32, x_any.scalar_type());
}

/// Gradient of x, provided that neighbors are symmetric, as those of neighbor_map are.
Tensor submanifold_conv_input_grad(const Tensor& grad_any, const Tensor& weight_any,
                                   const Tensor& neighbors_any, bool tf32) {
  check_rows(grad_any, "grad", "[M, D]");
  const int64_t M = grad_any.size(0), D = grad_any.size(1);
  check_weight(weight_any, 0, D, "out, those of grad");
  const int64_t C = weight_any.size(4);
  const ScalarType compute = product_type(grad_any.scalar_type());
  const Tensor grad = as_contiguous(grad_any, "grad", compute);
  const Tensor weight = as_shaped(weight_any, "weight", {D, 3, 3, 3, C}, compute, grad, "grad");
  const Tensor neighbors = as_neighbors(neighbors_any, M, grad, "grad");
  return convolve(grad, weight, std::nullopt, neighbors, true, tf32, grad_any.scalar_type());
}

Tensor submanifold_conv_weight_grad(const Tensor& grad_any, const Tensor& x_any,
                                    const Tensor& neighbors_any, bool tf32) {
  check_rows(grad_any, "grad", "[M, D]");
  check_rows(x_any, "x", "[M, C]");
  const int64_t M = grad_any.size(0), D = grad_any.size(1), C = x_any.size(1);
  const ScalarType compute = product_type(grad_any.scalar_type());
  const Tensor grad = as_contiguous(grad_any, "grad", compute);
  const Tensor x = as_shaped(x_any, "x", {M, C}, compute, grad, "grad");
  const Tensor neighbors = as_neighbors(neighbors_any, M, grad, "grad");
  const ScalarType out_dtype = grad_any.scalar_type();
  if (is_gathered(C, D, kGatherFromOfWeightGrad))
    return torch::stable::to(weight_grad_gathered(grad, x, neighbors), out_dtype);
  const ScalarType sums = sum_dtype(compute);
  Tensor grad_weight = torch::stable::new_empty(grad, {D, 3, 3, 3, C}, sums);
  if (grad_weight.numel() > 0) {
    launch(&backend::submanifold_conv_weight_grad,
           SubmanifoldConvWeightGradArgs{.grad = grad.const_data_ptr(),
                                         .x = x.const_data_ptr(),
                                         .neighbors = neighbors.const_data_ptr<int64_t>(),
                                         .grad_weight = grad_weight.mutable_data_ptr(),
                                         .M = M,
                                         .C = C,
                                         .D = D,
                                         .taps = kTaps,
                                         .dtype = real_of(grad),
                                         .tf32 = tf32},
           grad);
  }
  return out_dtype == sums ? grad_weight : torch::stable::to(grad_weight, out_dtype);
}

DAPT_REGISTER(m) {
  m.impl("submanifold_conv", TORCH_BOX(&submanifold_conv));
  m.impl("submanifold_conv_input_grad", TORCH_BOX(&submanifold_conv_input_grad));
  m.impl("submanifold_conv_weight_grad", TORCH_BOX(&submanifold_conv_weight_grad));
}

}  // namespace dapt
