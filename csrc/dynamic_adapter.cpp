// DAPT's adapter, forward and backward, and the forward of several adapters in one batch: checks,
// allocation, registration.
#include <tuple>
#include <vector>

#include "checks.h"

namespace dapt {
namespace {

Activation activation_named(const std::string& name) {
  if (name == "gelu") return Activation::gelu;
  if (name == "relu") return Activation::relu;
  check(name == "quickgelu", "activation must be \"gelu\", \"relu\" or \"quickgelu\", got \"", name,
        "\"");
  return Activation::quickgelu;
}

/// The inputs of both directions, checked and in the dtypes that the kernels take.
struct Inputs {
  ScalarType compute, sum, weight;
  Tensor x;  // [B, T, C]
  int64_t B, T, C, r, A = 1;
  OptionalTensor adapters;                  // [B]; with it the parameters are [A, ...]
  OptionalTensor norm_weight, norm_bias;    // [C]
  Tensor down_weight, down_bias;            // [r, C], [r]
  OptionalTensor scale_weight, scale_bias;  // [1, C], [1]
  Tensor up_weight, up_bias;                // [C, r], [C]
  OptionalTensor path_factor, seed;         // [B], []

  Inputs(ScalarType compute, const Tensor& x_any, const OptionalTensor& norm_weight_any,
         const OptionalTensor& norm_bias_any, const Tensor& down_weight_any,
         const Tensor& down_bias_any, const OptionalTensor& scale_weight_any,
         const OptionalTensor& scale_bias_any, const Tensor& up_weight_any,
         const Tensor& up_bias_any, const OptionalTensor& path_factor_any,
         const OptionalTensor& seed_any, const OptionalTensor& adapters_any = std::nullopt)
      : compute(compute),
        sum(sum_dtype(compute)),
        weight(
            weight_dtype(compute, {down_weight_any.scalar_type(), up_weight_any.scalar_type()})) {
    check_real(x_any.scalar_type(), "x");
    check_real(compute, "compute");
    check(norm_weight_any.has_value() == norm_bias_any.has_value(),
          "norm_weight and norm_bias must be given together");
    check(scale_weight_any.has_value() == scale_bias_any.has_value(),
          "scale_weight and scale_bias must be given together");
    check(x_any.dim() == 3 && x_any.size(2) > 0, "x must be [B, T, C], got ", shape_of(x_any));
    const int64_t dims = adapters_any ? 3 : 2;
    check(down_weight_any.dim() == dims && down_weight_any.size(dims - 2) > 0 &&
              down_weight_any.size(0) > 0,
          "down_weight must be ", adapters_any ? "[A, rank, C]" : "[rank, C]", ", got ",
          shape_of(down_weight_any));
    x = rows(x_any, "x");
    B = x.size(0), T = x.size(1), C = x.size(2), r = down_weight_any.size(dims - 2);
    if (adapters_any) {
      A = down_weight_any.size(0);
      check(A <= 65535, "down_weight must be of at most 65535 adapters, got ", A);
      adapters = as_integers(*adapters_any, "adapters", {B}, 0, A, x, "x");
    }
    const auto own = [&](const auto& t, const char* name, std::vector<int64_t> shape,
                         ScalarType dtype) {
      if (adapters) shape.insert(shape.begin(), A);
      return as_shaped(t, name, shape, dtype, x, "x");
    };
    norm_weight = own(norm_weight_any, "norm_weight", {C}, sum);
    norm_bias = own(norm_bias_any, "norm_bias", {C}, sum);
    down_weight = own(down_weight_any, "down_weight", {r, C}, weight);
    down_bias = own(down_bias_any, "down_bias", {r}, sum);
    scale_weight = own(scale_weight_any, "scale_weight", {1, C}, sum);
    scale_bias = own(scale_bias_any, "scale_bias", {1}, sum);
    up_weight = own(up_weight_any, "up_weight", {C, r}, weight);
    up_bias = own(up_bias_any, "up_bias", {C}, sum);
    path_factor = as_shaped(path_factor_any, "path_factor", {B}, sum, x, "x");
    if (seed_any) {
      check(seed_any->numel() == 1, "seed must be one number, got ", shape_of(*seed_any));
      seed = as_index(*seed_any, "seed", x, "x");
    }
  }

