// Ball query on the CPU.
#include <optional>
#include "cpu/search.h"
#include "ops.h"

namespace dapt::cpu::DAPT_ISA {
namespace {

// The first points in index order, which suffice for balls that hold many; in a larger cloud also
// all points in sorted buckets, for balls that hold few.
struct Ball {
  static constexpr int64_t kHead = 4096;
  Ball(const float* points, int64_t N) : head(points, std::min(N, kHead), false) {
    if (N > kHead) all = std::make_unique<BucketedCloud>(points, N, true);
  }
  BucketedCloud head;
  std::unique_ptr<BucketedCloud> all;
};

// A mask of the points of bucket i that are nearer than the radius.
uint64_t inside(const Query& q, const Buckets& buckets, int64_t i, float sq_radius) {
  const float* x = buckets.at(i);
  uint64_t hits = 0;
  for (int64_t j = 0; j < kBucket; j += kLanes) {
    const Float d = squared_distance(q.x, q.y, q.z, load(x + j), load(x + kBucket + j),
                                     load(x + 2 * kBucket + j));
    hits |= uint64_t(bits(less(d, broadcast(sq_radius)))) << j;
  }
  return hits;
}

}  // namespace

void ball_query(const BallQueryArgs& a) {
  if (a.N == 0) return std::fill(a.idx, a.idx + a.B * a.M * a.K, int64_t{-1});
  const auto prepare = [&](int64_t b) {
    return std::make_unique<Ball>(a.points + 3 * b * a.N, a.lengths ? a.lengths[b] : a.N);
  };
  for_each_query(a.B, a.N, a.M, prepare, [&](const Ball& ball, int64_t begin, int64_t end) {
    std::optional<Finder> finder;
    std::vector<int32_t> found;
    if (ball.all) finder.emplace(*ball.all);
    for (int64_t row = begin; row < end; ++row) {
      const Query query(a.queries + 3 * row);
      int64_t* idx = a.idx + row * a.K;
      int64_t count = 0;
      for (int64_t i = 0; i < ball.head.buckets.count && count < a.K; ++i) {
        uint64_t hits = inside(query, ball.head.buckets, i, a.sq_radius);
        for (; hits && count < a.K; hits &= hits - 1) {
          idx[count++] = i * kBucket + std::countr_zero(hits);
        }
      }
      if (finder && count < a.K) {
        found.clear();
        for (const int64_t i : finder->within(a.queries + 3 * row, a.sq_radius)) {
          uint64_t hits = inside(query, ball.all->buckets, i, a.sq_radius);
          for (; hits; hits &= hits - 1) {
            found.push_back(ball.all->buckets.index[i * kBucket + std::countr_zero(hits)]);
          }
        }
        count = std::min<int64_t>(a.K, found.size());
        std::partial_sort(found.begin(), found.begin() + count, found.end());
        std::copy(found.begin(), found.begin() + count, idx);
      }
      std::fill(idx + count, idx + a.K, count ? idx[0] : -1);
    }
  });
}

}  // namespace dapt::cpu::DAPT_ISA
