// A learned scale and shift per channel: checks, allocation, registration.
#include <tuple>

#include "checks.h"

namespace dapt {

namespace {

/// C and D of a weight [C, D], or [C] for D = 1.
std::pair<int64_t, int64_t> layer_shape(const Tensor& weight) {
  check(weight.dim() == 1 || weight.dim() == 2, "weight must be [C, D] or [C], got ",
        shape_of(weight));
  return {weight.size(0), weight.dim() == 2 ? weight.size(1) : 1};
}

}  // namespace

/// weight [C, D] or [C] of a frozen layer -> (scale * weight, scale * bias + shift [C]), both of
/// `dtype`.
std::tuple<Tensor, Tensor> scale_shift_fold(const Tensor& weight_any,
                                            const OptionalTensor& bias_any, const Tensor& scale_any,
                                            const Tensor& shift_any, ScalarType dtype) {
  const auto [C, D] = layer_shape(weight_any);
  const Tensor weight = as_contiguous(weight_any, "weight", weight_any.scalar_type());
  check_real(dtype, "dtype");
  const ScalarType sum = sum_dtype(weight.scalar_type());
  check((dtype == ScalarType::Double) == (sum == ScalarType::Double),
        "weight must be float64 where dtype is and nowhere else, got ",
        name_of(weight.scalar_type()), " for ", name_of(dtype));
  const OptionalTensor bias = as_shaped(bias_any, "bias", {C}, sum, weight, "weight");
  const Tensor scale = as_shaped(scale_any, "scale", {C}, sum, weight, "weight");
  const Tensor shift = as_shaped(shift_any, "shift", {C}, sum, weight, "weight");
  Tensor folded = torch::stable::new_empty(weight, weight.sizes(), dtype);
  Tensor offset = torch::stable::new_empty(weight, {C}, dtype);
  if (C > 0) {
    launch(&backend::scale_shift_fold,
           ScaleShiftFoldArgs{.weight = weight.const_data_ptr(),
                              .bias = data_or_null(bias),
                              .scale = scale.const_data_ptr(),
                              .shift = shift.const_data_ptr(),
                              .folded = folded.mutable_data_ptr(),
                              .offset = offset.mutable_data_ptr(),
                              .C = C,
                              .D = D,
                              .weight_dtype = real_of(weight),
                              .dtype = real_of(dtype)},
           weight);
  }
  return {folded, offset};
}

/// Gradients of the folded layer -> the gradient of the scale [C]. The gradient of the shift is
/// grad_offset itself.
Tensor scale_shift_fold_grad(const Tensor& grad_folded_any, const Tensor& grad_offset_any,
                             const Tensor& weight_any, const OptionalTensor& bias_any) {
  const auto [C, D] = layer_shape(weight_any);
  const Tensor weight = as_contiguous(weight_any, "weight", weight_any.scalar_type());
  const ScalarType sum = sum_dtype(weight.scalar_type());
  check(shape_of(grad_folded_any) == shape_of(weight), "grad_folded must have the shape of weight ",
        shape_of(weight), ", got ", shape_of(grad_folded_any));
  check_device(grad_folded_any, "grad_folded", weight, "weight");
  const Tensor grad_folded = as_contiguous(grad_folded_any, "grad_folded", sum);
  const Tensor grad_offset = as_shaped(grad_offset_any, "grad_offset", {C}, sum, weight, "weight");
  const OptionalTensor bias = as_shaped(bias_any, "bias", {C}, sum, weight, "weight");
  Tensor grad_scale = torch::stable::new_empty(weight, {C}, sum);
  if (C > 0) {
    launch(&backend::scale_shift_fold_grad,
           ScaleShiftFoldGradArgs{.grad_folded = grad_folded.const_data_ptr(),
                                  .grad_offset = grad_offset.const_data_ptr(),
                                  .weight = weight.const_data_ptr(),
                                  .bias = data_or_null(bias),
                                  .grad_scale = grad_scale.mutable_data_ptr(),
                                  .C = C,
                                  .D = D,
                                  .weight_dtype = real_of(weight)},
           weight);
  }
  return grad_scale;
}

/// grad and output [..., C], where output = scale * z + shift -> (grad_scale [C], grad_shift [C]).
std::tuple<Tensor, Tensor> scale_shift_grad(const Tensor& grad_any, const Tensor& output_any,
                                            const Tensor& scale_any, const Tensor& shift_any,
                                            double least_scale) {
  check(grad_any.dim() >= 1, "grad must be [..., C], got ", shape_of(grad_any));
  const Tensor grad = as_contiguous(grad_any, "grad", grad_any.scalar_type());
  check(shape_of(output_any) == shape_of(grad), "output must have the shape of grad ",
        shape_of(grad), ", got ", shape_of(output_any));
  check_device(output_any, "output", grad, "grad");
  const Tensor output = as_contiguous(output_any, "output", grad.scalar_type());
  const int64_t C = grad.size(grad.dim() - 1);
  const ScalarType sum = sum_dtype(grad.scalar_type());
  const Tensor scale = as_shaped(scale_any, "scale", {C}, sum, grad, "grad");
  const Tensor shift = as_shaped(shift_any, "shift", {C}, sum, grad, "grad");
  Tensor grad_scale = torch::stable::new_empty(grad, {C}, sum);
  Tensor grad_shift = torch::stable::new_empty(grad, {C}, sum);
  if (C > 0) {
    launch(&backend::scale_shift_grad,
           ScaleShiftGradArgs{.grad = grad.const_data_ptr(),
                              .output = output.const_data_ptr(),
                              .scale = scale.const_data_ptr(),
                              .shift = shift.const_data_ptr(),
                              .grad_scale = grad_scale.mutable_data_ptr(),
                              .grad_shift = grad_shift.mutable_data_ptr(),
                              .least_scale = least_scale,
                              .tokens = grad.numel() / C,
                              .C = C,
                              .dtype = real_of(grad)},
           grad);
  }
  return {grad_scale, grad_shift};
}

DAPT_REGISTER(m) {
  m.impl("scale_shift_fold", TORCH_BOX(&scale_shift_fold));
  m.impl("scale_shift_fold_grad", TORCH_BOX(&scale_shift_fold_grad));
  m.impl("scale_shift_grad", TORCH_BOX(&scale_shift_grad));
}

}  // namespace dapt
