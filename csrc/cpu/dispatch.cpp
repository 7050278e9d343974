// Each launcher forwards to its build for the instruction set in use.
#include "cpu/isa.h"
#include "ops.h"

// Each kernel file defines its launcher once per instruction set.
#define DAPT_DECLARE(op, Args) void op(const Args&);
#define DAPT_EACH_OP(X)                                          \
  X(fps, FpsArgs)                                                \
  X(knn, KnnArgs)                                                \
  X(ball_query, BallQueryArgs)                                   \
  X(grid_cells, GridCellsArgs)                                   \
  X(unique_cells, UniqueCellsArgs)                               \
  X(neighbor_map, NeighborMapArgs)                               \
  X(curve_codes, CurveCodesArgs)                                 \
  X(gather, GatherArgs)                                          \
  X(gather_backward, GatherBackwardArgs)                         \
  X(interpolate, InterpolateArgs)                                \
  X(chamfer, ChamferArgs)                                        \
  X(patch_encoder, PatchEncoderArgs)                             \
  X(dynamic_adapter, DynamicAdapterArgs)                         \
  X(dynamic_adapter_backward, DynamicAdapterBackwardArgs)        \
  X(submanifold_conv, SubmanifoldConvArgs)                       \
  X(submanifold_conv_weight_grad, SubmanifoldConvWeightGradArgs) \
  X(scale_shift_fold, ScaleShiftFoldArgs)                        \
  X(scale_shift_fold_grad, ScaleShiftFoldGradArgs)               \
  X(scale_shift_grad, ScaleShiftGradArgs)                        \
  X(attention, AttentionArgs)                                    \
  X(attention_backward, AttentionBackwardArgs)

namespace dapt::cpu {
namespace scalar {
DAPT_EACH_OP(DAPT_DECLARE)
}
#ifdef DAPT_X86
namespace avx2 {
DAPT_EACH_OP(DAPT_DECLARE)
}
namespace avx512 {
DAPT_EACH_OP(DAPT_DECLARE)
}
#endif

#ifdef DAPT_X86
#define DAPT_DISPATCH(op, Args)                  \
  void op(const Args& args) {                    \
    switch (active_isa()) {                      \
      case Isa::avx512: return avx512::op(args); \
      case Isa::avx2: return avx2::op(args);     \
      case Isa::scalar: return scalar::op(args); \
    }                                            \
  }
#else
#define DAPT_DISPATCH(op, Args) \
  void op(const Args& args) { scalar::op(args); }
#endif
DAPT_EACH_OP(DAPT_DISPATCH)

}  // namespace dapt::cpu
