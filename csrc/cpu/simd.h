// The vector operations that the kernels need, for the instruction set of this build: `Float` and
// `Int` hold kLanes values, `Mask` one truth value per lane. `fma` rounds once on every set, so
// that results are bit-identical between them.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "cpu/isa.h"

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace dapt::cpu::DAPT_ISA {

#if defined(__AVX512F__)

constexpr int kLanes = 16;
using Float = __m512;
using Int = __m512i;
using Mask = __mmask16;

inline Float load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, Float a) { _mm512_storeu_ps(p, a); }
inline Int load(const int32_t* p) { return _mm512_loadu_si512(p); }
inline void store(int32_t* p, Int a) { _mm512_storeu_si512(p, a); }
inline Float broadcast(float a) { return _mm512_set1_ps(a); }
inline Int broadcast(int32_t a) { return _mm512_set1_epi32(a); }
inline Int iota() {
  return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}
inline Float add(Float a, Float b) { return _mm512_add_ps(a, b); }
inline Int add(Int a, Int b) { return _mm512_add_epi32(a, b); }
inline Float sub(Float a, Float b) { return _mm512_sub_ps(a, b); }
inline Float mul(Float a, Float b) { return _mm512_mul_ps(a, b); }
inline Float fma(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
inline Float min(Float a, Float b) { return _mm512_min_ps(a, b); }
inline Float max(Float a, Float b) { return _mm512_max_ps(a, b); }
inline Int min(Int a, Int b) { return _mm512_min_epi32(a, b); }
inline Int max(Int a, Int b) { return _mm512_max_epi32(a, b); }
inline Int bits_of(Float a) { return _mm512_castps_si512(a); }
inline Float float_of(Int a) { return _mm512_castsi512_ps(a); }
inline Mask less(Float a, Float b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
inline Mask less_equal(Float a, Float b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
inline Mask equal(Float a, Float b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
inline Mask less(Int a, Int b) { return _mm512_cmplt_epi32_mask(a, b); }
inline Mask equal(Int a, Int b) { return _mm512_cmpeq_epi32_mask(a, b); }
inline Float select(Mask m, Float yes, Float no) { return _mm512_mask_blend_ps(m, no, yes); }
inline Int select(Mask m, Int yes, Int no) { return _mm512_mask_blend_epi32(m, no, yes); }
inline uint32_t bits(Mask m) { return m; }
inline float reduce_max(Float a) { return _mm512_reduce_max_ps(a); }
inline float reduce_min(Float a) { return _mm512_reduce_min_ps(a); }
inline float reduce_add(Float a) { return _mm512_reduce_add_ps(a); }
inline int32_t reduce_min(Int a) { return _mm512_reduce_min_epi32(a); }
inline int32_t reduce_max(Int a) { return _mm512_reduce_max_epi32(a); }
inline int32_t reduce_add(Int a) { return _mm512_reduce_add_epi32(a); }
inline Int count(Mask m, Int so_far) {
  return _mm512_mask_add_epi32(so_far, m, so_far, _mm512_set1_epi32(1));
}
// Not compressstoreu, which is microcoded on Zen 4.
inline int compress(Mask m, Int a, int32_t* p) {
  store(p, _mm512_maskz_compress_epi32(m, a));
  return __builtin_popcount(m);
}

#elif defined(__AVX2__)

constexpr int kLanes = 8;
using Float = __m256;
using Int = __m256i;
using Mask = __m256;

inline Float load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, Float a) { _mm256_storeu_ps(p, a); }
inline Int load(const int32_t* p) { return _mm256_loadu_si256((const __m256i*)p); }
inline void store(int32_t* p, Int a) { _mm256_storeu_si256((__m256i*)p, a); }
inline Float broadcast(float a) { return _mm256_set1_ps(a); }
inline Int broadcast(int32_t a) { return _mm256_set1_epi32(a); }
inline Int iota() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
inline Float add(Float a, Float b) { return _mm256_add_ps(a, b); }
inline Int add(Int a, Int b) { return _mm256_add_epi32(a, b); }
inline Float sub(Float a, Float b) { return _mm256_sub_ps(a, b); }
inline Float mul(Float a, Float b) { return _mm256_mul_ps(a, b); }
inline Float fma(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
inline Float min(Float a, Float b) { return _mm256_min_ps(a, b); }
inline Float max(Float a, Float b) { return _mm256_max_ps(a, b); }
inline Int min(Int a, Int b) { return _mm256_min_epi32(a, b); }
inline Int max(Int a, Int b) { return _mm256_max_epi32(a, b); }
inline Int bits_of(Float a) { return _mm256_castps_si256(a); }
inline Float float_of(Int a) { return _mm256_castsi256_ps(a); }
inline Mask less(Float a, Float b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
inline Mask less_equal(Float a, Float b) { return _mm256_cmp_ps(a, b, _CMP_LE_OQ); }
inline Mask equal(Float a, Float b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
inline Mask less(Int a, Int b) { return _mm256_castsi256_ps(_mm256_cmpgt_epi32(b, a)); }
inline Mask equal(Int a, Int b) { return _mm256_castsi256_ps(_mm256_cmpeq_epi32(a, b)); }
inline Float select(Mask m, Float yes, Float no) { return _mm256_blendv_ps(no, yes, m); }
inline Int select(Mask m, Int yes, Int no) {
  return _mm256_blendv_epi8(no, yes, _mm256_castps_si256(m));
}
inline uint32_t bits(Mask m) { return _mm256_movemask_ps(m); }

// Combines the two halves, then lanes that are two apart, then the two of a pair.
template <class Combine>
inline __m128 halves(Float a, const Combine& combine) {
  __m128 b = combine(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  b = combine(b, _mm_movehl_ps(b, b));
  return combine(b, _mm_movehdup_ps(b));
}
inline float reduce_max(Float a) {
  return _mm_cvtss_f32(halves(a, [](__m128 a, __m128 b) { return _mm_max_ps(a, b); }));
}
inline float reduce_min(Float a) {
  return _mm_cvtss_f32(halves(a, [](__m128 a, __m128 b) { return _mm_min_ps(a, b); }));
}
inline float reduce_add(Float a) {
  return _mm_cvtss_f32(halves(a, [](__m128 a, __m128 b) { return _mm_add_ps(a, b); }));
}
inline int32_t reduce_min(Int a) {
  return _mm_cvtsi128_si32(_mm_castps_si128(halves(float_of(a), [](__m128 a, __m128 b) {
    return _mm_castsi128_ps(_mm_min_epi32(_mm_castps_si128(a), _mm_castps_si128(b)));
  })));
}
inline int32_t reduce_max(Int a) {
  return _mm_cvtsi128_si32(_mm_castps_si128(halves(float_of(a), [](__m128 a, __m128 b) {
    return _mm_castsi128_ps(_mm_max_epi32(_mm_castps_si128(a), _mm_castps_si128(b)));
  })));
}
inline int32_t reduce_add(Int a) {
  return _mm_cvtsi128_si32(_mm_castps_si128(halves(float_of(a), [](__m128 a, __m128 b) {
    return _mm_castsi128_ps(_mm_add_epi32(_mm_castps_si128(a), _mm_castps_si128(b)));
  })));
}
inline Int count(Mask m, Int so_far) { return _mm256_sub_epi32(so_far, _mm256_castps_si256(m)); }
// For each mask, the numbers of its lanes, one byte each.
struct LanePlaces {
  uint64_t of[256];
  constexpr LanePlaces() : of() {
    for (int mask = 0; mask < 256; ++mask) {
      int count = 0;
      for (int lane = 0; lane < 8; ++lane) {
        if (mask >> lane & 1) of[mask] |= uint64_t(lane) << 8 * count++;
      }
    }
  }
};
inline int compress(Mask m, Int a, int32_t* p) {
  alignas(64) static constexpr LanePlaces kPlaces;
  const uint32_t mask = bits(m);
  const Int places = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(int64_t(kPlaces.of[mask])));
  store(p, _mm256_permutevar8x32_epi32(a, places));
  return __builtin_popcount(mask);
}

#else

constexpr int kLanes = 8;
// Plain arrays, whose loops the compiler may vectorize for its target (SSE2, NEON).
struct Float {
  float v[kLanes];
};
struct Int {
  int32_t v[kLanes];
};
struct Mask {
  int32_t v[kLanes];
};

template <class Out, class Function>
inline Out lanes(Function&& f) {
  Out out;
  for (int i = 0; i < kLanes; ++i) out.v[i] = f(i);
  return out;
}
inline Float load(const float* p) {
  Float a;
  std::memcpy(a.v, p, sizeof a.v);
  return a;
}
inline void store(float* p, Float a) { std::memcpy(p, a.v, sizeof a.v); }
inline Int load(const int32_t* p) {
  Int a;
  std::memcpy(a.v, p, sizeof a.v);
  return a;
}
inline void store(int32_t* p, Int a) { std::memcpy(p, a.v, sizeof a.v); }
inline Float broadcast(float a) {
  return lanes<Float>([&](int) { return a; });
}
inline Int broadcast(int32_t a) {
  return lanes<Int>([&](int) { return a; });
}
inline Int iota() {
  return lanes<Int>([](int i) { return i; });
}
inline Float add(Float a, Float b) {
  return lanes<Float>([&](int i) { return a.v[i] + b.v[i]; });
}
inline Int add(Int a, Int b) {
  return lanes<Int>([&](int i) { return a.v[i] + b.v[i]; });
}
inline Float sub(Float a, Float b) {
  return lanes<Float>([&](int i) { return a.v[i] - b.v[i]; });
}
inline Float mul(Float a, Float b) {
  return lanes<Float>([&](int i) { return a.v[i] * b.v[i]; });
}
inline Float fma(Float a, Float b, Float c) {
  return lanes<Float>([&](int i) { return std::fma(a.v[i], b.v[i], c.v[i]); });
}
inline Float min(Float a, Float b) {
  return lanes<Float>([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline Float max(Float a, Float b) {
  return lanes<Float>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline Int min(Int a, Int b) {
  return lanes<Int>([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline Int max(Int a, Int b) {
  return lanes<Int>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline Int bits_of(Float a) {
  Int out;
  std::memcpy(out.v, a.v, sizeof out.v);
  return out;
}
inline Float float_of(Int a) {
  Float out;
  std::memcpy(out.v, a.v, sizeof out.v);
  return out;
}
inline Mask less(Float a, Float b) {
  return lanes<Mask>([&](int i) { return a.v[i] < b.v[i]; });
}
inline Mask less_equal(Float a, Float b) {
  return lanes<Mask>([&](int i) { return a.v[i] <= b.v[i]; });
}
inline Mask equal(Float a, Float b) {
  return lanes<Mask>([&](int i) { return a.v[i] == b.v[i]; });
}
inline Mask less(Int a, Int b) {
  return lanes<Mask>([&](int i) { return a.v[i] < b.v[i]; });
}
inline Mask equal(Int a, Int b) {
  return lanes<Mask>([&](int i) { return a.v[i] == b.v[i]; });
}
inline Float select(Mask m, Float yes, Float no) {
  return lanes<Float>([&](int i) { return m.v[i] ? yes.v[i] : no.v[i]; });
}
inline Int select(Mask m, Int yes, Int no) {
  return lanes<Int>([&](int i) { return m.v[i] ? yes.v[i] : no.v[i]; });
}
inline uint32_t bits(Mask m) {
  uint32_t out = 0;
  for (int i = 0; i < kLanes; ++i) out |= uint32_t(m.v[i] != 0) << i;
  return out;
}

inline float reduce_max(Float a) {
  float lane[kLanes], best;
  store(lane, a);
  best = lane[0];
  for (int i = 1; i < kLanes; ++i) best = lane[i] > best ? lane[i] : best;
  return best;
}
inline float reduce_min(Float a) {
  float lane[kLanes], best;
  store(lane, a);
  best = lane[0];
  for (int i = 1; i < kLanes; ++i) best = lane[i] < best ? lane[i] : best;
  return best;
}
inline float reduce_add(Float a) {
  float lane[kLanes];
  store(lane, a);
  for (int step = kLanes / 2; step > 0; step /= 2)
    for (int i = 0; i < step; ++i) lane[i] += lane[i + step];
  return lane[0];
}
inline int32_t reduce_min(Int a) {
  int32_t lane[kLanes], best;
  store(lane, a);
  best = lane[0];
  for (int i = 1; i < kLanes; ++i) best = lane[i] < best ? lane[i] : best;
  return best;
}
inline int32_t reduce_max(Int a) {
  int32_t lane[kLanes], best;
  store(lane, a);
  best = lane[0];
  for (int i = 1; i < kLanes; ++i) best = lane[i] > best ? lane[i] : best;
  return best;
}
inline int32_t reduce_add(Int a) {
  int32_t lane[kLanes], sum = 0;
  store(lane, a);
  for (int i = 0; i < kLanes; ++i) sum += lane[i];
  return sum;
}
/// Adds one in the lanes of `m`.
inline Int count(Mask m, Int so_far) {
  return lanes<Int>([&](int i) { return so_far.v[i] + (m.v[i] != 0); });
}
/// Writes the lanes of `a` that `m` selects one after another and returns their number. There must
/// be room for kLanes values at `p`.
inline int compress(Mask m, Int a, int32_t* p) {
  int32_t lane[kLanes];
  store(lane, a);
  int count = 0;
  for (uint32_t left = bits(m); left; left &= left - 1) p[count++] = lane[__builtin_ctz(left)];
  return count;
}

#endif

/// Squared distance, in the order of operations that every backend uses.
inline Float squared_distance(Float ax, Float ay, Float az, Float bx, Float by, Float bz) {
  const Float dx = sub(ax, bx), dy = sub(ay, by), dz = sub(az, bz);
  return fma(dz, dz, fma(dy, dy, mul(dx, dx)));
}
inline float squared_distance(const float* a, const float* b) {
  const float dx = a[0] - b[0], dy = a[1] - b[1], dz = a[2] - b[2];
  return std::fma(dz, dz, std::fma(dy, dy, dx * dx));
}

}  // namespace dapt::cpu::DAPT_ISA
