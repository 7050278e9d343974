// The table of contents: every op of the library, in the order in which data flows through a model.
// The contracts are in ops.h and in the docstrings of dapt_ext.
#include "backend.h"

STABLE_TORCH_LIBRARY(dapt, m) {
  // points -> patches
  m.def(
      "fps(Tensor points, SymInt num_samples, Tensor? lengths=None, Tensor? starts=None, "
      "SymInt start=0, bool skip_near_origin=False) -> Tensor");
  m.def("knn(Tensor queries, Tensor points, SymInt k, Tensor? lengths=None) -> (Tensor, Tensor)");
  m.def(
      "group(Tensor points, SymInt num_groups, SymInt group_size, Tensor? lengths=None, "
      "Tensor? starts=None, SymInt start=0, bool skip_near_origin=False) -> (Tensor, Tensor, "
      "Tensor, Tensor)");
  m.def(
      "ball_query(Tensor queries, Tensor points, float radius, SymInt max_neighbors, "
      "Tensor? lengths=None) -> Tensor");

  // scenes -> cells
  m.def("grid_cells(Tensor points, float size, Tensor? lengths=None) -> Tensor");
  m.def("unique_cells(Tensor cells, Tensor? scenes=None) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("neighbor_map(Tensor cells, Tensor? scenes=None) -> Tensor");
  m.def("curve_codes(Tensor cells, Tensor depths, Tensor? scenes, int[] curves) -> Tensor");

  // patches <-> points
  m.def("gather(Tensor values, Tensor idx) -> Tensor");
  m.def(
      "gather_backward(Tensor grad, Tensor idx, SymInt num_points, Tensor? weights=None) -> "
      "Tensor");
  m.def("interpolate(Tensor values, Tensor idx, Tensor weights) -> Tensor");

  // tokens
  m.def(
      "patch_encoder(Tensor patches, Tensor conv1, Tensor bias1, Tensor conv2, "
      "Tensor conv3_global, Tensor conv3_local, Tensor bias3, Tensor conv4, Tensor bias4, "
      "ScalarType compute, bool tf32=False) -> Tensor");
  m.def(
      "dynamic_adapter(Tensor x, Tensor? norm_weight, Tensor? norm_bias, Tensor down_weight, "
      "Tensor down_bias, Tensor? scale_weight, Tensor? scale_bias, Tensor up_weight, "
      "Tensor up_bias, Tensor? mlp_out, Tensor? residual, Tensor? path_factor, Tensor? seed, "
      "str activation, float static_scale, float dropout, float eps, ScalarType compute, "
      "ScalarType out_dtype, bool prompt, bool keep_hidden, bool tf32=False) -> "
      "(Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "dynamic_adapters(Tensor x, Tensor adapters, Tensor? norm_weight, Tensor? norm_bias, "
      "Tensor down_weight, Tensor down_bias, Tensor? scale_weight, Tensor? scale_bias, "
      "Tensor up_weight, Tensor up_bias, Tensor? mlp_out, Tensor? residual, str activation, "
      "float static_scale, float eps, ScalarType compute, ScalarType out_dtype, bool prompt, "
      "bool tf32=False) -> (Tensor, Tensor)");
  m.def(
      "dynamic_adapter_backward(Tensor? grad_out, Tensor? grad_prompt, Tensor x, "
      "Tensor? norm_weight, Tensor? norm_bias, Tensor down_weight, Tensor down_bias, "
      "Tensor? scale_weight, Tensor? scale_bias, Tensor up_weight, Tensor up_bias, "
      "Tensor? path_factor, Tensor? seed, Tensor stats, Tensor? hidden, str activation, "
      "float static_scale, float dropout, float eps, ScalarType compute, ScalarType mlp_dtype, "
      "str[] wanted, bool tf32=False) -> "
      "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "submanifold_conv(Tensor x, Tensor weight, Tensor? bias, Tensor neighbors, "
      "bool tf32=False) -> Tensor");
  m.def(
      "submanifold_conv_input_grad(Tensor grad, Tensor weight, Tensor neighbors, "
      "bool tf32=False) -> Tensor");
  m.def(
      "submanifold_conv_weight_grad(Tensor grad, Tensor x, Tensor neighbors, bool tf32=False) -> "
      "Tensor");
  m.def(
      "scale_shift_fold(Tensor weight, Tensor? bias, Tensor scale, Tensor shift, "
      "ScalarType dtype) -> (Tensor, Tensor)");
  m.def(
      "scale_shift_fold_grad(Tensor grad_folded, Tensor grad_offset, Tensor weight, "
      "Tensor? bias) -> Tensor");
  m.def(
      "scale_shift_grad(Tensor grad, Tensor output, Tensor scale, Tensor shift, "
      "float least_scale=0.0) -> "
      "(Tensor, Tensor)");
  m.def("attention(Tensor qkv, SymInt num_heads) -> (Tensor, Tensor)");
  m.def(
      "attention_backward(Tensor grad, Tensor qkv, Tensor out, Tensor log_sum, SymInt num_heads) "
      "-> Tensor");

  // losses
  m.def(
      "chamfer(Tensor a, Tensor b, Tensor? a_lengths=None, Tensor? b_lengths=None) -> "
      "(Tensor, Tensor, Tensor, Tensor)");

  // this build
  m.def("build_info() -> str");
}
