// Every kernel launcher and its contract. `cpu::` runs on the calling thread and torch's pool,
// `cuda::` enqueues on `Context::stream`. Arguments arrive checked (checks.h) and contiguous.
//
// B clouds, N points, M samples or queries, G groups, K points per patch, C channels, k neighbors.
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
  std::function<void*(size_t bytes)> scratch;  // device memory, valid until the work is done
};

/// Farthest point sampling (Eldar et al. 1997): idx[b, 0] is the start, and each next point is
/// the farthest from those chosen. A point is chosen again only when no other is left.
struct FpsArgs {
  const float* points;     // [B, N, 3]
  const int64_t* lengths;  // [B] or null
  const int64_t* starts;   // [B] or null: `start` for every cloud
  int64_t* idx;            // [B, M] out
  float* centers;          // [B, M, 3] out: the chosen points themselves, or null
  int64_t B, N, M;         // M <= lengths[b]; CUDA clamps lengths to [1, N], starts to the cloud
  int64_t start;
  bool skip_near_origin;  // pointnet2's rule: a point with squared norm <= 1e-3 is never chosen,
                          // unless it is the start; if none is left, the start repeats
};

/// The k nearest points of each query, ascending by (distance, index). In any dimension the squared
/// distance is summed coordinate by coordinate: d[0] * d[0], then fma(d[c], d[c], sum). In three
/// dimensions, with `patches` set, also
/// patches[b, m, j] = points[b, idx[b, m, j]] - queries[b, m]: `group` is fps with `centers`, then
/// knn with `patches`. CUDA clamps lengths to [0, N], and slots without a neighbor (k > length,
/// NaN points) repeat the nearest one, or point 0 if there is none, at infinite distance.
struct KnnArgs {
  const float* queries;    // [B, M, D]
  const float* points;     // [B, N, D]
  const int64_t* lengths;  // [B] or null
  float* sq_dist;          // [B, M, k] out, or null
  int64_t* idx;            // [B, M, k] out
  float* patches;          // [B, M, k, 3] out, or null
  int64_t B, M, N, k;      // k <= lengths[b]
  int64_t D = 3;
};

/// The first `max_neighbors` points, in index order, with squared distance < radius². A short row
/// is padded with its first hit, a row without a hit with -1. CUDA clamps lengths to [0, N].
struct BallQueryArgs {
  const float* queries;    // [B, M, 3]
  const float* points;     // [B, N, 3]
  const int64_t* lengths;  // [B] or null
  int64_t* idx;            // [B, M, K] out
  int64_t B, M, N, K;
  float sq_radius;
};

/// The cell of each point in a grid whose corner is the cloud's minimum along each axis: the floor
/// of (p - corner) / size, computed in float64 and clamped to 65536. A point past the length, or
/// with a NaN coordinate, gets the cell (-1, -1, -1).
struct GridCellsArgs {
  const float* points;     // [B, N, 3]
  const int64_t* lengths;  // [B] or null
  int64_t* cells;          // [B, N, 3] out
  int64_t B, N;
  double size;
};

/// The distinct cells of all scenes, numbered in order of first occurrence. A cell with a
/// coordinate outside [0, 65536) is ignored. Past `total`, `first` is -1 and `counts` is 0.
struct UniqueCellsArgs {
  const int64_t* cells;   // [N, 3]
  const int64_t* scenes;  // [N] or null
  int64_t* first;         // [N] out: the first occurrence of each distinct cell
  int64_t* inverse;       // [N] out: the number of each cell, or -1
  int64_t* counts;        // [N] out: how often it occurs
  int64_t* total;         // [1] out: the number of distinct cells
  int64_t N;
};

/// neighbors[m, 9 (a + 1) + 3 (b + 1) + c + 1] is the index of the cell at offset (a, b, c) from
/// cell m in the same scene (the first of equal cells), or -1 if there is none.
struct NeighborMapArgs {
  const int64_t* cells;   // [M, 3]
  const int64_t* scenes;  // [M] or null
  int64_t* neighbors;     // [M, 27] out
  int64_t M;
};

