// Nearest neighbors between two clouds, both ways: checks, allocation, registration.
#include "checks.h"

namespace dapt {

std::tuple<Tensor, Tensor, Tensor, Tensor> chamfer(const Tensor& a_any, const Tensor& b_any,
                                                   const OptionalTensor& a_lengths_any,
                                                   const OptionalTensor& b_lengths_any) {
  const Tensor a = as_points(a_any, "a"), b = as_points(b_any, "b");
  check_device(b, "b", a, "a");
  check_same_batch(b, "b", a, "a");
  const int64_t B = a.size(0), N = a.size(1), M = b.size(1);
  check(B == 0 || (N > 0 && M > 0), "a and b must hold at least one point per cloud, got ",
        shape_of(a), " and ", shape_of(b));
  const OptionalTensor a_lengths = as_integers(a_lengths_any, "a_lengths", {B}, 1, N + 1, a, "a");
  const OptionalTensor b_lengths = as_integers(b_lengths_any, "b_lengths", {B}, 1, M + 1, a, "a");
  Tensor sq_ab = torch::stable::new_empty(a, {B, N});
  Tensor sq_ba = torch::stable::new_empty(a, {B, M});
  Tensor idx_ab = torch::stable::new_empty(a, {B, N}, ScalarType::Long);
  Tensor idx_ba = torch::stable::new_empty(a, {B, M}, ScalarType::Long);
  if (B > 0) {
    launch(&backend::chamfer,
           ChamferArgs{.a = a.const_data_ptr<float>(),
                       .b = b.const_data_ptr<float>(),
                       .a_lengths = data_or_null<int64_t>(a_lengths),
                       .b_lengths = data_or_null<int64_t>(b_lengths),
                       .sq_ab = sq_ab.mutable_data_ptr<float>(),
                       .idx_ab = idx_ab.mutable_data_ptr<int64_t>(),
                       .sq_ba = sq_ba.mutable_data_ptr<float>(),
                       .idx_ba = idx_ba.mutable_data_ptr<int64_t>(),
                       .B = B,
                       .N = N,
                       .M = M},
           a);
  }
  return {sq_ab, idx_ab, sq_ba, idx_ba};
}

DAPT_REGISTER(m) { m.impl("chamfer", TORCH_BOX(&chamfer)); }

}  // namespace dapt