  /// Activations keep their dtype, but float64 cannot be mixed with others.
  void check_activations(ScalarType dtype, const char* name) const {
    check_real(dtype, name);
    check((dtype == ScalarType::Double) == (compute == ScalarType::Double), name,
          " must be float64 where the products are and only there: they are ", name_of(compute),
          ", got ", name_of(dtype));
  }
  Tensor rows(const Tensor& t, const char* name) const {
    check_activations(t.scalar_type(), name);
    return as_contiguous(t, name, t.scalar_type());
  }
  Tensor rows_like_x(const Tensor& t, const char* name) const {
    return rows(as_shaped(t, name, {B, T, C}, t.scalar_type(), x, "x"), name);
  }
  OptionalTensor rows_like_x(const OptionalTensor& t, const char* name) const {
    return t ? OptionalTensor(rows_like_x(*t, name)) : std::nullopt;
  }

  Tensor make(std::initializer_list<int64_t> shape, ScalarType dtype, bool wanted = true) const {
    return wanted ? torch::stable::new_empty(x, shape, dtype)
                  : torch::stable::new_empty(x, {0}, dtype);
  }

  DynamicAdapterArgs args(const std::string& activation, double static_scale, double dropout,
                          double eps, bool tf32) const {
    check(0 <= dropout && dropout <= 1, "dropout must lie in [0, 1], got ", dropout);
    check(eps >= 0, "eps must be at least 0, got ", eps);
    return {.x = x.const_data_ptr(),
            .norm_weight = data_or_null(norm_weight),
            .norm_bias = data_or_null(norm_bias),
            .down_weight = down_weight.const_data_ptr(),
            .down_bias = down_bias.const_data_ptr(),
            .scale_weight = data_or_null(scale_weight),
            .scale_bias = data_or_null(scale_bias),
            .up_weight = up_weight.const_data_ptr(),
            .up_bias = up_bias.const_data_ptr(),
            .path_factor = data_or_null(path_factor),
            .seed = data_or_null<int64_t>(seed),
            .adapters = data_or_null<int64_t>(adapters),
            .B = B,
            .T = T,
            .C = C,
            .r = r,
            .A = A,
            .x_dtype = real_of(x),
            .compute = real_of(compute),
            .weight_dtype = real_of(weight),
            .activation = activation_named(activation),
            .static_scale = static_scale,
            .dropout = dropout,
            .eps = eps,
            .tf32 = tf32};
  }
};

struct Outputs {
  Tensor out, prompt_mean, hidden, stats;
};

Outputs run_forward(const Inputs& in, const OptionalTensor& mlp_out_any,
                    const OptionalTensor& residual_any, const std::string& activation,
                    double static_scale, double dropout, double eps, ScalarType out_dtype,
                    bool prompt, bool keep_hidden, bool tf32) {
  in.check_activations(out_dtype, "out_dtype");
  const OptionalTensor mlp_out = in.rows_like_x(mlp_out_any, "mlp_out");
  const OptionalTensor residual = in.rows_like_x(residual_any, "residual");
  Outputs made{.out = in.make({in.B, in.T, in.C}, out_dtype),
               .prompt_mean = in.make({in.B, in.C}, out_dtype, prompt),
               .hidden = in.make({in.B, in.T, in.r}, in.compute, keep_hidden),
               .stats = in.make({in.B, in.T, 3}, in.sum)};
  if (in.B == 0) return made;
  DynamicAdapterArgs args = in.args(activation, static_scale, dropout, eps, tf32);
  args.mlp_out = data_or_null(mlp_out);
  args.residual = data_or_null(residual);
  args.out = data_or_null(made.out);
  args.prompt_mean = data_or_null(made.prompt_mean);
  args.hidden = data_or_null(made.hidden);
  args.stats = data_or_null(made.stats);
  args.mlp_dtype = mlp_out ? real_of(*mlp_out) : Real::f32;
  args.residual_dtype = residual ? real_of(*residual) : Real::f32;
  args.out_dtype = real_of(made.out);
  launch(&backend::dynamic_adapter, args, in.x);
  return made;
}

}  // namespace

/// (out [B, T, C], prompt_mean [B, C], hidden [B, T, r], stats [B, T, 3]); prompt_mean and hidden
/// are empty unless `prompt` and `keep_hidden` ask for them.
std::tuple<Tensor, Tensor, Tensor, Tensor> dynamic_adapter(
    const Tensor& x, const OptionalTensor& norm_weight, const OptionalTensor& norm_bias,
    const Tensor& down_weight, const Tensor& down_bias, const OptionalTensor& scale_weight,
    const OptionalTensor& scale_bias, const Tensor& up_weight, const Tensor& up_bias,
    const OptionalTensor& mlp_out, const OptionalTensor& residual,
    const OptionalTensor& path_factor, const OptionalTensor& seed, std::string activation,
    double static_scale, double dropout, double eps, ScalarType compute, ScalarType out_dtype,
    bool prompt, bool keep_hidden, bool tf32) {
  const Inputs in(compute, x, norm_weight, norm_bias, down_weight, down_bias, scale_weight,
                  scale_bias, up_weight, up_bias, path_factor, seed);
  Outputs made = run_forward(in, mlp_out, residual, activation, static_scale, dropout, eps,
                             out_dtype, prompt, keep_hidden, tf32);
  return {made.out, made.prompt_mean, made.hidden, made.stats};
}

/// (out [B, T, C], prompt_mean [B, C] or empty): the same, with one of several adapters per cloud.
std::tuple<Tensor, Tensor> dynamic_adapters(
    const Tensor& x, const Tensor& adapters, const OptionalTensor& norm_weight,
    const OptionalTensor& norm_bias, const Tensor& down_weight, const Tensor& down_bias,
    const OptionalTensor& scale_weight, const OptionalTensor& scale_bias, const Tensor& up_weight,
    const Tensor& up_bias, const OptionalTensor& mlp_out, const OptionalTensor& residual,
    std::string activation, double static_scale, double eps, ScalarType compute,
    ScalarType out_dtype, bool prompt, bool tf32) {
  const Inputs in(compute, x, norm_weight, norm_bias, down_weight, down_bias, scale_weight,
                  scale_bias, up_weight, up_bias, std::nullopt, std::nullopt, adapters);
  Outputs made = run_forward(in, mlp_out, residual, activation, static_scale, 0, eps, out_dtype,
                             prompt, false, tf32);
  return {made.out, made.prompt_mean};
}

/// Gradients of x, mlp_out, norm_weight, norm_bias, down_weight, down_bias, scale_weight,
/// scale_bias, up_weight and up_bias; those that `wanted` does not name are empty.
using AdapterGradients =
    std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;
AdapterGradients dynamic_adapter_backward(
    const OptionalTensor& grad_out_any, const OptionalTensor& grad_prompt_any, const Tensor& x,
    const OptionalTensor& norm_weight, const OptionalTensor& norm_bias, const Tensor& down_weight,
    const Tensor& down_bias, const OptionalTensor& scale_weight, const OptionalTensor& scale_bias,
    const Tensor& up_weight, const Tensor& up_bias, const OptionalTensor& path_factor,
    const OptionalTensor& seed, const Tensor& stats_any, const OptionalTensor& hidden_any,
    std::string activation, double static_scale, double dropout, double eps, ScalarType compute,
    ScalarType mlp_dtype, std::vector<std::string> wanted, bool tf32) {
  const Inputs in(compute, x, norm_weight, norm_bias, down_weight, down_bias, scale_weight,
                  scale_bias, up_weight, up_bias, path_factor, seed);
  const auto [B, T, C, r] = std::tuple{in.B, in.T, in.C, in.r};
  const OptionalTensor grad_out = in.rows_like_x(grad_out_any, "grad_out");
  check(grad_out || grad_prompt_any, "grad_out or grad_prompt must be given");
  const ScalarType out_dtype = (grad_out_any ? *grad_out_any : *grad_prompt_any).scalar_type();
  in.check_activations(out_dtype, "grad_prompt");
  in.check_activations(mlp_dtype, "mlp_dtype");
  const OptionalTensor grad_prompt =
      as_shaped(grad_prompt_any, "grad_prompt", {B, C}, out_dtype, in.x, "x");
  const Tensor stats = as_shaped(stats_any, "stats", {B, T, 3}, in.sum, in.x, "x");
  const OptionalTensor hidden = as_shaped(hidden_any, "hidden", {B, T, r}, compute, in.x, "x");

  // Removes each name from `wanted`, so that only unknown names are left at the end.
  const auto gradient = [&](const char* name, std::initializer_list<int64_t> shape,
                            ScalarType dtype, bool exists = true) {
    const bool is_wanted = std::erase(wanted, name) > 0;
    check(exists || !is_wanted, "wanted must name only gradients of what is given, got ", name);
    return in.make(shape, dtype, is_wanted);
  };
  const bool norm = in.norm_weight.has_value(), scale = in.scale_weight.has_value();
  AdapterGradients grads = {
      gradient("x", {B, T, C}, in.x.scalar_type()),
      gradient("mlp_out", {B, T, C}, mlp_dtype, grad_out.has_value()),
      gradient("norm_weight", {C}, in.sum, norm),
      gradient("norm_bias", {C}, in.sum, norm),
      gradient("down_weight", {r, C}, in.sum),
      gradient("down_bias", {r}, in.sum),
      gradient("scale_weight", {1, C}, in.sum, scale),
      gradient("scale_bias", {1}, in.sum, scale),
      gradient("up_weight", {C, r}, in.sum),
      gradient("up_bias", {C}, in.sum),
  };
  check(wanted.empty(), "wanted must name only gradients of what is given, got ",
        wanted.empty() ? "" : wanted.front());
  DynamicAdapterBackwardArgs args{.forward = in.args(activation, static_scale, dropout, eps, tf32)};
  args.forward.stats = const_cast<void*>(stats.const_data_ptr());
  args.forward.hidden = const_cast<void*>(data_or_null(hidden));
  args.forward.mlp_dtype = real_of(mlp_dtype);
  args.forward.out_dtype = real_of(out_dtype);
  args.grad_out = data_or_null(grad_out);
  args.grad_prompt_mean = data_or_null(grad_prompt);
  args.grad_x = data_or_null(std::get<0>(grads));
  args.grad_mlp_out = data_or_null(std::get<1>(grads));
  args.grad_norm_weight = data_or_null(std::get<2>(grads));
  args.grad_norm_bias = data_or_null(std::get<3>(grads));
  args.grad_down_weight = data_or_null(std::get<4>(grads));
  args.grad_down_bias = data_or_null(std::get<5>(grads));
  args.grad_scale_weight = data_or_null(std::get<6>(grads));
  args.grad_scale_bias = data_or_null(std::get<7>(grads));
  args.grad_up_weight = data_or_null(std::get<8>(grads));
  args.grad_up_bias = data_or_null(std::get<9>(grads));
  launch(&backend::dynamic_adapter_backward, args, in.x);
  return grads;
}

DAPT_REGISTER(m) {
  m.impl("dynamic_adapter", TORCH_BOX(&dynamic_adapter));
  m.impl("dynamic_adapters", TORCH_BOX(&dynamic_adapters));
  m.impl("dynamic_adapter_backward", TORCH_BOX(&dynamic_adapter_backward));
}

}  // namespace dapt
