// Nearest points of two clouds in each other, on the CPU.
#include "cpu/nearest.h"
#include "ops.h"

namespace dapt::cpu::DAPT_ISA {
namespace {

void find_nearest(const float* queries, const float* points, int64_t B, int64_t M, int64_t N,
                  float* sq_dist, int64_t* idx) {
  const bool sorted = N >= kSortFrom;
  const auto prepare = [&](int64_t b) {
    return std::make_unique<Cloud>(points + 3 * b * N, N, sorted);
  };
  for_each_query(B, N, M, prepare, [&](const Cloud& cloud, int64_t begin, int64_t end) {
    Nearest nearest(cloud, 1);
    for (int64_t row = begin; row < end; ++row) {
      const int64_t key = *nearest.search(queries + 3 * row);
      sq_dist[row] = distance_of(key), idx[row] = index_of(key);
    }
  });
}

}  // namespace

void chamfer(const ChamferArgs& args) {
  find_nearest(args.a, args.b, args.B, args.N, args.M, args.sq_ab, args.idx_ab);
  find_nearest(args.b, args.a, args.B, args.M, args.N, args.sq_ba, args.idx_ba);
}

}  // namespace dapt::cpu::DAPT_ISA
