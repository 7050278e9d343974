// Memory access patterns, and what the layer counts for them. Built with the race hooks, which see
// each access.
#include "cuda/launch.h"
#include "cuda/warp.cuh"
#include "cuda_on_host/traffic.h"
#include "exports.h"

namespace dapt::cuda {

struct alignas(16) Four {
  float at[4];
};

// One warp: lane i reads and writes word i * stride of shared memory.
__global__ void words_apart(int stride) {
  __shared__ float words[32 * 32];
  words[lane_id() * stride] = lane_id();
  __syncwarp();
  const volatile float read = words[lane_id() * stride];
  static_cast<void>(read);
}

// One warp: lane i writes 16 bytes at word i * stride, and reads what its neighbor wrote.
__global__ void fours_apart(int stride, float* out) {
  __shared__ __align__(16) float words[32 * 32];
  Four write;
  for (int i = 0; i < 4; ++i) write.at[i] = lane_id() + i;
  *reinterpret_cast<Four*>(words + lane_id() * stride) = write;
  __syncwarp();
  const Four read = *reinterpret_cast<Four*>(words + (lane_id() ^ 1) * stride);
  out[lane_id()] = read.at[0] + read.at[3];
}

// One warp: all lanes read one word, then add to it.
__global__ void one_word(unsigned* out) {
  __shared__ unsigned word;
  if (lane_id() == 0) word = 0;
  __syncwarp();
  const unsigned read = word;
  __syncwarp();
  atomicAdd(&word, 1u + read);
  __syncwarp();
  if (lane_id() == 0) *out = word;
}

// One warp: lane i sums row i; some rows are longer than others.
__global__ void rows(const float* values, int columns, float* sums) {
  float sum = 0;
  for (int i = 0; i < columns + int(lane_id()) / 16; ++i)
    sum += values[lane_id() * (columns + 1) + i];
  sums[lane_id()] = sum;
}

// One warp: lane i copies word i * stride.
__global__ void copy_apart(const float* from, float* to, int stride) {
  to[lane_id() * stride] = from[lane_id() * stride];
}

}  // namespace dapt::cuda

using namespace dapt::cuda;

EXPORT const char* run_pattern(const char* name, int argument, float* values, float* out) {
  return message_of([&] {
    const std::string kernel = name;
    if (kernel == "words_apart") DAPT_LAUNCH(words_apart, 1, 32, 0, nullptr, argument);
    if (kernel == "fours_apart") DAPT_LAUNCH(fours_apart, 1, 32, 0, nullptr, argument, out);
    if (kernel == "one_word")
      DAPT_LAUNCH(one_word, 1, 32, 0, nullptr, reinterpret_cast<unsigned*>(out));
    if (kernel == "rows") DAPT_LAUNCH(rows, 1, 32, 0, nullptr, values, argument, out);
    if (kernel == "copy_apart") DAPT_LAUNCH(copy_apart, 1, 32, 0, nullptr, values, out, argument);
  });
}

// Returns wavefronts, those without conflicts, sectors, those without idle bytes; restarts
// counting.
EXPORT void take_traffic(std::uint64_t* counts) {
  for (const auto& kernel : dapt::on_host::traffic()) {
    counts[0] = kernel.wavefronts, counts[1] = kernel.least_wavefronts;
    counts[2] = kernel.sectors, counts[3] = kernel.least_sectors;
  }
  dapt::on_host::count_traffic(true);
}
