// What launch plans need to know about a GPU. No CUDA header, so plans can be made without CUDA.
#pragma once

namespace dapt::cuda {

struct Device {
  int multiprocessors;
  int shared_per_block;  // bytes, including the opt-in that launches make themselves
  int max_cluster;       // blocks in the largest cluster that fits; 1 without clusters
  // The compute capability that the kernels running there were compiled for; 80 means 8.0. If the
  // driver compiled them from older PTX, it is lower than the GPU's: what a kernel may use was
  // decided when that PTX was generated.
  int code;
};

constexpr Device kA100{108, 163 * 1024, 1, 80};
constexpr Device kH100{132, 227 * 1024, 16, 90};

/// The current device of the calling thread; does not synchronize.
Device current_device();

}  // namespace dapt::cuda
