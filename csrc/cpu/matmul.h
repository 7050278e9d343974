// torch's matrix product on plain memory: MKL or oneDNN, with the matrix units that they support.
// Inside parallel_for it runs on the calling thread.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <array>

#include "cpu/isa.h"
#include "ops.h"

namespace dapt::cpu::DAPT_ISA {

/// A row-major matrix of the product's dtype; with `transposed`, its transpose is the factor.
struct Operand {
  const void* data;
  bool transposed = false;
};

/// out [rows, cols] = a [rows, inner] · b [inner, cols].
inline void matmul(Real dtype, Operand a, Operand b, void* out, int64_t rows, int64_t inner,
                   int64_t cols) {
  using torch::headeronly::ScalarType;
  constexpr std::array kScalarTypes = {ScalarType::Float, ScalarType::Double, ScalarType::Half,
                                       ScalarType::BFloat16};
  const auto tensor = [&](Operand operand, int64_t height, int64_t width) {
    const std::array size = {height, width};
    const std::array stride =
        operand.transposed ? std::array<int64_t, 2>{1, height} : std::array<int64_t, 2>{width, 1};
    return torch::stable::from_blob(const_cast<void*>(operand.data), size, stride,
                                    torch::headeronly::DeviceType::CPU,
                                    kScalarTypes[size_t(dtype)]);
  };
  const auto to = tensor({out}, rows, cols);
  const auto left = tensor(a, rows, inner), right = tensor(b, inner, cols);
  TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mm_out(to.get(), left.get(), right.get()));
}

}  // namespace dapt::cpu::DAPT_ISA
