#include "checks.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <iterator>

namespace dapt {
namespace {

// The first value with an all-ones exponent, or -1. Two passes: the first one vectorizes.
int64_t first_not_finite(const float* values, int64_t count) {
  constexpr uint32_t kExponent = 0x7f800000;
  uint32_t any = 0;
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, values + i, sizeof bits);
    any |= uint32_t((bits & kExponent) == kExponent);
  }
  if (!any) return -1;
  for (int64_t i = 0;; ++i) {
    uint32_t bits;
    std::memcpy(&bits, values + i, sizeof bits);
    if ((bits & kExponent) == kExponent) return i;
  }
}

void check_finite(const Tensor& points, const char* name) {
  const float* p = points.const_data_ptr<float>();
  const int64_t bad = first_not_finite(p, points.numel());
  if (bad < 0) return;
  const int64_t N = points.size(1), D = points.size(2), row = bad / D;
  std::ostringstream got;  // the whole point up to 3-D, else the one coordinate that is not finite
  for (int64_t d = 0; D <= 3 && d < D; ++d) got << (d ? ", " : "(") << p[D * row + d];
  if (D <= 3) {
    got << ")";
  } else {
    got << p[bad] << " at coordinate " << bad % D;
  }
  check(false, name, " must be finite, got ", got.str(), " in cloud ", row / N, ", point ",
        row % N);
}

// Reading a CUDA tensor waits for the device, so its values are checked only on request.
bool values_are_checked(const Tensor& t) {
  if (t.is_cpu()) return true;
  const char* wish = std::getenv("DAPT_CHECK");
  return wish && std::strcmp(wish, "1") == 0;
}

Tensor on_cpu(const Tensor& t) {
  return t.is_cpu()
             ? t
             : torch::stable::to(t, torch::stable::Device(torch::headeronly::DeviceType::CPU));
}

template <class Sizes>
std::string list_of(const Sizes& sizes) {
  std::ostringstream out;
  out << '[';
  for (size_t d = 0; d < sizes.size(); ++d) out << (d ? ", " : "") << sizes[d];
  out << ']';
  return out.str();
}

}  // namespace

Tensor as_points(const Tensor& t, const char* name) {
  check(t.dim() == 3 && t.size(2) == 3, name, " must be [B, N, 3], got ", shape_of(t));
  return as_vectors(t, name);
}

Tensor as_vectors(const Tensor& t, const char* name) {
  check(t.dim() == 3 && t.size(2) > 0, name,
        " must be [B, N, D] with at least one coordinate, got ", shape_of(t));
  Tensor points = as_contiguous(t, name, ScalarType::Float);
  if (values_are_checked(points)) check_finite(on_cpu(points), name);
  return points;
}

Tensor as_contiguous(const Tensor& t, const char* name, ScalarType dtype) {
  check_real(t.scalar_type(), name);
  const Tensor real = t.scalar_type() == dtype ? t : torch::stable::to(t, dtype);
  return real.is_contiguous() ? real : torch::stable::contiguous(real);
}

Tensor as_shaped(const Tensor& t, const char* name, const std::vector<int64_t>& shape,
                 ScalarType dtype, const Tensor& like, const char* like_name) {
  const auto sizes = t.sizes();
  check(std::equal(shape.begin(), shape.end(), sizes.begin(), sizes.end()), name, " must be ",
        list_of(shape), ", got ", shape_of(t));
  check_device(t, name, like, like_name);
  return as_contiguous(t, name, dtype);
}

OptionalTensor as_shaped(const OptionalTensor& t, const char* name,
                         const std::vector<int64_t>& shape, ScalarType dtype, const Tensor& like,
                         const char* like_name) {
  return t ? OptionalTensor(as_shaped(*t, name, shape, dtype, like, like_name)) : std::nullopt;
}

Tensor as_index(const Tensor& t, const char* name, const Tensor& like, const char* like_name) {
  check(t.scalar_type() == ScalarType::Long, name, " must be int64, got ",
        name_of(t.scalar_type()));
  check_device(t, name, like, like_name);
  return t.is_contiguous() ? t : torch::stable::contiguous(t);
}

Tensor as_integers(const Tensor& t_any, const char* name, const std::vector<int64_t>& shape,
                   int64_t low, int64_t high, const Tensor& like, const char* like_name) {
  const auto sizes = t_any.sizes();
  check(std::equal(shape.begin(), shape.end(), sizes.begin(), sizes.end()), name, " must be ",
        list_of(shape), ", got ", shape_of(t_any));
  const Tensor t = as_index(t_any, name, like, like_name);
  if (values_are_checked(t)) {
    const Tensor readable = on_cpu(t);
    const int64_t* value = readable.const_data_ptr<int64_t>();
    const auto outside = [=](int64_t v) { return uint64_t(v) - low >= uint64_t(high) - low; };
    const int64_t count = t.numel();
    bool any = false;
    for (int64_t i = 0; i < count; ++i) any |= outside(value[i]);
    for (int64_t i = 0; any && i < count; ++i) {
      check(!outside(value[i]), name, " must lie in [", low, ", ", high, "), got ", value[i]);
    }
  }
  return t;
}

OptionalTensor as_integers(const OptionalTensor& t, const char* name,
                           const std::vector<int64_t>& shape, int64_t low, int64_t high,
                           const Tensor& like, const char* like_name) {
  return t ? OptionalTensor(as_integers(*t, name, shape, low, high, like, like_name))
           : std::nullopt;
}

