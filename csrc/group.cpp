// Points -> patches: farthest point sampling, then kNN with its patch epilogue, in one call.
#include "checks.h"

namespace dapt {

std::tuple<Tensor, Tensor, Tensor, Tensor> group(const Tensor& points_any, int64_t num_groups,
                                                 int64_t group_size,
                                                 const OptionalTensor& lengths_any,
                                                 const OptionalTensor& starts_any, int64_t start,
                                                 bool skip_near_origin) {
  const Tensor points = as_points(points_any, "points");
  const OptionalTensor lengths = as_lengths(lengths_any, points, num_groups, "num_groups");
  as_lengths(lengths_any, points, group_size, "group_size");
  const OptionalTensor starts = as_starts(starts_any, start, points, lengths);
  const int64_t B = points.size(0), N = points.size(1), G = num_groups, K = group_size;
  Tensor patches = torch::stable::new_empty(points, {B, G, K, 3});
  Tensor centers = torch::stable::new_empty(points, {B, G, 3});
  Tensor patch_idx = torch::stable::new_empty(points, {B, G, K}, ScalarType::Long);
  Tensor center_idx = torch::stable::new_empty(points, {B, G}, ScalarType::Long);
  if (B > 0) {
    launch(&backend::fps,
           FpsArgs{.points = points.const_data_ptr<float>(),
                   .lengths = data_or_null<int64_t>(lengths),
                   .starts = data_or_null<int64_t>(starts),
                   .idx = center_idx.mutable_data_ptr<int64_t>(),
                   .centers = centers.mutable_data_ptr<float>(),
                   .B = B,
                   .N = N,
                   .M = G,
                   .start = start,
                   .skip_near_origin = skip_near_origin},
           points);
    launch(&backend::knn,
           KnnArgs{.queries = centers.const_data_ptr<float>(),
                   .points = points.const_data_ptr<float>(),
                   .lengths = data_or_null<int64_t>(lengths),
                   .sq_dist = nullptr,
                   .idx = patch_idx.mutable_data_ptr<int64_t>(),
                   .patches = patches.mutable_data_ptr<float>(),
                   .B = B,
                   .M = G,
                   .N = N,
                   .k = K},
           points);
  }
  return {patches, centers, patch_idx, center_idx};
}

DAPT_REGISTER(m) { m.impl("group", TORCH_BOX(&group)); }

}  // namespace dapt
