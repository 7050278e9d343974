// Counter-based random numbers, the same on every backend: Philox4x32-10 (Salmon et al. 2011).
#pragma once

#include <cstdint>

#include "host_device.h"

namespace dapt {

struct Words {
  uint32_t x, y, z, w;
};

/// Four words of 32 random bits for a counter (x, y, z, 0) and the key `seed`.
DAPT_HOST_DEVICE inline Words philox(uint32_t x, uint32_t y, uint32_t z, uint64_t seed) {
  uint32_t w = 0, key_x = uint32_t(seed), key_y = uint32_t(seed >> 32);
#ifdef __CUDACC__
#pragma unroll
#else
#pragma GCC unroll 10
#endif
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * x, b = uint64_t{0xCD9E8D57} * z;
    x = uint32_t(b >> 32) ^ y ^ key_x;
    y = uint32_t(b);
    z = uint32_t(a >> 32) ^ w ^ key_y;
    w = uint32_t(a);
    key_x += 0x9E3779B9, key_y += 0xBB67AE85;
  }
  return {x, y, z, w};
}

/// Dropout of an adapter's hidden row: unit j of token t is kept if word j % 4 of the counter
/// (t, j / 4) is at least `threshold`, and is then multiplied by `factor`.
struct Dropout {
  uint32_t threshold;
  double factor;

  explicit Dropout(double rate)
      : threshold(rate < 1 ? uint32_t(rate * 4294967296.0) : 0xFFFFFFFFu),
        factor(rate < 1 ? 1 / (1 - rate) : 0) {}
};

}  // namespace dapt
