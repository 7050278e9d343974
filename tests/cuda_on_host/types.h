// dim3 and the short vectors, with CUDA's sizes and alignments.
#pragma once

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

#define DAPT_VECTORS(element, name)                                                              \
  struct __attribute__((aligned(2 * sizeof(element)))) name##2 { element x, y; };                \
  struct name##3 { element x, y, z; };                                                           \
  struct __attribute__((aligned(4 * sizeof(element) < 16 ? 4 * sizeof(element) : 16))) name##4 { \
    element x, y, z, w;                                                                          \
  };                                                                                             \
  constexpr name##2 make_##name##2(element x, element y) { return {x, y}; }                      \
  constexpr name##3 make_##name##3(element x, element y, element z) { return {x, y, z}; }        \
  constexpr name##4 make_##name##4(element x, element y, element z, element w) {                 \
    return {x, y, z, w};                                                                         \
  }

DAPT_VECTORS(signed char, char)
DAPT_VECTORS(unsigned char, uchar)
DAPT_VECTORS(short, short)
DAPT_VECTORS(unsigned short, ushort)
DAPT_VECTORS(int, int)
DAPT_VECTORS(unsigned, uint)
DAPT_VECTORS(float, float)
DAPT_VECTORS(double, double)
DAPT_VECTORS(long long, longlong)
DAPT_VECTORS(unsigned long long, ulonglong)
#undef DAPT_VECTORS
