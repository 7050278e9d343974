// Weighted sums of neighbors' values: checks, allocation, registration.
#include "checks.h"

namespace dapt {

Tensor interpolate(const Tensor& values_any, const Tensor& idx_any, const Tensor& weights_any) {
  check(values_any.dim() == 3, "values must be [B, N, C], got ", shape_of(values_any));
  check(idx_any.dim() == 3, "idx must be [B, M, k], got ", shape_of(idx_any));
  check(shape_of(weights_any) == shape_of(idx_any), "weights must have the shape of idx ",
        shape_of(idx_any), ", got ", shape_of(weights_any));
  check_same_batch(idx_any, "idx", values_any, "values");
  check_device(weights_any, "weights", values_any, "values");
  const Tensor values = as_contiguous(values_any, "values", ScalarType::Float);
  const Tensor weights = as_contiguous(weights_any, "weights", ScalarType::Float);
  const int64_t B = values.size(0), N = values.size(1), C = values.size(2);
  const Tensor idx = as_rows(idx_any, N, values, "values");
  Tensor out = torch::stable::new_empty(values, {B, idx.size(1), C});
  if (out.numel() > 0) {
    launch(&backend::interpolate,
           InterpolateArgs{.values = values.const_data_ptr<float>(),
                           .idx = idx.const_data_ptr<int64_t>(),
                           .weights = weights.const_data_ptr<float>(),
                           .out = out.mutable_data_ptr<float>(),
                           .B = B,
                           .N = N,
                           .M = idx.size(1),
                           .k = idx.size(2),
                           .C = C},
           values);
  }
  return out;
}

DAPT_REGISTER(m) { m.impl("interpolate", TORCH_BOX(&interpolate)); }

}  // namespace dapt
