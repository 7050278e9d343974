// Nearest points of two clouds in each other, on the CPU.
#include "cpu/nearest.h"
#include "ops.h"

namespace dapt::cpu::DAPT_ISA {
namespace {

/// Compares each query with every point: the fastest way in a small cloud.
void scan(const float* points, int64_t N, const float* queries, int64_t count, float* sq_dist,
          int64_t* idx) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const int64_t padded = (N + kLanes - 1) / kLanes * kLanes;
  const auto x = make_buffer<float>(3 * padded);
  float *y = x.get() + padded, *z = y + padded;
  for (int64_t n = 0; n < N; ++n) {
    x[n] = points[3 * n], y[n] = points[3 * n + 1], z[n] = points[3 * n + 2];
  }
  for (int64_t n = N; n < padded; ++n) x[n] = y[n] = z[n] = kInfinity;
  for (int64_t i = 0; i < count; ++i) {
    const Query q(queries + 3 * i);
    Float best = broadcast(kInfinity);
    Int best_at = iota(), at = iota();
    for (int64_t n = 0; n < padded; n += kLanes) {
      const Float d = squared_distance(q.x, q.y, q.z, load(&x[n]), load(&y[n]), load(&z[n]));
      const Mask closer = less(d, best);
      best = select(closer, d, best);
      best_at = select(closer, at, best_at);
      at = add(at, broadcast(int32_t{kLanes}));
    }
    sq_dist[i] = reduce_min(best);
    idx[i] = reduce_min(select(equal(best, broadcast(sq_dist[i])), best_at, broadcast(INT32_MAX)));
  }
}

void find_nearest(const float* queries, const float* points, int64_t B, int64_t M, int64_t N,
                  float* sq_dist, int64_t* idx) {
  if (N < kSortFrom) {
    // parallel over B * M
    parallel_for(B * M, std::max<int64_t>(64, 65536 / N), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin, stop; row < end; row = stop) {
        stop = std::min(end, (row / M + 1) * M);
        scan(points + 3 * (row / M) * N, N, queries + 3 * row, stop - row, sq_dist + row,
             idx + row);
      }
    });
    return;
  }
  const auto prepare = [&](int64_t b) {
    return std::make_unique<Cloud>(points + 3 * b * N, N, true);
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
