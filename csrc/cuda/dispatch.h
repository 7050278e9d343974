// Small host-side helpers for launchers.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace dapt::cuda {

/// Calls f with `value`, which must be one of those listed, as a compile-time constant:
/// dispatch<1, 2, 4>("rows", rows, [&](auto rows) { ... kernel<rows()> ... });
template <int... kListed, class Function>
void dispatch(const char* name, int value, const Function& f) {
  const bool found =
      ((value == kListed && (f(std::integral_constant<int, kListed>()), true)) || ...);
  if (found) return;
  std::string listed;
  ((listed += (listed.empty() ? "" : ", ") + std::to_string(kListed)), ...);
  throw std::invalid_argument(std::string(name) + " must be one of " + listed + ", got " +
                              std::to_string(value));
}

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// A one-dimensional grid of this many blocks.
inline unsigned grid_of(int64_t blocks) {
  if (blocks > INT32_MAX)
    throw std::length_error("the arguments need " + std::to_string(blocks) +
                            " thread blocks, a launch holds at most 2147483647");
  return static_cast<unsigned>(blocks);
}

/// Points of a cloud are numbered in 32 bits on the device.
inline void check_cloud_size(int64_t N) {
  if (N > INT32_MAX)
    throw std::length_error("a cloud must have at most 2147483647 points on CUDA, got " +
                            std::to_string(N));
}

}  // namespace dapt::cuda
