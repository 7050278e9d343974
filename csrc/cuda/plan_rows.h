// How kernels that move or sum rows of channels divide them among threads: pure functions of shape
// and alignment. No CUDA header.
#pragma once

#include <cstdint>
#include <string>

namespace dapt::cuda {

/// The rows of a cloud are divided among blocks of kRowThreads threads.
constexpr int kRowThreads = 256;

struct RowPlan {
  int vector;  // bytes that a thread moves at once: 1, 2, 4, 8 or 16
  int team;    // threads per row, a power of two up to 128
};

/// The widest vector of up to `most` bytes to which rows and pointers are aligned, and about as
/// many threads as a row has vectors.
inline RowPlan plan_rows(int64_t row_bytes, int most, std::initializer_list<const void*> pointers) {
  uintptr_t alignment = static_cast<uintptr_t>(row_bytes);
  for (const void* pointer : pointers) alignment |= reinterpret_cast<uintptr_t>(pointer);
  RowPlan plan{.vector = most, .team = 1};
  while (alignment % plan.vector != 0) plan.vector /= 2;
  while (plan.team < 128 && plan.team * plan.vector < row_bytes) plan.team *= 2;
  return plan;
}

inline std::string describe(const RowPlan& plan) {
  return std::to_string(plan.team) + (plan.team == 1 ? " thread" : " threads") + " per row, " +
         std::to_string(plan.vector) + " bytes at once";
}

}  // namespace dapt::cuda