/// Positions along space-filling curves: codes[k, m] = scene << 48 | position. Z-order interleaves
/// the bits of x, y and z; the Hilbert curve uses `depth` bits of each (Skilling 2004); "trans"
/// swaps x and y. CUDA masks off the excess bits of cells and scenes and clamps depths.
enum Curve : int64_t { z_order, z_order_trans, hilbert, hilbert_trans };
constexpr int64_t kMostCurves = 16;
struct CurveCodesArgs {
  const int64_t* cells;   // [M, 3]
  const int64_t* scenes;  // [M], or null: one scene
  const int64_t* depths;  // [B], one per scene, or [1] for all; 1 to 16
  int64_t* codes;         // [K, M] out
  int64_t B, M, K;
  Curve curves[kMostCurves];  // [K]
};

/// out[b, q] = values[b, idx[b, q]]; a row of idx == -1 becomes zero. Rows are opaque bytes. CUDA
/// treats an index outside [0, N) as -1, here and in every op below.
struct GatherArgs {
  const void* values;  // [B, N, C]
  const int64_t* idx;  // [B, Q]
  void* out;           // [B, Q, C] out
  int64_t B, N, Q;
  int64_t row_bytes;  // C * element size
};

/// grad_values[b, n] = sum over (q, j) with idx[b, q, j] == n of weights[b, q, j] * grad[b, q], in
/// ascending (q, j): repeatable. The backward of gather (k = 1, no weights) and of interpolate.
enum class Real { f32, f64, f16, bf16 };  // sums of f16 and bf16 are kept in float32
struct GatherBackwardArgs {
  const void* grad;      // [B, Q, C]
  const int64_t* idx;    // [B, Q, k], -1: no point
  const float* weights;  // [B, Q, k], or null for 1
  void* grad_values;     // [B, N, C] out
  int64_t B, N, Q, k, C;
  Real dtype;
};

/// out[b, m] = sum_j weights[b, m, j] * values[b, idx[b, m, j]], in ascending j.
struct InterpolateArgs {
  const float* values;   // [B, N, C]
  const int64_t* idx;    // [B, M, k]
  const float* weights;  // [B, M, k]
  float* out;            // [B, M, C] out
  int64_t B, N, M, k, C;
};

/// For each point of either cloud, the nearest point of the other. A point past its cloud's length
/// is never a nearest point; its own distance is 0 and its index -1.
struct ChamferArgs {
  const float* a;            // [B, N, 3]
  const float* b;            // [B, M, 3]
  const int64_t* a_lengths;  // [B] or null
  const int64_t* b_lengths;  // [B] or null
  float* sq_ab;              // [B, N] out
  int64_t* idx_ab;           // [B, N] out, into b
  float* sq_ba;              // [B, M] out
  int64_t* idx_ba;           // [B, M] out, into a
  int64_t B, N, M;
};

/// The frozen mini-PointNet with its batch norms folded in:
///   h = ReLU(conv1 · point + bias1);   g = maximum of conv2 · h over the patch's points
///   token = maximum over the points of conv4 · ReLU(conv3_global · g + conv3_local · h + bias3),
///   plus bias4
/// Nothing lies between the second layer and the third, so conv2 is multiplied into conv3_local,
/// and its bias is folded into bias3. A NaN point makes its own patch's token NaN.
struct PatchEncoderArgs {
  const void* patches;       // [P, K, D] of compute, like tokens
  const void* conv1;         // [first, D] of weight_dtype, like every weight
  const void* bias1;         // [first], float64 if compute is, else float32, like every bias
  const void* conv2;         // [middle, first]
  const void* conv3_global;  // [last, middle]
  const void* conv3_local;   // [last, first]
  const void* bias3;         // [last]
  const void* conv4;         // [C, last]
  const void* bias4;         // [C]
  void* tokens;              // [P, C] out
  int64_t P, K;
  int64_t D, first, middle, last, C;
  Real compute, weight_dtype;  // equal, except that CUDA takes float32 weights for 16-bit products
  bool tf32;                   // CUDA may round float32 factors to tf32
};

