// Submanifold convolution and its gradients: checks, allocation, registration.
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

Tensor convolve(const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
                const Tensor& neighbors, bool transposed, bool tf32, ScalarType out_dtype) {
  const int64_t M = x.size(0), D = weight.size(0), C = weight.size(4);
  const int64_t out_width = transposed ? C : D;
  Tensor out = torch::stable::new_empty(x, {M, out_width});
  if (out.numel() == 0) return torch::stable::to(out, out_dtype);
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
  const ScalarType out_dtype = grad_any.scalar_type();
  return out_dtype == sums ? grad_weight : torch::stable::to(grad_weight, out_dtype);
}

DAPT_REGISTER(m) {
  m.impl("submanifold_conv", TORCH_BOX(&submanifold_conv));
  m.impl("submanifold_conv_input_grad", TORCH_BOX(&submanifold_conv_input_grad));
  m.impl("submanifold_conv_weight_grad", TORCH_BOX(&submanifold_conv_weight_grad));
}

}  // namespace dapt