Tensor as_rows(const Tensor& idx_any, int64_t N, const Tensor& like, const char* like_name) {
  const Tensor idx = as_index(idx_any, "idx", like, like_name);
  if (values_are_checked(idx)) {
    const Tensor readable = on_cpu(idx);
    const int64_t* value = readable.const_data_ptr<int64_t>();
    const int64_t count = idx.numel();
    uint64_t largest = 0;  // of value + 1: -1 becomes 0, anything below wraps to a huge number
    for (int64_t i = 0; i < count; ++i) largest = std::max(largest, uint64_t(value[i]) + 1);
    for (int64_t i = 0; largest > uint64_t(N) && i < count; ++i) {
      check(-1 <= value[i] && value[i] < N, "idx must lie in [-1, ", N, "), got ", value[i],
            " for cloud ", i / (count / idx.size(0)));
    }
  }
  return idx;
}

OptionalTensor as_lengths(const OptionalTensor& lengths, const Tensor& points, int64_t wanted,
                          const char* what) {
  const int64_t B = points.size(0), N = points.size(1);
  check(wanted >= 1, what, " must be at least 1, got ", wanted);
  if (!lengths) {
    check(B == 0 || wanted <= N, what, " must be at most the ", N, " points of a cloud, got ",
          wanted);
    return std::nullopt;
  }
  check(lengths->dim() == 1 && lengths->size(0) == B, "lengths must be [", B,
        "], one value per cloud, got ", shape_of(*lengths));
  const Tensor valid = as_index(*lengths, "lengths", points, "points");
  if (values_are_checked(valid)) {
    const Tensor readable = on_cpu(valid);
    const int64_t* value = readable.const_data_ptr<int64_t>();
    for (int64_t b = 0; b < B; ++b) {
      check(0 <= value[b] && value[b] <= N, "lengths must lie in [0, ", N, "], got ", value[b],
            " for cloud ", b);
      check(wanted <= value[b], what, " must be at most the length of each cloud, got ", wanted,
            " for cloud ", b, " of length ", value[b]);
    }
  }
  return valid;
}

OptionalTensor as_starts(const OptionalTensor& starts, int64_t start, const Tensor& points,
                         const OptionalTensor& lengths) {
  const int64_t B = points.size(0), N = points.size(1);
  const bool readable = !lengths || values_are_checked(*lengths);
  const Tensor lengths_read = lengths && readable ? on_cpu(*lengths) : Tensor();
  const auto length_of = [&](int64_t b) {
    return lengths && readable ? lengths_read.const_data_ptr<int64_t>()[b] : N;
  };
  const auto check_start = [&](int64_t value, int64_t b) {
    check(0 <= value && value < length_of(b), "start must lie in [0, ", length_of(b), "), got ",
          value, " for cloud ", b);
  };
  if (!starts) {
    for (int64_t b = 0; b < B; ++b) check_start(start, b);
    return std::nullopt;
  }
  check(starts->dim() == 1 && starts->size(0) == B, "start must be an int, \"random\" or [", B,
        "], one index per cloud, got ", shape_of(*starts));
  const Tensor chosen = as_index(*starts, "start", points, "points");
  if (values_are_checked(chosen)) {
    const Tensor chosen_read = on_cpu(chosen);
    for (int64_t b = 0; b < B; ++b) check_start(chosen_read.const_data_ptr<int64_t>()[b], b);
  }
  return chosen;
}

std::string shape_of(const Tensor& t) { return list_of(t.sizes()); }

const char* name_of(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Byte: return "uint8";
    case ScalarType::Char: return "int8";
    case ScalarType::Short: return "int16";
    case ScalarType::Int: return "int32";
    case ScalarType::Long: return "int64";
    case ScalarType::Half: return "float16";
    case ScalarType::Float: return "float32";
    case ScalarType::Double: return "float64";
    case ScalarType::ComplexHalf: return "complex32";
    case ScalarType::ComplexFloat: return "complex64";
    case ScalarType::ComplexDouble: return "complex128";
    case ScalarType::Bool: return "bool";
    case ScalarType::BFloat16: return "bfloat16";
    default: return torch::headeronly::toString(dtype);
  }
}

void check_real(ScalarType dtype, const char* name) {
  const bool real = dtype == ScalarType::Float || dtype == ScalarType::Double ||
                    dtype == ScalarType::Half || dtype == ScalarType::BFloat16;
  check(real, name, " must be float32, float64, float16 or bfloat16, got ", name_of(dtype));
}

Real real_of(const Tensor& t) { return real_of(t.scalar_type()); }

Real real_of(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float: return Real::f32;
    case ScalarType::Double: return Real::f64;
    case ScalarType::Half: return Real::f16;
    case ScalarType::BFloat16: return Real::bf16;
    default: throw std::logic_error(std::string("no kernel computes in ") + name_of(dtype));
  }
}

ScalarType sum_dtype(ScalarType dtype) {
  return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

ScalarType weight_dtype(ScalarType compute, std::initializer_list<ScalarType> weights) {
  const bool in_16_bits = compute == ScalarType::Half || compute == ScalarType::BFloat16;
  const bool all_float = std::ranges::count(weights, ScalarType::Float) == std::ssize(weights);
  return kOnCuda && in_16_bits && all_float ? ScalarType::Float : compute;
}

void check_device(const Tensor& t, const char* name, const Tensor& like, const char* like_name) {
  const auto place = [](const Tensor& x) {
    return x.is_cpu() ? std::string("cpu") : "cuda:" + std::to_string(x.get_device_index());
  };
  check(place(t) == place(like), name, " must be on the device of ", like_name, " (", place(like),
        "), got ", place(t));
}

void check_same_batch(const Tensor& t, const char* name, const Tensor& like,
                      const char* like_name) {
  check(t.size(0) == like.size(0), name, " must have the batch size of ", like_name, " (",
        like.size(0), "), got ", t.size(0));
}

}  // namespace dapt
