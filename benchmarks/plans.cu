// Times every launch plan of farthest point sampling and kNN on a GPU, so that the estimates by
// which csrc/cuda/plan_*.h chooses can be checked. No torch:
//
//   nvcc -std=c++20 -O3 -fmad=false -arch=sm_90 -Icsrc -o plans benchmarks/plans.cu
//   csrc/cuda/fps.cu \
//     csrc/cuda/knn.cu csrc/cuda/knn_any.cu csrc/cuda/device.cu && ./plans > plans.jsonl
//
// A line of JSON for each plan: "chosen" marks the one that an op takes, "same" says whether its
// indices are those of the first plan.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "cuda/launch.h"
#include "cuda/plan_fps.h"
#include "cuda/plan_knn.h"

namespace {

using namespace dapt;
using namespace dapt::cuda;

template <class T>
struct OnDevice {
  T* data = nullptr;
  size_t count;

  explicit OnDevice(size_t count) : count(count) {
    DAPT_CUDA_CHECK(cudaMalloc(&data, count * sizeof(T)));
  }
  explicit OnDevice(const std::vector<T>& values) : OnDevice(values.size()) {
    DAPT_CUDA_CHECK(cudaMemcpy(data, values.data(), count * sizeof(T), cudaMemcpyHostToDevice));
  }
  OnDevice(const OnDevice&) = delete;
  ~OnDevice() { cudaFree(data); }

