// Positions of cells along space-filling curves, on the CPU.
#include <algorithm>

#include "cells.h"
#include "cpu/parallel.h"
#include "cpu/rows.h"
#include "ops.h"

namespace dapt::cpu::DAPT_ISA {
namespace {

constexpr int64_t kTogether = 64;  // cells processed at once

struct Cells {
  uint32_t axes[3][kTogether], depth[kTogether], deepest;
};

void turn_to_hilbert(Cells& cells) {
  uint32_t* x = cells.axes[0];
  for (uint32_t bit = cells.deepest; bit-- > 0;) {
    for (uint32_t* axis : cells.axes) {
      for_each(kTogether, [=, depth = cells.depth](int64_t i) {
        uint32_t turned = x[i], other = axis[i];
        turn(bit, 0u - uint32_t(bit < depth[i]), turned, other);
        if (axis != x) axis[i] = other;
        x[i] = turned;
      });
    }
  }
}

}  // namespace

void curve_codes(const CurveCodesArgs& a) {
  // parallel over groups of cells
  parallel_for((a.M + kTogether - 1) / kTogether, 16, [&](int64_t begin, int64_t end) {
    for (int64_t first = begin * kTogether; first < std::min(end * kTogether, a.M);
         first += kTogether) {
      const int64_t count = std::min(kTogether, a.M - first);
      const int64_t* scenes = a.scenes ? a.scenes + first : nullptr;
      Cells plain{};
      for (int64_t i = 0; i < count; ++i) {
        for (int axis : {0, 1, 2}) plain.axes[axis][i] = uint32_t(a.cells[3 * (first + i) + axis]);
        plain.depth[i] = uint32_t(a.depths[scenes && a.B > 1 ? scenes[i] : 0]);
        plain.deepest = std::max(plain.deepest, plain.depth[i]);
      }
      for (int64_t k = 0; k < a.K; ++k) {
        const bool exchanged = a.curves[k] % 2, is_hilbert = a.curves[k] >= hilbert;
        Cells turned;
        if (is_hilbert) {
          turned = plain;
          if (exchanged) std::swap(turned.axes[0], turned.axes[1]);
          turn_to_hilbert(turned);
        }
        const uint32_t* x = is_hilbert ? turned.axes[0] : plain.axes[exchanged];
        const uint32_t* y = is_hilbert ? turned.axes[1] : plain.axes[!exchanged];
        const uint32_t* z = is_hilbert ? turned.axes[2] : plain.axes[2];
        uint64_t places[kTogether];
        for_each(kTogether, [=, &places](int64_t i) { places[i] = interleave(x[i], y[i], z[i]); });
        if (is_hilbert) {
          for_each(kTogether, [&](int64_t i) { places[i] = from_gray(places[i]); });
        }
        int64_t* codes = a.codes + k * a.M + first;
        for (int64_t i = 0; i < count; ++i) {
          codes[i] = int64_t(places[i]) | (scenes ? scenes[i] : 0) << 3 * kCellBits;
        }
      }
    }
  });
}

}  // namespace dapt::cpu::DAPT_ISA
