// Ball query: checks, allocation, registration.
#include "checks.h"

namespace dapt {

Tensor ball_query(const Tensor& queries_any, const Tensor& points_any, double radius,
                  int64_t max_neighbors, const OptionalTensor& lengths_any) {
  const Tensor queries = as_points(queries_any, "queries");
  const Tensor points = as_points(points_any, "points");
  check_device(points, "points", queries, "queries");
  check_same_batch(points, "points", queries, "queries");
  check(radius > 0, "radius must be positive, got ", radius);
  check(max_neighbors >= 1, "max_neighbors must be at least 1, got ", max_neighbors);
  const int64_t B = queries.size(0), M = queries.size(1), N = points.size(1);
  const OptionalTensor lengths =
      as_integers(lengths_any, "lengths", {B}, 0, N + 1, points, "points");
  Tensor idx = torch::stable::new_empty(queries, {B, M, max_neighbors}, ScalarType::Long);
  if (B * M > 0) {
    const float r = static_cast<float>(radius);
    launch(&backend::ball_query,
           BallQueryArgs{.queries = queries.const_data_ptr<float>(),
                         .points = points.const_data_ptr<float>(),
                         .lengths = data_or_null<int64_t>(lengths),
                         .idx = idx.mutable_data_ptr<int64_t>(),
                         .B = B,
                         .M = M,
                         .N = N,
                         .K = max_neighbors,
                         .sq_radius = r * r},
           queries);
  }
  return idx;
}

DAPT_REGISTER(m) { m.impl("ball_query", TORCH_BOX(&ball_query)); }

}  // namespace dapt
