// Token ops: launch plans, and the CUDA kernels on the host.
#include "cuda/plan_adapter.h"
#include "cuda/plan_encoder.h"
#include "fields.h"
#include "module.h"

namespace dapt {
namespace {

PatchEncoderArgs patch_encoder_args(const py::kwargs& given) {
  Fields fields(given);
  PatchEncoderArgs args{};
  TAKE(patches), TAKE(conv1), TAKE(bias1), TAKE(conv2), TAKE(conv3_global), TAKE(conv3_local);
  TAKE(bias3), TAKE(conv4), TAKE(bias4), TAKE(tokens);
  TAKE(P), TAKE(K), TAKE(D), TAKE(first), TAKE(middle), TAKE(last), TAKE(C);
  TAKE(compute), TAKE(tf32);
  args.weight_dtype = args.compute;
  TAKE(weight_dtype);
  fields.finish();
  return args;
}

SubmanifoldConvArgs submanifold_conv_args(const py::kwargs& given) {
  Fields fields(given);
  SubmanifoldConvArgs args{};
  TAKE(x), TAKE(weight), TAKE(bias), TAKE(neighbors), TAKE(out);
  TAKE(M), TAKE(C), TAKE(D), TAKE(taps), TAKE(weight_d), TAKE(weight_tap), TAKE(weight_c);
  TAKE(dtype), TAKE(tf32);
  fields.finish();
  return args;
}

SubmanifoldConvWeightGradArgs submanifold_conv_weight_grad_args(const py::kwargs& given) {
  Fields fields(given);
  SubmanifoldConvWeightGradArgs args{};
  TAKE(grad), TAKE(x), TAKE(neighbors), TAKE(grad_weight);
  TAKE(M), TAKE(C), TAKE(D), TAKE(taps), TAKE(dtype), TAKE(tf32);
  fields.finish();
  return args;
}

ScaleShiftFoldArgs scale_shift_fold_args(const py::kwargs& given) {
  Fields fields(given);
  ScaleShiftFoldArgs args{};
  TAKE(weight), TAKE(bias), TAKE(scale), TAKE(shift), TAKE(folded), TAKE(offset);
  TAKE(C), TAKE(D), TAKE(weight_dtype), TAKE(dtype);
  fields.finish();
  return args;
}

ScaleShiftFoldGradArgs scale_shift_fold_grad_args(const py::kwargs& given) {
  Fields fields(given);
  ScaleShiftFoldGradArgs args{};
  TAKE(grad_folded), TAKE(grad_offset), TAKE(weight), TAKE(bias), TAKE(grad_scale);
  TAKE(C), TAKE(D), TAKE(weight_dtype);
  fields.finish();
  return args;
}

ScaleShiftGradArgs scale_shift_grad_args(const py::kwargs& given) {
  Fields fields(given);
  ScaleShiftGradArgs args{};
  TAKE(grad), TAKE(output), TAKE(scale), TAKE(shift), TAKE(grad_scale), TAKE(grad_shift);
  TAKE(least_scale), TAKE(tokens), TAKE(C), TAKE(dtype);
  fields.finish();
  return args;
}

void take_forward(Fields& fields, DynamicAdapterArgs& args) {
  TAKE(x), TAKE(norm_weight), TAKE(norm_bias), TAKE(down_weight), TAKE(down_bias);
  TAKE(scale_weight), TAKE(scale_bias), TAKE(up_weight), TAKE(up_bias);
  TAKE(mlp_out), TAKE(residual), TAKE(path_factor), TAKE(seed), TAKE(adapters);
  TAKE(out), TAKE(prompt_mean), TAKE(hidden), TAKE(stats);
  TAKE(B), TAKE(T), TAKE(C), TAKE(r), TAKE(A);
  TAKE(x_dtype), TAKE(mlp_dtype), TAKE(residual_dtype), TAKE(out_dtype), TAKE(compute);
  args.weight_dtype = args.compute;
  TAKE(weight_dtype);
  TAKE(activation), TAKE(static_scale), TAKE(dropout), TAKE(eps), TAKE(tf32);
}

DynamicAdapterArgs dynamic_adapter_args(const py::kwargs& given) {
  Fields fields(given);
  DynamicAdapterArgs args{};
  take_forward(fields, args);
  fields.finish();
  return args;
}

DynamicAdapterBackwardArgs dynamic_adapter_backward_args(const py::kwargs& given) {
  Fields fields(given);
  DynamicAdapterBackwardArgs args{};
  take_forward(fields, args.forward);
  TAKE(grad_out), TAKE(grad_prompt_mean), TAKE(grad_x), TAKE(grad_mlp_out);
  TAKE(grad_norm_weight), TAKE(grad_norm_bias), TAKE(grad_down_weight), TAKE(grad_down_bias);
  TAKE(grad_scale_weight), TAKE(grad_scale_bias), TAKE(grad_up_weight), TAKE(grad_up_bias);
  fields.finish();
  return args;
}

}  // namespace

void bind_token_plans(py::module_ m) {
  py::class_<cuda::EncoderPlan>(m, "EncoderPlan", py::module_local())
      .def("__repr__", [](const cuda::EncoderPlan& plan) { return describe(plan); });
  py::class_<cuda::AdapterPlan>(m, "AdapterPlan", py::module_local())
      .def("__repr__", [](const cuda::AdapterPlan& plan) { return describe(plan); });
  m.def("dynamic_adapter", [](const cuda::Device& device, const py::kwargs& given) {
    return cuda::plan_adapter(dynamic_adapter_args(given), device);
  });
  m.def("patch_encoder", [](const cuda::Device& device, const py::kwargs& given) {
    return cuda::plan_encoder(patch_encoder_args(given), device);
  });
}

void bind_tokens_on_host(py::module_ m) {
  m.def("patch_encoder", [](int rows, const py::kwargs& given) {
    const PatchEncoderArgs args = patch_encoder_args(given);
    with_context([&](const Context& context) {
      rows > 0 ? cuda::patch_encoder(args, cuda::plan_encoder_with(rows, args), context)
               : cuda::patch_encoder(args, context);
    });
  });
  m.def("dynamic_adapter", [](const cuda::Device& device, const py::kwargs& given) {
    const DynamicAdapterArgs args = dynamic_adapter_args(given);
    with_context([&](const Context& context) {
      cuda::dynamic_adapter(args, cuda::plan_adapter(args, device), context);
    });
  });
  m.def("dynamic_adapter_backward", [](const cuda::Device& device, const py::kwargs& given) {
    const DynamicAdapterBackwardArgs args = dynamic_adapter_backward_args(given);
    with_context([&](const Context& context) {
      cuda::dynamic_adapter_backward(args, cuda::plan_adapter(args, device), context);
    });
  });
  m.def("submanifold_conv", [](const py::kwargs& given) {
    run<SubmanifoldConvArgs>(submanifold_conv_args(given), &cuda::submanifold_conv);
  });
  m.def("submanifold_conv_weight_grad", [](const py::kwargs& given) {
    run<SubmanifoldConvWeightGradArgs>(submanifold_conv_weight_grad_args(given),
                                       &cuda::submanifold_conv_weight_grad);
  });
  m.def("scale_shift_fold", [](const py::kwargs& given) {
    run<ScaleShiftFoldArgs>(scale_shift_fold_args(given), &cuda::scale_shift_fold);
  });
  m.def("scale_shift_fold_grad", [](const py::kwargs& given) {
    run<ScaleShiftFoldGradArgs>(scale_shift_fold_grad_args(given), &cuda::scale_shift_fold_grad);
  });
  m.def("scale_shift_grad", [](const py::kwargs& given) {
    run<ScaleShiftGradArgs>(scale_shift_grad_args(given), &cuda::scale_shift_grad);
  });
}

}  // namespace dapt
