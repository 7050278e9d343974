// Runs the point ops on fixed clouds and prints the bits of their results, for
// test_other_processors.py. Coordinates derive from integers, so that every machine has the same.
#include <cstdio>
#include <cstring>
#include <vector>

#include "cpu/isa.h"
#include "ops.h"
#include "torch/csrc/stable/c/shim.h"

using namespace dapt;

// Replaces torch's thread pool; the caller does all the work.
extern "C" AOTITorchError torch_parallel_for(int64_t begin, int64_t end, int64_t, ParallelFunc f,
                                             void* context) {
  f(begin, end, context);
  return 0;
}

namespace dapt::cpu::scalar {
void fps(const FpsArgs&);
void knn(const KnnArgs&);
void ball_query(const BallQueryArgs&);
void chamfer(const ChamferArgs&);
}  // namespace dapt::cpu::scalar

namespace {

uint64_t state = 1;
float draw() {  // a multiple of 2^-20 in [-1, 1)
  state = state * 6364136223846793005u + 1442695040888963407u;
  return float(int64_t(state >> 43) - (1 << 20)) / (1 << 20);
}

std::vector<float> cloud(int64_t count) {
  std::vector<float> points(3 * count);
  for (float& c : points) c = draw();
  for (int64_t n = count / 2; n < count / 2 + count / 8; ++n)  // coincident points
    std::memcpy(&points[3 * n], &points[0], 3 * sizeof(float));
  return points;
}

template <class T>
void print(const char* op, const std::vector<T>& values) {
  uint64_t hash = 14695981039346656037u;
  for (T value : values) {
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    hash = (hash ^ bits) * 1099511628211u;
  }
  std::printf("%s %016llx\n", op, static_cast<unsigned long long>(hash));
}

void run(int64_t B, int64_t N, int64_t M, int64_t k) {
  using namespace cpu::scalar;
  const std::vector<float> points = cloud(B * N), queries = cloud(B * M);
  std::vector<int64_t> samples(B * M), idx(B * M * k);
  std::vector<float> centers(B * M * 3), sq_dist(B * M * k), patches(B * M * k * 3);
  fps({.points = points.data(),
       .lengths = nullptr,
       .starts = nullptr,
       .idx = samples.data(),
       .centers = centers.data(),
       .B = B,
       .N = N,
       .M = M,
       .start = 0,
       .skip_near_origin = false});
  print("fps", samples), print("centers", centers);
  knn({.queries = queries.data(),
       .points = points.data(),
       .lengths = nullptr,
       .sq_dist = sq_dist.data(),
       .idx = idx.data(),
       .patches = patches.data(),
       .B = B,
       .M = M,
       .N = N,
       .k = k});
  print("knn", idx), print("distances", sq_dist), print("patches", patches);
  ball_query({.queries = queries.data(),
              .points = points.data(),
              .lengths = nullptr,
              .idx = idx.data(),
              .B = B,
              .M = M,
              .N = N,
              .K = k,
              .sq_radius = 0.04f});
  print("ball_query", idx);
  std::vector<float> ab(B * M), ba(B * N);
  std::vector<int64_t> idx_ab(B * M), idx_ba(B * N);
  ChamferArgs both{};
  both.a = queries.data(), both.b = points.data(), both.B = B, both.N = M, both.M = N;
  both.sq_ab = ab.data(), both.sq_ba = ba.data();
  both.idx_ab = idx_ab.data(), both.idx_ba = idx_ba.data();
  chamfer(both);
  print("chamfer", ab), print("chamfer", ba), print("chamfer", idx_ab), print("chamfer", idx_ba);
}

}  // namespace

int main() {
  run(3, 700, 37, 9);
  run(1, 5000, 300, 32);
  run(2, 9000, 64, 5);
}
