// Farthest point sampling: checks, allocation, registration.
#include "checks.h"

namespace dapt {

Tensor fps(const Tensor& points_any, int64_t num_samples, const OptionalTensor& lengths_any,
           const OptionalTensor& starts_any, int64_t start, bool skip_near_origin) {
  const Tensor points = as_points(points_any, "points");
  const OptionalTensor lengths = as_lengths(lengths_any, points, num_samples, "num_samples");
  const OptionalTensor starts = as_starts(starts_any, start, points, lengths);
  const int64_t B = points.size(0), N = points.size(1);
  Tensor idx = torch::stable::new_empty(points, {B, num_samples}, ScalarType::Long);
  if (B > 0) {
    launch(&backend::fps,
           FpsArgs{.points = points.const_data_ptr<float>(),
                   .lengths = data_or_null<int64_t>(lengths),
                   .starts = data_or_null<int64_t>(starts),
                   .idx = idx.mutable_data_ptr<int64_t>(),
                   .centers = nullptr,
                   .B = B,
                   .N = N,
                   .M = num_samples,
                   .start = start,
                   .skip_near_origin = skip_near_origin},
           points);
  }
  return idx;
}

DAPT_REGISTER(m) { m.impl("fps", TORCH_BOX(&fps)); }

}  // namespace dapt
