// Argument checks. A message is one sentence that names the argument, what it must be and what it
// is. Values on a CUDA device are checked only with DAPT_CHECK=1, because reading them waits for
// the device.
#pragma once

#include <initializer_list>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "backend.h"

namespace dapt {

using OptionalTensor = std::optional<Tensor>;

/// Throws (a RuntimeError in Python) the concatenation of `parts` unless `ok`.
template <class... Parts>
void check(bool ok, const Parts&... parts) {
  if (ok) [[likely]]
    return;
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

std::string shape_of(const Tensor& t);
const char* name_of(ScalarType dtype);
void check_real(ScalarType dtype, const char* name);  // one of the dtypes that Real lists
void check_device(const Tensor& t, const char* name, const Tensor& like, const char* like_name);
void check_same_batch(const Tensor& t, const char* name, const Tensor& like, const char* like_name);

/// Finite clouds [B, N, 3] of any floating type, as contiguous float32.
Tensor as_points(const Tensor& t, const char* name);

/// Finite vectors [B, N, D], likewise.
Tensor as_vectors(const Tensor& t, const char* name);

/// Floating numbers of any shape, as contiguous `dtype`.
Tensor as_contiguous(const Tensor& t, const char* name, ScalarType dtype);

/// Floating numbers [shape] on the device of `like`, as contiguous `dtype`.
Tensor as_shaped(const Tensor& t, const char* name, const std::vector<int64_t>& shape,
                 ScalarType dtype, const Tensor& like, const char* like_name);
OptionalTensor as_shaped(const OptionalTensor& t, const char* name,
                         const std::vector<int64_t>& shape, ScalarType dtype, const Tensor& like,
                         const char* like_name);

/// int64 of any shape on the device of `like`, contiguous.
Tensor as_index(const Tensor& t, const char* name, const Tensor& like, const char* like_name);

/// int64 [shape] in [low, high) on the device of `like`, contiguous.
Tensor as_integers(const Tensor& t, const char* name, const std::vector<int64_t>& shape,
                   int64_t low, int64_t high, const Tensor& like, const char* like_name);
OptionalTensor as_integers(const OptionalTensor& t, const char* name,
                           const std::vector<int64_t>& shape, int64_t low, int64_t high,
                           const Tensor& like, const char* like_name);

/// Row numbers in [-1, N) of the rows of `like`, of any shape, contiguous.
Tensor as_rows(const Tensor& idx, int64_t N, const Tensor& like, const char* like_name);

/// lengths [B] in [0, N]; checks that `wanted` (the argument named `what`) is at least 1 and at
/// most the length of every cloud.
OptionalTensor as_lengths(const OptionalTensor& lengths, const Tensor& points, int64_t wanted,
                          const char* what);

/// starts [B], or null after checking `start`: indices of valid points.
OptionalTensor as_starts(const OptionalTensor& starts, int64_t start, const Tensor& points,
                         const OptionalTensor& lengths);

/// The kernels' name of a dtype that check_real has accepted.
Real real_of(ScalarType dtype);
Real real_of(const Tensor& t);

/// The dtype in which kernels sum numbers of `dtype`: float64 for float64, else float32.
ScalarType sum_dtype(ScalarType dtype);

/// The dtype in which a product in `compute` takes its weights: `compute`, except that CUDA kernels
/// round float32 weights to 16 bits themselves.
ScalarType weight_dtype(ScalarType compute, std::initializer_list<ScalarType> weights);

/// Data of an optional tensor, or null.
inline const void* data_or_null(const OptionalTensor& t) {
  return t ? t->const_data_ptr() : nullptr;
}
template <class T>
const T* data_or_null(const OptionalTensor& t) {
  return t ? t->const_data_ptr<T>() : nullptr;
}

/// Data of a tensor to be written, or null if it is empty because it is not wanted.
inline void* data_or_null(Tensor& t) { return t.numel() > 0 ? t.mutable_data_ptr() : nullptr; }

}  // namespace dapt
