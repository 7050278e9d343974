// Prints what a search visits and what a plan costs, one line per size of the cloud, for
// test_growth.py.
#include <cstdio>
#include <random>

#include "cpu/nearest.h"
#include "cuda/plan_fps.h"
#include "cuda/plan_knn.h"

using namespace dapt;
using namespace dapt::cpu::DAPT_ISA;

// Replaces torch's thread pool, which nothing here uses.
extern "C" AOTITorchError torch_parallel_for(int64_t, int64_t, int64_t, ParallelFunc, void*) {
  return 1;
}

// Half of the points are on a sphere; the others too, or in one place, or in ever smaller balls.
std::vector<float> cloud(int64_t N, const char* kind) {
  std::mt19937 random(static_cast<unsigned>(N));
  std::normal_distribution<float> normal;
  std::vector<float> points(3 * N);
  for (int64_t n = 0; n < N; ++n) {
    float p[3], norm = 0;
    for (float& c : p) c = normal(random), norm += c * c;
    for (int d = 0; d < 3; ++d) {
      points[3 * n + d] = p[d] / std::sqrt(norm);
      if (n % 2 == 0) continue;
      if (*kind == 'c') points[3 * n + d] = 0.25f;
      if (*kind == 'n') points[3 * n + d] *= std::ldexp(1.0f, -int(n % 30));
    }
  }
  return points;
}

// The mean number of buckets that hold candidates for the 16 nearest points of a query.
double buckets_of_a_query(int64_t N, const char* kind) {
  constexpr int64_t k = 16, kQueries = 64;
  const std::vector<float> points = cloud(N, kind);
  const BucketedCloud buckets(points.data(), N, true, 3, k);
  Nearest nearest(buckets, k);
  Finder finder(buckets);
  size_t looked_at = 0;
  for (int64_t i = 0; i < kQueries; ++i) {
    const float* query = &points[3 * (i * N / kQueries)];
    const int64_t* keys = nearest.search(query);
    looked_at += finder.within(query, distance_of(keys[k - 1])).size();
  }
  return double(looked_at) / kQueries;
}

int main() {
  for (const char* kind : {"spread", "crowded", "nested"}) {
    for (int64_t N = 4096; N <= 1 << 20; N *= 4) {
      std::printf("knn %s %ld %f\n", kind, long(N), buckets_of_a_query(N, kind));
    }
  }
  for (int64_t B : {1, 32}) {
    for (double N = 1024; N < 6e7; N *= 1.25) {
      const auto fps = cuda::plan_fps(B, int64_t(N), cuda::kH100);
      std::printf("fps %ld %ld %ld\n", long(B), long(N), long(fps.cycles));
      const auto knn = cuda::plan_knn(B, 4096, int64_t(N), 32, cuda::kH100);
      std::printf("splits %ld %ld %ld\n", long(B), long(N), long(knn.splits));
    }
  }
}
