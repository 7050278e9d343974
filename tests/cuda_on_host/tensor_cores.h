// mma and ldmatrix as PTX defines them: which lane holds which elements in which register (PTX ISA,
// "Matrix fragments for mma.m16n8k16", "mma.m16n8k8" and "ldmatrix").
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "cuda_on_host/sync.h"
#include "cuda_on_host/traffic.h"

namespace dapt::on_host {

// Two 16-bit elements share a register; tf32 ones are floats whose last 13 bits are ignored.
template <class Element>
float element_of(std::uint32_t word, int i) {
  if constexpr (sizeof(Element) == 4) {
    return std::bit_cast<float>(word & 0xffffe000);
  } else {
    const auto bits = std::uint16_t(word >> 16 * i);
    return static_cast<float>(std::bit_cast<Element>(bits));
  }
}

template <class Element>
struct Mma {
  std::uint32_t a[4], b[2];
  float* c[4];

  static constexpr int kPerWord = 4 / sizeof(Element), kInner = 8 * kPerWord;

  static void run(Lanes& lanes) {
    float left[16][kInner], right[kInner][8];
    for (int lane = 0; lane < 32; ++lane) {
      const Mma& own = *reinterpret_cast<Mma*>(lanes.value[lane]);
      const int g = lane / 4, t = lane % 4;
      for (int i = 0; i < kPerWord; ++i) {
        const int inner = t * kPerWord + i;
        for (int word = 0; word < 4; ++word)
          left[g + word % 2 * 8][inner + word / 2 * kInner / 2] =
              element_of<Element>(own.a[word], i);
        for (int word = 0; word < 2; ++word)
          right[inner + word * kInner / 2][g] = element_of<Element>(own.b[word], i);
      }
    }
    for (int lane = 0; lane < 32; ++lane) {
      const Mma& own = *reinterpret_cast<Mma*>(lanes.value[lane]);
      for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (int inner = 0; inner < kInner; ++inner)
          *own.c[i] += left[row][inner] * right[inner][column];
      }
    }
  }
};

// mma.m16n8k16 for 16-bit elements, mma.m16n8k8 for tf32: c += a · b, with c0 to c3 in place.
template <class Element>
void mma(float& c0, float& c1, float& c2, float& c3, std::uint32_t a0, std::uint32_t a1,
         std::uint32_t a2, std::uint32_t a3, std::uint32_t b0, std::uint32_t b1,
         Where where = Where::current()) {
  const Mma<Element> own{{a0, a1, a2, a3}, {b0, b1}, {&c0, &c1, &c2, &c3}};
  warp_collective("mma", 0xffffffff, reinterpret_cast<std::uint64_t>(&own), 0, &Mma<Element>::run,
                  where);
}

struct LoadMatrices {
  const void* row;
  std::uint32_t* words;

  static void run(Lanes& lanes) {
    const auto of = [&](int lane) { return reinterpret_cast<LoadMatrices*>(lanes.value[lane]); };
    std::uint16_t matrix[4][8][8];
    for (int lane = 0; lane < 32; ++lane)
      std::memcpy(matrix[lane / 8][lane % 8], of(lane)->row, sizeof matrix[0][0]);
    for (int lane = 0; lane < 32; ++lane)
      for (int i = 0; i < 4; ++i)
        of(lane)->words[i] = matrix[i][lane % 4 * 2][lane / 4] |
                             std::uint32_t(matrix[i][lane % 4 * 2 + 1][lane / 4]) << 16;
  }
};

// ldmatrix.m8n8.x4.trans for 16-bit elements: lane i passes row i % 8 of matrix i / 8.
inline void load_matrices_transposed(const void* row, std::uint32_t (&words)[4],
                                     Where where = Where::current()) {
  note_access(row, 16, __builtin_return_address(0), false);
  if (reinterpret_cast<std::uintptr_t>(row) % 16)
    fail("loads a matrix from a row that is not aligned to 16 bytes");
  const LoadMatrices own{row, words};
  warp_collective("ldmatrix", 0xffffffff, reinterpret_cast<std::uint64_t>(&own), 0,
                  &LoadMatrices::run, where);
}

}  // namespace dapt::on_host
