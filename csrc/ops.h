// Every kernel launcher and its contract. `cpu::` runs on the calling thread and torch's pool,
// `cuda::` enqueues on `Context::stream`. Arguments arrive checked (checks.h) and contiguous.
//
// B clouds, N points, M samples or queries, G groups, K points per patch, C channels, k neighbours.
// Coordinates are float32 and finite. A distance is fma(dz, dz, fma(dy, dy, dx * dx)), so that all
// backends agree to the last bit; ties go to the lowest index. `lengths[b]` is the number of valid
// points of cloud b, null when all N are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

struct CUstream_st;

namespace dapt {

/// What a CUDA launcher needs besides its arguments.
struct Context {
  CUstream_st* stream = nullptr;
  std::function<void*(size_t bytes)> scratch;  // memory that lives until the launcher's work is done
};

/// Farthest point sampling (Eldar et al. 1997): idx[b, 0] is the start, each next one is the point
/// farthest from those chosen. A chosen point comes again only when no other is left.
struct FpsArgs {
  const float* points;      // [B, N, 3]
  const int64_t* lengths;   // [B] or null
  const int64_t* starts;    // [B] or null: `start` for every cloud
  int64_t* idx;             // [B, M] out
  float* centers;           // [B, M, 3] out: the chosen points themselves, or null
  int64_t B, N, M;          // M <= lengths[b]
  int64_t start;
  bool skip_near_origin;    // pointnet2's rule: a point with squared norm <= 1e-3 is never chosen,
                            // unless it is the start; where none is left the start repeats
};

/// The k nearest points of each query, ascending by (distance, index). With `patches` set, also
/// patches[b, m, j] = points[b, idx[b, m, j]] - queries[b, m]: `group` is fps with `centers`, then
/// knn with `patches`.
struct KnnArgs {
  const float* queries;     // [B, M, 3]
  const float* points;      // [B, N, 3]
  const int64_t* lengths;   // [B] or null
  float* sq_dist;           // [B, M, k] out, or null
  int64_t* idx;             // [B, M, k] out
  float* patches;           // [B, M, k, 3] out, or null
  int64_t B, M, N, k;       // k <= lengths[b]
};

/// The first `max_neighbors` points, in index order, with squared distance < radius². A short row is
/// filled with its first hit, a row without a hit with -1.
struct BallQueryArgs {
  const float* queries;     // [B, M, 3]
  const float* points;      // [B, N, 3]
  int64_t* idx;             // [B, M, K] out
  int64_t B, M, N, K;
  float sq_radius;
};

/// out[b, q] = values[b, idx[b, q]]; a row of idx == -1 becomes zero. Rows are opaque bytes.
struct GatherArgs {
  const void* values;       // [B, N, C]
  const int64_t* idx;       // [B, Q]
  void* out;                // [B, Q, C] out
  int64_t B, N, Q;
  int64_t row_bytes;        // C * element size
};

/// grad_values[b, n] = sum over (q, j) with idx[b, q, j] == n of weights[b, q, j] * grad[b, q], in
/// ascending (q, j): repeatable. The backward of gather (k = 1, no weights) and of interpolate.
enum class Real { f32, f64, f16, bf16 };  // sums of f16 and bf16 are kept in float32
struct GatherBackwardArgs {
  const void* grad;         // [B, Q, C]
  const int64_t* idx;       // [B, Q, k], -1: no point
  const float* weights;     // [B, Q, k], or null for 1
  void* grad_values;        // [B, N, C] out
  int64_t B, N, Q, k, C;
  Real dtype;
};

/// out[b, m] = sum_j weights[b, m, j] * values[b, idx[b, m, j]], in ascending j.
struct InterpolateArgs {
  const float* values;      // [B, N, C]
  const int64_t* idx;       // [B, M, k]
  const float* weights;     // [B, M, k]
  float* out;               // [B, M, C] out
  int64_t B, N, M, k, C;
};

/// For each point of one cloud the nearest point of the other, both ways.
struct ChamferArgs {
  const float* a;           // [B, N, 3]
  const float* b;           // [B, M, 3]
  float* sq_ab;             // [B, N] out
  int64_t* idx_ab;          // [B, N] out, into b
  float* sq_ba;             // [B, M] out
  int64_t* idx_ba;          // [B, M] out, into a
  int64_t B, N, M;
};

namespace cpu {
void fps(const FpsArgs&);
void knn(const KnnArgs&);
void ball_query(const BallQueryArgs&);
void gather(const GatherArgs&);
void gather_backward(const GatherBackwardArgs&);
void interpolate(const InterpolateArgs&);
void chamfer(const ChamferArgs&);
}  // namespace cpu

namespace cuda {
void fps(const FpsArgs&, const Context&);
void knn(const KnnArgs&, const Context&);
void ball_query(const BallQueryArgs&, const Context&);
void gather(const GatherArgs&, const Context&);
void gather_backward(const GatherBackwardArgs&, const Context&);
void interpolate(const InterpolateArgs&, const Context&);
void chamfer(const ChamferArgs&, const Context&);
}  // namespace cuda

}  // namespace dapt
