// Attention over the tokens of a cloud: checks, allocation, registration. CPU only; CUDA uses
// torch's own.
#include <algorithm>
#include <tuple>

#include "checks.h"

namespace dapt {

namespace {

AttentionArgs arguments(const Tensor& qkv, int64_t num_heads) {
  const int64_t C = qkv.size(2) / 3;
  return {.qkv = qkv.const_data_ptr(),
          .B = qkv.size(0),
          .T = qkv.size(1),
          .H = num_heads,
          .D = C / num_heads,
          .dtype = real_of(qkv)};
}

Tensor as_qkv(const Tensor& qkv, int64_t num_heads) {
  check(qkv.dim() == 3, "qkv must be [B, T, 3 C], got ", shape_of(qkv));
  const int64_t width = qkv.size(2);
  check(num_heads >= 1 && num_heads <= std::max<int64_t>(width, 1) && width % (3 * num_heads) == 0,
        "num_heads must be at least 1 and divide C of qkv [B, T, 3 C], got ", num_heads, " for ",
        shape_of(qkv));
  return as_contiguous(qkv, "qkv", qkv.scalar_type());
}

}  // namespace

/// qkv [B, T, 3 C] -> (out [B, T, C], log_sum [B, H, T], the log-sum-exp of the scores).
std::tuple<Tensor, Tensor> attention(const Tensor& qkv_any, int64_t num_heads) {
  const Tensor qkv = as_qkv(qkv_any, num_heads);
  const int64_t B = qkv.size(0), T = qkv.size(1);
  Tensor out = torch::stable::new_empty(qkv, {B, T, qkv.size(2) / 3});
  Tensor log_sum = torch::stable::new_empty(qkv, {B, num_heads, T}, sum_dtype(qkv.scalar_type()));
  AttentionArgs args = arguments(qkv, num_heads);
  args.out = out.mutable_data_ptr();
  args.log_sum = log_sum.mutable_data_ptr();
  launch(&backend::attention, args, qkv);
  return {out, log_sum};
}

/// The gradient of qkv [B, T, 3 C].
Tensor attention_backward(const Tensor& grad_any, const Tensor& qkv_any, const Tensor& out_any,
                          const Tensor& log_sum_any, int64_t num_heads) {
  const Tensor qkv = as_qkv(qkv_any, num_heads);
  const int64_t B = qkv.size(0), T = qkv.size(1), C = qkv.size(2) / 3;
  const ScalarType dtype = qkv.scalar_type();
  const Tensor grad = as_shaped(grad_any, "grad", {B, T, C}, dtype, qkv, "qkv");
  const Tensor out = as_shaped(out_any, "out", {B, T, C}, dtype, qkv, "qkv");
  const Tensor log_sum = as_shaped(log_sum_any, "log_sum", {B, num_heads, T},
                                   sum_dtype(qkv.scalar_type()), qkv, "qkv");
  Tensor grad_qkv = torch::stable::new_empty(qkv, {B, T, 3 * C});
  AttentionArgs args = arguments(qkv, num_heads);
  args.out = const_cast<void*>(out.const_data_ptr());
  args.log_sum = const_cast<void*>(log_sum.const_data_ptr());
  launch(&backend::attention_backward,
         AttentionBackwardArgs{.forward = args,
                               .grad_out = grad.const_data_ptr(),
                               .grad_qkv = grad_qkv.mutable_data_ptr()},
         qkv);
  return grad_qkv;
}

DAPT_REGISTER(m) {
  m.impl("attention", TORCH_BOX(&attention));
  m.impl("attention_backward", TORCH_BOX(&attention_backward));
}

}  // namespace dapt
