// A map from cells to their numbers: a hash table of cubes of 4 x 4 x 4 cells, so that neighbors
// are close in memory.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "cells.h"
#include "cpu/isa.h"

namespace dapt::cpu::DAPT_ISA {

class CellTable {
 public:
  static constexpr int kSideBits = 2, kSide = 1 << kSideBits, kCells = kSide * kSide * kSide;
  using Cube = const int32_t*;  // [kCells], -1: no cell

  CellTable() : slots_(1024) {}

  static int place_in_cube(int64_t x, int64_t y, int64_t z) {
    constexpr int kMask = kSide - 1;
    return int((x & kMask) << 2 * kSideBits | (y & kMask) << kSideBits | (z & kMask));
  }

  /// The number of a cell, which may be assigned; a new cell has -1.
  int32_t& at(int64_t scene, int64_t x, int64_t y, int64_t z) {
    const uint64_t key = cube_key(scene, x, y, z);
    if (key != last_key_) {
      if (2 * cubes() >= int64_t(slots_.size())) grow();
      Slot& slot = slots_[find(key)];
      if (slot.cube < 0) {
        slot = {key, int32_t(cubes())};
        numbers_.resize(numbers_.size() + kCells, -1);
      }
      last_key_ = key, last_cube_ = slot.cube;
    }
    return numbers_[int64_t(last_cube_) * kCells + place_in_cube(x, y, z)];
  }

  /// The cube that holds a cell, or null.
  Cube cube_of(int64_t scene, int64_t x, int64_t y, int64_t z) const {
    if (!is_cell(x, y, z)) return nullptr;
    const int32_t cube = slots_[find(cube_key(scene, x, y, z))].cube;
    return cube < 0 ? nullptr : numbers_.data() + int64_t(cube) * kCells;
  }

 private:
  struct Slot {
    uint64_t key = 0;
    int32_t cube = -1;
  };

  static uint64_t cube_key(int64_t scene, int64_t x, int64_t y, int64_t z) {
    return cell_key(scene, x >> kSideBits, y >> kSideBits, z >> kSideBits);
  }

  int64_t cubes() const { return int64_t(numbers_.size()) / kCells; }

  /// The slot of a key, or the free slot where it belongs.
  size_t find(uint64_t key) const {
    const size_t mask = slots_.size() - 1;
    size_t slot = (key * 0x9E3779B97F4A7C15ULL >> 32) & mask;
    while (slots_[slot].cube >= 0 && slots_[slot].key != key) slot = (slot + 1) & mask;
    return slot;
  }

  void grow() {
    std::vector<Slot> before(2 * slots_.size());
    std::swap(before, slots_);
    for (const Slot& slot : before) {
      if (slot.cube >= 0) slots_[find(slot.key)] = slot;
    }
  }

  std::vector<Slot> slots_;  // a power of two of them, at most half taken
  std::vector<int32_t> numbers_;
  uint64_t last_key_ = ~uint64_t{0};
  int32_t last_cube_ = -1;
};

}  // namespace dapt::cpu::DAPT_ISA
