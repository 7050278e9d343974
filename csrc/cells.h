// Cells of a grid and their positions along space-filling curves, the same on every backend.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace dapt {

constexpr int kCellBits = 16;  // of a coordinate: a scene has up to 65,536 cells along each axis
constexpr int64_t kMostCells = int64_t{1} << kCellBits;
constexpr int64_t kMostScenes = int64_t{1} << (63 - 3 * kCellBits);
constexpr int kTaps = 27;  // cells of a neighborhood, z fastest

/// Whether the coordinates are in range; negative ones mark the absence of a cell.
DAPT_HOST_DEVICE inline bool is_cell(int64_t x, int64_t y, int64_t z) {
  return (uint64_t(x) | uint64_t(y) | uint64_t(z)) < uint64_t(kMostCells);
}

/// A cell of a scene as one number, ordered by (scene, x, y, z).
DAPT_HOST_DEVICE inline uint64_t cell_key(int64_t scene, int64_t x, int64_t y, int64_t z) {
  return uint64_t(scene) << 3 * kCellBits | uint64_t(x) << 2 * kCellBits |
         uint64_t(y) << kCellBits | uint64_t(z);
}

/// Moves bit i of x, y and z to bits 3 i + 2, 3 i + 1 and 3 i.
DAPT_HOST_DEVICE inline uint64_t interleave(uint32_t x, uint32_t y, uint32_t z) {
  const auto spread = [](uint64_t bits) {
    bits = (bits | bits << 16) & 0xFF0000FFULL;
    bits = (bits | bits << 8) & 0xF00F00F00FULL;
    bits = (bits | bits << 4) & 0xC30C30C30C3ULL;
    return (bits | bits << 2) & 0x249249249249ULL;
  };
  return spread(x) << 2 | spread(y) << 1 | spread(z);
}

/// One step of Skilling's transform (2004), for one bit below the depth: if it is set in `axis`,
/// the lower bits of x are inverted, otherwise they are swapped with those of `axis`. `inside` is
/// all ones, or zero to do nothing. For x itself, pass a copy of x as `axis`.
DAPT_HOST_DEVICE inline void turn(uint32_t bit, uint32_t inside, uint32_t& x, uint32_t& axis) {
  const uint32_t below = ((1u << bit) - 1) & inside, is_set = 0u - (axis >> bit & 1);
  const uint32_t differ = (x ^ axis) & below & ~is_set;
  x ^= differ | (below & is_set);
  axis ^= differ;
}

/// The number that a Gray code stands for.
DAPT_HOST_DEVICE inline uint64_t from_gray(uint64_t code) {
  for (int shift = 1; shift < 64; shift *= 2) code ^= code >> shift;
  return code;
}

}  // namespace dapt
