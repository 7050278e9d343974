// What launch plans need to know of a GPU. No CUDA header: plans are made and printed without one.
#pragma once

namespace dapt::cuda {

struct Device {
  int multiprocessors;
  int shared_per_block;  // bytes, with the opt-in that a launch makes by itself
  int max_cluster;       // blocks of the largest cluster that fits, 1 without clusters
  // The compute capability, 80 for 8.0, for which the kernels were compiled that run there. Of one
  // that the driver compiled from older PTX it is less than the GPU's: what a kernel may do was
  // decided when that PTX was made.
  int code;
};

constexpr Device kA100{108, 163 * 1024, 1, 80};
constexpr Device kH100{132, 227 * 1024, 16, 90};

/// The current device of the calling thread; waits for nothing.
Device current_device();

}  // namespace dapt::cuda
