// Row gather and its repeatable backward: checks, allocation, registration.
#include <vector>

#include "checks.h"

namespace dapt {

Tensor gather(const Tensor& values_any, const Tensor& idx_any) {
  check(values_any.dim() == 3, "values must be [B, N, C], got ", shape_of(values_any));
  check(idx_any.dim() >= 2, "idx must be [B, ...], got ", shape_of(idx_any));
  check_same_batch(idx_any, "idx", values_any, "values");
  const Tensor values = torch::stable::contiguous(values_any);
  const int64_t B = values.size(0), N = values.size(1), C = values.size(2);
  const Tensor idx = as_rows(idx_any, N, values, "values");
  std::vector<int64_t> shape(idx.sizes().begin(), idx.sizes().end());
  shape.push_back(C);
  Tensor out = torch::stable::new_empty(values, shape);
  if (out.numel() > 0) {
    launch(&backend::gather,
           GatherArgs{.values = values.const_data_ptr(),
                      .idx = idx.const_data_ptr<int64_t>(),
                      .out = out.mutable_data_ptr(),
                      .B = B,
                      .N = N,
                      .Q = idx.numel() / B,
                      .row_bytes = C * int64_t(values.element_size())},
           values);
  }
  return out;
}

/// grad [B, ..., C]; idx [B, ...], or with weights of its shape [B, ..., k] -> [B, num_points, C].
Tensor gather_backward(const Tensor& grad_any, const Tensor& idx_any, int64_t num_points,
                       const OptionalTensor& weights_any) {
  check(grad_any.dim() >= 2, "grad must be [B, ..., C], got ", shape_of(grad_any));
  check(num_points >= 0, "num_points must be at least 0, got ", num_points);
  check_same_batch(idx_any, "idx", grad_any, "grad");
  const Tensor grad = as_contiguous(grad_any, "grad", grad_any.scalar_type());
  const Tensor idx = as_rows(idx_any, num_points, grad, "grad");
  const int64_t B = grad.size(0), C = grad.size(grad.dim() - 1);
  const int64_t rows = C ? grad.numel() / C : 0, k = weights_any ? idx.size(idx.dim() - 1) : 1;
  check(idx.numel() == rows * k || C == 0, "idx must have a row of ", k, " per row of grad ",
        shape_of(grad), ", got ", shape_of(idx));
  std::optional<Tensor> weights;
  if (weights_any) {
    check(shape_of(*weights_any) == shape_of(idx), "weights must have the shape of idx ",
          shape_of(idx), ", got ", shape_of(*weights_any));
    check_device(*weights_any, "weights", grad, "grad");
    weights = as_contiguous(*weights_any, "weights", ScalarType::Float);
  }
  Tensor grad_values = torch::stable::new_empty(grad, {B, num_points, C});
  if (grad_values.numel() > 0) {
    launch(&backend::gather_backward,
           GatherBackwardArgs{.grad = grad.const_data_ptr(),
                              .idx = idx.const_data_ptr<int64_t>(),
                              .weights = data_or_null<float>(weights),
                              .grad_values = grad_values.mutable_data_ptr(),
                              .B = B,
                              .N = num_points,
                              .Q = rows / B,
                              .k = k,
                              .C = C,
                              .dtype = real_of(grad)},
           grad);
  }
  return grad_values;
}

DAPT_REGISTER(m) {
  m.impl("gather", TORCH_BOX(&gather));
  m.impl("gather_backward", TORCH_BOX(&gather_backward));
}

}  // namespace dapt
