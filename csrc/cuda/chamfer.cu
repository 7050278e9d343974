// Nearest points of two clouds in each other on CUDA: kNN with k = 1, both ways.
#include "cuda/plan_knn.h"

namespace dapt::cuda {

void chamfer(const ChamferArgs& args, const Context& context) {
  knn({.queries = args.a,
       .points = args.b,
       .lengths = nullptr,
       .sq_dist = args.sq_ab,
       .idx = args.idx_ab,
       .patches = nullptr,
       .B = args.B,
       .M = args.N,
       .N = args.M,
       .k = 1},
      context);
  knn({.queries = args.b,
       .points = args.a,
       .lengths = nullptr,
       .sq_dist = args.sq_ba,
       .idx = args.idx_ba,
       .patches = nullptr,
       .B = args.B,
       .M = args.M,
       .N = args.N,
       .k = 1},
      context);
}

}  // namespace dapt::cuda