  std::vector<T> values() const {
    std::vector<T> values(count);
    DAPT_CUDA_CHECK(cudaMemcpy(values.data(), data, count * sizeof(T), cudaMemcpyDeviceToHost));
    return values;
  }
};

std::vector<float> random_points(int64_t count) {
  std::mt19937 rng(1);
  std::normal_distribution<float> normal;
  std::vector<float> points(3 * count);
  for (float& p : points) p = normal(rng);
  return points;
}

// Scratch memory that is taken once and used by every launch, as all run on one stream.
Context context_of(OnDevice<char>& memory, size_t& used) {
  return {.stream = nullptr, .scratch = [&](size_t bytes) -> void* {
            void* const at = memory.data + used;
            used += (bytes + 255) / 256 * 256;
            if (used > memory.count) throw std::runtime_error("plans.cu: too little scratch");
            return at;
          }};
}

/// Median microseconds of a call.
template <class Call>
double time_of(const Call& call) {
  cudaEvent_t begin, end;
  DAPT_CUDA_CHECK(cudaEventCreate(&begin));
  DAPT_CUDA_CHECK(cudaEventCreate(&end));
  const auto time = [&](int calls) {
    DAPT_CUDA_CHECK(cudaEventRecord(begin));
    for (int i = 0; i < calls; ++i) call();
    DAPT_CUDA_CHECK(cudaEventRecord(end));
    DAPT_CUDA_CHECK(cudaEventSynchronize(end));
    float milliseconds = 0;
    DAPT_CUDA_CHECK(cudaEventElapsedTime(&milliseconds, begin, end));
    return 1e3 * milliseconds / calls;
  };
  const double first = time(2);
  const int calls = std::clamp(int(2000 / first), 1, 50);
  std::vector<double> readings;
  for (int i = 0; i < (first > 5000 ? 3 : 11); ++i) readings.push_back(time(calls));
  std::nth_element(readings.begin(), readings.begin() + readings.size() / 2, readings.end());
  return readings[readings.size() / 2];
}

void print_row(const char* op, const std::string& name, const std::string& plan, double micros,
               bool chosen, bool same) {
  std::printf(
      "{\"op\": \"%s\", \"case\": \"%s\", \"plan\": \"%s\", \"us\": %.2f, \"chosen\": %s, "
      "\"same\": %s}\n",
      op, name.c_str(), plan.c_str(), micros, chosen ? "true" : "false", same ? "true" : "false");
  std::fflush(stdout);
}

void sample(int64_t B, int64_t N, int64_t M, OnDevice<char>& scratch) {
  const OnDevice<float> points(random_points(B * N));
  const OnDevice<int64_t> idx(B * M);
  const OnDevice<float> centers(3 * B * M);
  const FpsArgs args{.points = points.data,
                     .lengths = nullptr,
                     .starts = nullptr,
                     .idx = idx.data,
                     .centers = centers.data,
                     .B = B,
                     .N = N,
                     .M = M,
                     .start = 0,
                     .skip_near_origin = false};
  const std::string name =
      "B=" + std::to_string(B) + ", " + std::to_string(N) + " -> " + std::to_string(M);
  const FpsPlan chosen = plan_fps(B, N, current_device());
  std::vector<int64_t> expected;
  for (const FpsKernel& kernel : kFpsKernels) {
    const auto plan = plan_fps_with(kernel, B, N, current_device());
    if (!plan) continue;
    size_t used = 0;
    const Context context = context_of(scratch, used);
    const double micros = time_of([&] { used = 0, fps(args, *plan, context); });
    const std::vector<int64_t> found = idx.values();
    if (expected.empty()) expected = found;
    const std::string text = describe(*plan) + ", " + std::to_string(plan->cycles) + " cycles";
    print_row("fps", name, text, micros, plan->kernel == chosen.kernel, found == expected);
  }
}

void search(int64_t B, int64_t M, int64_t N, int64_t k, bool patches, OnDevice<char>& scratch) {
  const OnDevice<float> points(random_points(B * N)), queries(random_points(B * M));
  const OnDevice<int64_t> idx(B * M * k);
  const OnDevice<float> distances(B * M * k), around(3 * B * M * k);
  const KnnArgs args{.queries = queries.data,
                     .points = points.data,
                     .lengths = nullptr,
                     .sq_dist = patches ? nullptr : distances.data,
                     .idx = idx.data,
                     .patches = patches ? around.data : nullptr,
                     .B = B,
                     .M = M,
                     .N = N,
                     .k = k};
  const std::string name = "B=" + std::to_string(B) + ", " + std::to_string(M) + " of " +
                           std::to_string(N) + ", k=" + std::to_string(k) +
                           (patches ? ", patches" : "");
  const KnnPlan chosen = plan_knn(B, M, N, k, current_device());
  std::vector<KnnPlan> plans{chosen};
  if (chosen.kernel == KnnPlan::Kernel::warp_per_query) {
    for (int keys : {chosen.keys, std::min(kMaxKeys, 2 * chosen.keys)})
      for (int warps : {4, 8, 16})
        for (int tile : {512, 1024, 2048, 4096})
          for (int64_t splits : {1, 2, 4})
            plans.push_back({chosen.kernel, keys, warps, tile_of(N, tile), splits});
  }
  std::vector<std::string> seen;
  std::vector<int64_t> expected;
  for (const KnnPlan& plan : plans) {
    const std::string text = describe(plan);
    if (std::find(seen.begin(), seen.end(), text) != seen.end()) continue;
    if (plan.splits * 1024 > N && plan.splits > chosen.splits) continue;
    seen.push_back(text);
    size_t used = 0;
    const Context context = context_of(scratch, used);
    const double micros = time_of([&] { used = 0, knn(args, plan, context); });
    const std::vector<int64_t> found = idx.values();
    if (expected.empty()) expected = found;
    print_row("knn", name, text, micros, seen.size() == 1, found == expected);
  }
}

}  // namespace

int main() try {
  OnDevice<char> scratch(512 << 20);
  for (const auto& [B, N, M] : {std::array<int64_t, 3>{32, 1024, 64},
                                {32, 2048, 128},
                                {32, 4096, 512},
                                {32, 8192, 1200},
                                {128, 2048, 128},
                                {1, 2048, 128},
                                {1, 16384, 1024},
                                {1, 100'000, 1024},
                                {1, 1'000'000, 256}})
    sample(B, N, M, scratch);
  search(32, 64, 1024, 32, true, scratch);
  search(32, 128, 2048, 32, true, scratch);
  search(8, 512, 8192, 32, false, scratch);
  search(1, 4096, 100'000, 32, false, scratch);
  search(32, 2048, 2048, 3, false, scratch);
  search(1, 40'000, 40'000, 16, false, scratch);
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
