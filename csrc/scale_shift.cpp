// Gradients of a scale and a shift per channel: checks, allocation, registration.
#include <tuple>

#include "checks.h"

namespace dapt {

/// grad, output [..., C] of output = scale * z + shift -> (grad_scale [C], grad_shift [C]).
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

DAPT_REGISTER(m) { m.impl("scale_shift_grad", TORCH_BOX(&scale_shift_grad)); }

}  // namespace dapt
