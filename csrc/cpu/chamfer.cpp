// Nearest neighbors between two clouds, on the CPU. In a small cloud every pair is compared; in a
// large one each query searches buckets (nearest.h).
#include "cpu/nearest.h"
#include "ops.h"

namespace dapt::cpu::DAPT_ISA {
namespace {

/// Compares every query with every point, one query per lane: the fastest way in a small cloud.
void scan(const float* points, int64_t N, const float* queries, int64_t count, float* sq_dist,
          int64_t* idx) {
  for (int64_t begin = 0; begin < count; begin += kLanes) {
    const int64_t lanes = std::min<int64_t>(kLanes, count - begin);
    float of[3][kLanes] = {}, nearest[kLanes];
    int32_t nearest_at[kLanes];
    for (int64_t i = 0; i < lanes; ++i) {
      for (int axis = 0; axis < 3; ++axis) of[axis][i] = queries[3 * (begin + i) + axis];
    }
    const Float x = load(of[0]), y = load(of[1]), z = load(of[2]);
    Float best = broadcast(std::numeric_limits<float>::infinity());
    Int best_at = broadcast(int32_t{0});
    for (int64_t n = 0; n < N; ++n) {
      const Query p(points + 3 * n);  // in every lane
      const Float d = squared_distance(x, y, z, p.x, p.y, p.z);
      best_at = select(less(d, best), broadcast(int32_t(n)), best_at);
      best = min(best, d);
    }
    store(nearest, best), store(nearest_at, best_at);
    std::copy_n(nearest, lanes, sq_dist + begin);
    std::copy_n(nearest_at, lanes, idx + begin);
  }
}

// Points past the length of their cloud have no neighbor.
void clear_past(const int64_t* lengths, int64_t B, int64_t M, float* sq_dist, int64_t* idx) {
  for (int64_t b = 0; lengths && b < B; ++b) {
    std::fill(sq_dist + b * M + lengths[b], sq_dist + (b + 1) * M, 0.0f);
    std::fill(idx + b * M + lengths[b], idx + (b + 1) * M, int64_t{-1});
  }
}

void find_nearest(const float* queries, const float* points, const int64_t* lengths, int64_t B,
                  int64_t M, int64_t N, float* sq_dist, int64_t* idx) {
  const auto length_of = [=](int64_t b) { return lengths ? lengths[b] : N; };
  if (N < kSortFrom) {
    // parallel over B * M
    parallel_for(B * M, std::max<int64_t>(64, 65536 / N), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin, stop; row < end; row = stop) {
        stop = std::min(end, (row / M + 1) * M);
        scan(points + 3 * (row / M) * N, length_of(row / M), queries + 3 * row, stop - row,
             sq_dist + row, idx + row);
      }
    });
    return;
  }
  struct Problem {
    BucketedCloud cloud;
    Buffer<int32_t> order;  // [M], in which the queries take turns; null: as they come
  };
  const auto prepare = [&](int64_t b) {
    return std::make_unique<Problem>(
        Problem{.cloud = BucketedCloud(points + 3 * b * N, length_of(b), true, 3, 1),
                .order = curve_order(queries + 3 * b * M, M)});
  };
  for_each_query(B, N, M, prepare, [&](const Problem& problem, int64_t begin, int64_t end) {
    Nearest nearest(problem.cloud, 1);
    for (int64_t turn = begin; turn < end; ++turn) {
      const int64_t first = turn / M * M;  // query of this cloud
      const int64_t row = first + (problem.order ? problem.order[turn - first] : turn - first);
      const int64_t key = *nearest.search(queries + 3 * row);
      sq_dist[row] = distance_of(key), idx[row] = index_of(key);
    }
  });
}

}  // namespace

void chamfer(const ChamferArgs& args) {
  find_nearest(args.a, args.b, args.b_lengths, args.B, args.N, args.M, args.sq_ab, args.idx_ab);
  find_nearest(args.b, args.a, args.a_lengths, args.B, args.M, args.N, args.sq_ba, args.idx_ba);
  clear_past(args.a_lengths, args.B, args.N, args.sq_ab, args.idx_ab);
  clear_past(args.b_lengths, args.B, args.M, args.sq_ba, args.idx_ba);
}

}  // namespace dapt::cpu::DAPT_ISA
