// The frozen mini-PointNet: checks, allocation, registration.
#include "checks.h"

namespace dapt {

Tensor patch_encoder(const Tensor& patches_any, const Tensor& conv1_any, const Tensor& bias1_any,
                     const Tensor& conv2_any, const Tensor& conv3_global_any,
                     const Tensor& conv3_local_any, const Tensor& bias3_any,
                     const Tensor& conv4_any, const Tensor& bias4_any, ScalarType compute,
                     bool tf32) {
  check_real(patches_any.scalar_type(), "patches");
  check_real(compute, "compute");
  check(patches_any.dim() == 4 && patches_any.size(2) > 0 && patches_any.size(3) > 0,
        "patches must be [B, G, K, D] with at least one point of one number, got ",
        shape_of(patches_any));
  const Tensor patches = as_contiguous(patches_any, "patches", compute);
  const int64_t B = patches.size(0), G = patches.size(1), K = patches.size(2), D = patches.size(3);
  const auto rows_of = [](const Tensor& weight, const char* name) {
    check(weight.dim() == 2 && weight.size(0) > 0, name, " must be [out, in], got ",
          shape_of(weight));
    return weight.size(0);
  };
  const int64_t first = rows_of(conv1_any, "conv1"), middle = rows_of(conv2_any, "conv2"),
                last = rows_of(conv3_local_any, "conv3_local"), C = rows_of(conv4_any, "conv4");
  const ScalarType of_weights = weight_dtype(
      compute, {conv1_any.scalar_type(), conv2_any.scalar_type(), conv3_global_any.scalar_type(),
                conv3_local_any.scalar_type(), conv4_any.scalar_type()});
  const auto weight = [&](const Tensor& t, const char* name, std::vector<int64_t> shape) {
    return as_shaped(t, name, shape, of_weights, patches, "patches");
  };
  const ScalarType sum = sum_dtype(compute);
  const auto bias = [&](const Tensor& t, const char* name, int64_t size) {
    return as_shaped(t, name, {size}, sum, patches, "patches");
  };
  const Tensor conv1 = weight(conv1_any, "conv1", {first, D});
  const Tensor bias1 = bias(bias1_any, "bias1", first);
  const Tensor conv2 = weight(conv2_any, "conv2", {middle, first});
  const Tensor conv3_global = weight(conv3_global_any, "conv3_global", {last, middle});
  const Tensor conv3_local = weight(conv3_local_any, "conv3_local", {last, first});
  const Tensor bias3 = bias(bias3_any, "bias3", last);
  const Tensor conv4 = weight(conv4_any, "conv4", {C, last});
  const Tensor bias4 = bias(bias4_any, "bias4", C);
  Tensor tokens = torch::stable::new_empty(patches, {B, G, C}, compute);
  if (B * G > 0) {
    launch(&backend::patch_encoder,
           PatchEncoderArgs{.patches = patches.const_data_ptr(),
                            .conv1 = conv1.const_data_ptr(),
                            .bias1 = bias1.const_data_ptr(),
                            .conv2 = conv2.const_data_ptr(),
                            .conv3_global = conv3_global.const_data_ptr(),
                            .conv3_local = conv3_local.const_data_ptr(),
                            .bias3 = bias3.const_data_ptr(),
                            .conv4 = conv4.const_data_ptr(),
                            .bias4 = bias4.const_data_ptr(),
                            .tokens = tokens.mutable_data_ptr(),
                            .P = B * G,
                            .K = K,
                            .D = D,
                            .first = first,
                            .middle = middle,
                            .last = last,
                            .C = C,
                            .compute = real_of(compute),
                            .weight_dtype = real_of(of_weights),
                            .tf32 = tf32},
           patches);
  }
  return tokens;
}

DAPT_REGISTER(m) { m.impl("patch_encoder", TORCH_BOX(&patch_encoder)); }

}  // namespace dapt
