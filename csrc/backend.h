// An op's file (fps.cpp, knn.cpp, ...) is compiled once per backend: into the CPU library, and with
// DAPT_CUDA into the CUDA library. This header is the only place where the two differ.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <list>

#include "ops.h"

namespace dapt {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

#ifdef DAPT_CUDA

#define DAPT_KEY CUDA
constexpr bool kOnCuda = true;

/// Runs `cuda::op` on the device and current stream of `where`; scratch tensors go back to the
/// caching allocator, which hands them out again in stream order.
template <class Args>
void launch(void (*op)(const Args&, const Context&), const Args& args, const Tensor& where) {
  torch::stable::accelerator::DeviceGuard guard(where.get_device_index());
  std::list<Tensor> held;
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(where.get_device_index(), &stream));
  Context context;
  context.stream = static_cast<CUstream_st*>(stream);
  context.scratch = [&](size_t bytes) {
    held.push_back(torch::stable::new_empty(where, {int64_t(bytes)}, ScalarType::Byte));
    return held.back().mutable_data_ptr();
  };
  op(args, context);
}
namespace backend = cuda;

#else

#define DAPT_KEY CPU
constexpr bool kOnCuda = false;

template <class Args>
void launch(void (*op)(const Args&), const Args& args, const Tensor&) {
  op(args);
}
namespace backend = cpu;

#endif

// STABLE_TORCH_LIBRARY_IMPL pastes its arguments, so the key has to be expanded first.
#define DAPT_LIBRARY_IMPL(key, m) DAPT_LIBRARY_IMPL_EXPANDED(key, m)
#define DAPT_LIBRARY_IMPL_EXPANDED(key, m) STABLE_TORCH_LIBRARY_IMPL(dapt, key, m)
/// Registers this backend's kernel: DAPT_REGISTER(m) { m.impl("fps", TORCH_BOX(&fps)); }
#define DAPT_REGISTER(m) DAPT_LIBRARY_IMPL(DAPT_KEY, m)

}  // namespace dapt