/// DAPT's adapter (Zhou et al. 2024), fused with the ops around it in a block; T tokens per cloud:
///   z = LayerNorm(x), or x;   s = ReLU(scale_weight · z + scale_bias), or static_scale
///   a = s * (up_weight · dropout(act(down_weight · z + down_bias)) + up_bias)
///   out = residual + path_factor[b] * (mlp_out + a), without the terms that are null
///   prompt_mean[b] = mean over the cloud's tokens of GELU(a)
/// Matrix products take their factors in `compute`; everything else is in `Sum`, which is float64
/// if `compute` is and float32 otherwise. Dropout follows philox.h for token b * T + t.
/// With `adapters`, every parameter is a stack [A, ...] and each cloud uses its own adapter's;
/// there is then neither dropout nor a backward.
enum class Activation { gelu, relu, quickgelu };
struct DynamicAdapterArgs {
  // inputs
  const void* x;             // [B, T, C] of x_dtype
  const void* norm_weight;   // [C] of Sum, or null: no norm
  const void* norm_bias;     // [C]
  const void* down_weight;   // [r, C] of weight_dtype
  const void* down_bias;     // [r] of Sum
  const void* scale_weight;  // [C], or null: static_scale
  const void* scale_bias;    // [1]
  const void* up_weight;     // [C, r] of weight_dtype
  const void* up_bias;       // [C] of Sum
  const void* mlp_out;       // [B, T, C] of mlp_dtype, or null
  const void* residual;      // [B, T, C] of residual_dtype, or null
  const void* path_factor;   // [B] of Sum, or null
  const int64_t* seed;       // one number, or null for no dropout
  const int64_t* adapters;   // [B] in [0, A), or null for one adapter shared by all clouds
  // outputs
  void* out;          // [B, T, C] of out_dtype
  void* prompt_mean;  // [B, C] of out_dtype, or null
  void* hidden;       // [B, T, r] of compute, or null: down_weight · z, for the backward
  void* stats;        // [B, T, 3] of Sum: mean, 1 / deviation and s, for the backward
  // sizes and choices
  int64_t B, T, C, r, A;
  Real x_dtype, mlp_dtype, residual_dtype, out_dtype;
  Real compute, weight_dtype;  // equal, except that CUDA takes float32 weights for 16-bit products
  Activation activation;
  double static_scale, dropout, eps;
  bool tf32;  // CUDA may round float32 factors to tf32
};

/// If `forward.hidden` is null, the hidden row is recomputed. A null incoming gradient counts as
/// zero, and a null outgoing gradient is not computed.
struct DynamicAdapterBackwardArgs {
  DynamicAdapterArgs forward;  // including hidden and stats; out, mlp_out, residual are not read
  // gradients in
  const void* grad_out;          // [B, T, C] of out_dtype, or null
  const void* grad_prompt_mean;  // [B, C] of out_dtype, or null
  // gradients out
  void* grad_x;            // [B, T, C] of x_dtype
  void* grad_mlp_out;      // [B, T, C] of mlp_dtype
  void* grad_norm_weight;  // this and the next seven of Sum
  void* grad_norm_bias;
  void* grad_down_weight;
  void* grad_down_bias;
  void* grad_scale_weight;
  void* grad_scale_bias;
  void* grad_up_weight;
  void* grad_up_bias;
};

/// For each head, out = softmax(q · kᵀ / √D) · v. CPU only; CUDA uses torch's own attention.
struct AttentionArgs {
  const void* qkv;  // [B, T, 3, H, D] of dtype
  void* out;        // [B, T, H, D] of dtype; the backward reads it
  void* log_sum;    // [B, H, T] log-sum-exp of the scores; the backward reads it
  int64_t B, T, H, D;
  Real dtype;
};

struct AttentionBackwardArgs {
  AttentionArgs forward;
  const void* grad_out;  // [B, T, H, D] of dtype
  void* grad_qkv;        // [B, T, 3, H, D] of dtype
};

/// A convolution on the occupied cells of a grid, whose output has the same cells:
///   out[m] = bias + sum over taps of weight[:, tap, :] · x[neighbors[m, tap]]
/// The gradient of x is the same op, with the taps in reverse and the weight transposed, because
/// neighbors are mutual. Sums have a fixed order: over taps, then over channels.
struct SubmanifoldConvArgs {
  const void* x;             // [M, C]
  const void* weight;        // [D, taps, C], with the strides below
  const void* bias;          // [D] or null
  const int64_t* neighbors;  // [M, taps], -1: no cell
  void* out;                 // [M, D] out
  int64_t M, C, D, taps;
  int64_t weight_d, weight_tap, weight_c;  // strides of the weight, in elements
  Real dtype;                              // of x, weight, bias and out
  bool tf32;                               // CUDA may round float32 factors to tf32
};

/// grad_weight[d, tap] = sum over m of grad[m, d] * x[neighbors[m, tap]], in a fixed order.
struct SubmanifoldConvWeightGradArgs {
  const void* grad;          // [M, D]
  const void* x;             // [M, C]
  const int64_t* neighbors;  // [M, taps], -1: no cell
  void* grad_weight;         // [D, taps, C] out, float64 if dtype is, else float32
  int64_t M, C, D, taps;
  Real dtype;  // of grad and x
  bool tf32;
};

