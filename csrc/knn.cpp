// k nearest neighbors: checks, allocation, registration.
#include "checks.h"

namespace dapt {

std::tuple<Tensor, Tensor> knn(const Tensor& queries_any, const Tensor& points_any, int64_t k,
                               const OptionalTensor& lengths_any) {
  const Tensor queries = as_vectors(queries_any, "queries");
  const Tensor points = as_vectors(points_any, "points");
  check_device(points, "points", queries, "queries");
  check_same_batch(points, "points", queries, "queries");
  const int64_t D = queries.size(2);
  check(points.size(2) == D, "points must have the ", D, " coordinates of queries, got ",
        shape_of(points));
  const OptionalTensor lengths = as_lengths(lengths_any, points, k, "k");
  const int64_t B = queries.size(0), M = queries.size(1), N = points.size(1);
  Tensor sq_dist = torch::stable::new_empty(queries, {B, M, k});
  Tensor idx = torch::stable::new_empty(queries, {B, M, k}, ScalarType::Long);
  if (B * M > 0) {
    launch(&backend::knn,
           KnnArgs{.queries = queries.const_data_ptr<float>(),
                   .points = points.const_data_ptr<float>(),
                   .lengths = data_or_null<int64_t>(lengths),
                   .sq_dist = sq_dist.mutable_data_ptr<float>(),
                   .idx = idx.mutable_data_ptr<int64_t>(),
                   .patches = nullptr,
                   .B = B,
                   .M = M,
                   .N = N,
                   .k = k,
                   .D = D},
           queries);
  }
  return {sq_dist, idx};
}

DAPT_REGISTER(m) { m.impl("knn", TORCH_BOX(&knn)); }

}  // namespace dapt