/// folded = scale * weight and offset = scale * bias + shift: a frozen layer with a scale and a
/// shift folded into it. bias, scale and shift are float64 if `weight_dtype` is, else float32.
struct ScaleShiftFoldArgs {
  const void* weight;  // [C, D] of `weight_dtype`
  const void* bias;    // [C] or null
  const void* scale;   // [C]
  const void* shift;   // [C]
  void* folded;        // [C, D] out, of `dtype`
  void* offset;        // [C] out, of `dtype`, or null if not wanted
  int64_t C, D;
  Real weight_dtype, dtype;
};

/// grad_scale = sum over a row of grad_folded * weight, plus grad_offset * bias. All but the weight
/// are float64 if `weight_dtype` is, else float32.
struct ScaleShiftFoldGradArgs {
  const void* grad_folded;  // [C, D]
  const void* grad_offset;  // [C]
  const void* weight;       // [C, D] of `weight_dtype`
  const void* bias;         // [C] or null
  void* grad_scale;         // [C] out
  int64_t C, D;
  Real weight_dtype;
};

/// Gradients of output = scale * z + shift: grad_shift is the sum over tokens of grad, grad_scale
/// that of grad * z with z = (output - shift) / scale. Where |scale| < `least_scale`, `least_scale`
/// with the sign of scale is the divisor instead. The order of the sums is fixed.
struct ScaleShiftGradArgs {
  const void* grad;    // [tokens, C] of dtype
  const void* output;  // [tokens, C] of dtype
  const void* scale;   // [C]; this and the next three are float64 if dtype is, else float32
  const void* shift;   // [C]
  void* grad_scale;    // [C] out
  void* grad_shift;    // [C] out
  double least_scale;
  int64_t tokens, C;
  Real dtype;
};

namespace cpu {
void fps(const FpsArgs&);
void knn(const KnnArgs&);
void ball_query(const BallQueryArgs&);
void grid_cells(const GridCellsArgs&);
void unique_cells(const UniqueCellsArgs&);
void neighbor_map(const NeighborMapArgs&);
void curve_codes(const CurveCodesArgs&);
void gather(const GatherArgs&);
void gather_backward(const GatherBackwardArgs&);
void interpolate(const InterpolateArgs&);
void chamfer(const ChamferArgs&);
void patch_encoder(const PatchEncoderArgs&);
void dynamic_adapter(const DynamicAdapterArgs&);
void dynamic_adapter_backward(const DynamicAdapterBackwardArgs&);
void submanifold_conv(const SubmanifoldConvArgs&);
void submanifold_conv_weight_grad(const SubmanifoldConvWeightGradArgs&);
void scale_shift_fold(const ScaleShiftFoldArgs&);
void scale_shift_fold_grad(const ScaleShiftFoldGradArgs&);
void scale_shift_grad(const ScaleShiftGradArgs&);
void attention(const AttentionArgs&);
void attention_backward(const AttentionBackwardArgs&);
}  // namespace cpu

namespace cuda {
void fps(const FpsArgs&, const Context&);
void knn(const KnnArgs&, const Context&);
void ball_query(const BallQueryArgs&, const Context&);
void grid_cells(const GridCellsArgs&, const Context&);
void unique_cells(const UniqueCellsArgs&, const Context&);
void neighbor_map(const NeighborMapArgs&, const Context&);
void curve_codes(const CurveCodesArgs&, const Context&);
void gather(const GatherArgs&, const Context&);
void gather_backward(const GatherBackwardArgs&, const Context&);
void interpolate(const InterpolateArgs&, const Context&);
void chamfer(const ChamferArgs&, const Context&);
void patch_encoder(const PatchEncoderArgs&, const Context&);
void dynamic_adapter(const DynamicAdapterArgs&, const Context&);
void dynamic_adapter_backward(const DynamicAdapterBackwardArgs&, const Context&);
void submanifold_conv(const SubmanifoldConvArgs&, const Context&);
void submanifold_conv_weight_grad(const SubmanifoldConvWeightGradArgs&, const Context&);
void scale_shift_fold(const ScaleShiftFoldArgs&, const Context&);
void scale_shift_fold_grad(const ScaleShiftFoldGradArgs&, const Context&);
void scale_shift_grad(const ScaleShiftGradArgs&, const Context&);
}  // namespace cuda

}  // namespace dapt
