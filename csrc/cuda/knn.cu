// k nearest neighbors on CUDA.
//
// A block loads the points of a cloud into shared memory, one tile at a time, and compares all of
// them with its queries. There is no search tree: for the few thousand points of a cloud, comparing
// is cheaper than descending one. A point is kept as one 64-bit key, the bits of its distance
// followed by its index, so that the smallest keys are the nearest points and the lower index wins
// a tie. With a warp per query (any k), the k smallest keys are sorted across its lanes; keys below
// the k-th wait in shared memory until they fill a batch, which is sorted and merged (topk.cuh).
// More than 512 neighbors take several passes, each starting where the last one ended. When a few
// queries on large clouds would leave multiprocessors idle, different blocks search parts of a
// cloud, and their lists are merged. With k <= 4 and many queries, each thread handles a query and
// inserts into a few registers.
#include "cuda/knn_any.h"
#include "cuda/plan_knn.h"
#include "cuda/points.cuh"
#include "cuda/topk.cuh"

namespace dapt::cuda {
namespace {

struct Search {
  KnnArgs args;
  unsigned query_blocks;  // blocks that share the queries of one cloud
  unsigned tile;
  unsigned splits;
  int64_t rank;  // of the first neighbor that this pass finds
  int width;     // how many it finds
  Key* partial;  // [B, M, splits, width] lists of a cloud's parts; null with one part
};

/// `nearest` fills the slots without a neighbor, which exist if fewer than k points of the cloud
/// have a distance (one that is not NaN).
__device__ void write_neighbor(const KnnArgs& args, int64_t row, int64_t j, Key key,
                               int64_t nearest, const float* cloud, float3 query) {
  const int64_t slot = row * args.k + j;
  const bool found = key < kNoKey;
  const int64_t n = found ? index_of(key) : nearest;
  args.idx[slot] = n;
  if (args.sq_dist)
    args.sq_dist[slot] = __uint_as_float(found ? distance_bits(key) : 0x7f800000);  // infinity
  if (args.patches) {
    const float3 point = load_point(cloud, n);
    float* patch = args.patches + 3 * slot;
    patch[0] = __fsub_rn(point.x, query.x);
    patch[1] = __fsub_rn(point.y, query.y);
    patch[2] = __fsub_rn(point.z, query.z);
  }
}

template <int kRows>
__device__ __forceinline__ void write_list(const Search& s, int64_t row, const TopK<kRows>& list,
                                           const float* cloud, float3 query) {
  const Key first = list.at(0);
  const int64_t nearest = s.rank > 0       ? s.args.idx[row * s.args.k]
                          : first < kNoKey ? index_of(first)
                                           : 0;
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    const int j = i * 32 + static_cast<int>(lane_id());
    if (j < s.width) write_neighbor(s.args, row, s.rank + j, list.keys[i], nearest, cloud, query);
  }
}

/// The smallest key that this pass looks for: the one after the last neighbor found.
__device__ Key first_key(const Search& s, int64_t row, const float* cloud, float3 query) {
  if (s.rank == 0) return 0;
  const int64_t* idx = s.args.idx + row * s.args.k;
  const int64_t last = idx[s.rank - 1];
  if (last == idx[0]) return kNoKey;  // a filled slot: no neighbor is left
  const float distance = squared_distance(query, load_point(cloud, last));
  return make_key(__float_as_uint(distance), static_cast<unsigned>(last)) + 1;
}

// Parallel over parts of clouds and queries: a warp per query; a block's warps share each tile.
// If asked for more than one block per multiprocessor, the compiler would spill registers.
template <int kRows>
__global__ void __launch_bounds__(32 * kMaxWarps, 1) knn_warp_kernel(const Search s) {
  const int warps = blockDim.x / 32;
  DAPT_DYNAMIC_SHARED(Key, buffers);  // [warps, kBuffer]
  auto* tile = reinterpret_cast<float*>(buffers + warps * TopK<kRows>::kBuffer);  // [s.tile, 3]
  const unsigned part = blockIdx.x / s.query_blocks;
  const unsigned b = part / s.splits, split = part % s.splits;
  const int64_t m = static_cast<int64_t>(blockIdx.x % s.query_blocks) * warps + warp_id();
  const bool active = m < s.args.M;
  const int64_t row = b * s.args.M + (active ? m : 0);
  const float* cloud = s.args.points + 3 * b * s.args.N;  // [N, 3]
  const unsigned count = length_of(s.args.lengths, b, s.args.N);
  const unsigned part_size = (count + s.splits - 1) / s.splits;
  const unsigned end = min(count, (split + 1) * part_size);

  const float3 query = load_point(s.args.queries, row);
  const Key from = kRows == kMaxKeys && active ? first_key(s, row, cloud, query) : 0;
  TopK<kRows> list(buffers + warp_id() * TopK<kRows>::kBuffer, s.width);
  for (unsigned first = split * part_size; first < end; first += s.tile) {
    const int size = static_cast<int>(min(end - first, s.tile));
    const int padded = (size + kTileStep - 1) / kTileStep * kTileStep;
    __syncthreads();
    load_tile(cloud + int64_t{3} * first, size, padded, tile);
    __syncthreads();
    if (!active) continue;
    for (int step = 0; step < padded; step += kTileStep) {
      const int n = step + static_cast<int>(lane_id());
      float distances[kOffersAtOnce];
#pragma unroll
      for (int u = 0; u < kOffersAtOnce; ++u)
        distances[u] = squared_distance(query, load_point(tile, n + 32 * u));
#pragma unroll
      for (int u = 0; u < kOffersAtOnce; ++u) {
        const Key key =
            make_key(__float_as_uint(distances[u]), static_cast<unsigned>(first) + (n + 32 * u));
        list.offer(key, kRows < kMaxKeys || key >= from);
      }
      list.merge(first + step + kTileStep >= end);
    }
  }
  if (!active) return;
  if (!s.partial) return write_list(s, row, list, cloud, query);
  Key* partial = s.partial + (row * s.splits + split) * s.width;
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    const int j = i * 32 + static_cast<int>(lane_id());
    if (j < s.width) partial[j] = list.keys[i];
  }
}

// Parallel over queries: a warp merges the lists found in the parts of its cloud.
template <int kRows>
__global__ void __launch_bounds__(32 * kMaxWarps, 1) knn_merge_kernel(const Search s) {
  DAPT_DYNAMIC_SHARED(Key, buffers);  // [warps, kBuffer]
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (blockDim.x / 32) + warp_id();
  if (row >= s.args.B * s.args.M) return;
  const int64_t count = static_cast<int64_t>(s.splits) * s.width;
  const Key* partial = s.partial + row * count;
  TopK<kRows> list(buffers + warp_id() * TopK<kRows>::kBuffer, s.width);
  for (int64_t i = 0; i < count; i += 32) {
    const int64_t j = i + lane_id();
    list.offer(j < count ? partial[j] : kNoKey);
    list.merge(i + 32 >= count);
  }
  const float* cloud = s.args.points + 3 * (row / s.args.M) * s.args.N;  // [N, 3]
  write_list(s, row, list, cloud, load_point(s.args.queries, row));
}

// Parallel over queries: one thread each; the threads of a block share each tile. Four blocks per
// multiprocessor are enough; left to itself, the compiler aims for more and spills registers.
template <int kKeys>
__global__ void __launch_bounds__(32 * kMaxThreadWarps, 4) knn_thread_kernel(const Search s) {
  DAPT_DYNAMIC_SHARED(float4, tile);  // [s.tile]
  const int64_t b = blockIdx.x / s.query_blocks;
  const int64_t m = static_cast<int64_t>(blockIdx.x % s.query_blocks) * blockDim.x + threadIdx.x;
  const bool active = m < s.args.M;
  const int64_t row = b * s.args.M + (active ? m : 0);
  const float* cloud = s.args.points + 3 * b * s.args.N;  // [N, 3]
  const int64_t count = length_of(s.args.lengths, b, s.args.N);
  const float3 query = load_point(s.args.queries, row);
  Key keys[kKeys];
#pragma unroll
  for (int j = 0; j < kKeys; ++j) keys[j] = kNoKey;

  for (int64_t first = 0; first < count; first += s.tile) {
    const int size = static_cast<int>(min(count - first, static_cast<int64_t>(s.tile)));
    __syncthreads();
    for (int n = threadIdx.x; n < size; n += blockDim.x) {
      const float3 point = load_point(cloud, first + n);
      tile[n] = make_float4(point.x, point.y, point.z, 0);
    }
    __syncthreads();
#pragma unroll 4
    for (int n = 0; n < size; ++n) {
      const float4 point = tile[n];
      const float distance = squared_distance(query, make_float3(point.x, point.y, point.z));
      if (__float_as_uint(distance) >= distance_bits(keys[kKeys - 1])) continue;
      Key key = make_key(__float_as_uint(distance), static_cast<unsigned>(first) + n);
#pragma unroll
      for (int j = 0; j < kKeys; ++j) {
        const Key other = keys[j];
        if (key < other) keys[j] = key, key = other;
      }
    }
  }
  if (!active) return;
  const int64_t nearest = keys[0] < kNoKey ? index_of(keys[0]) : 0;
#pragma unroll
  for (int j = 0; j < kKeys; ++j) write_neighbor(s.args, row, j, keys[j], nearest, cloud, query);
}

template <int kKeys>
void search_by_threads(const KnnArgs& args, const KnnPlan& plan, const Context& context) {
  const unsigned query_blocks = grid_of(ceil_div(args.M, 32 * plan.warps));
  const Search search{.args = args,
                      .query_blocks = query_blocks,
                      .tile = static_cast<unsigned>(plan.tile),
                      .splits = 1,
                      .rank = 0,
                      .width = kKeys,
                      .partial = nullptr};
  DAPT_LAUNCH((knn_thread_kernel<kKeys>), grid_of(args.B * query_blocks), 32 * plan.warps,
              plan.tile * sizeof(float4), context.stream, search);
}

template <int kRows>
void search_by_warps(const KnnArgs& args, const KnnPlan& plan, const Context& context) {
  const unsigned query_blocks = grid_of(ceil_div(args.M, plan.warps));
  const unsigned grid = grid_of(args.B * plan.splits * query_blocks);
  const unsigned merge_grid = grid_of(ceil_div(args.B * args.M, plan.warps));
  const int64_t pass = std::min<int64_t>(args.k, 32 * kRows);
  const size_t buffers = plan.warps * TopK<kRows>::kBuffer * sizeof(Key);
  Key* partial = nullptr;
  if (plan.splits > 1)
    partial =
        static_cast<Key*>(context.scratch(args.B * args.M * plan.splits * pass * sizeof(Key)));
  for (int64_t rank = 0; rank < args.k; rank += pass) {
    const Search search{.args = args,
                        .query_blocks = query_blocks,
                        .tile = static_cast<unsigned>(plan.tile),
                        .splits = static_cast<unsigned>(plan.splits),
                        .rank = rank,
                        .width = static_cast<int>(std::min(args.k - rank, pass)),
                        .partial = partial};
    DAPT_LAUNCH((knn_warp_kernel<kRows>), grid, 32 * plan.warps,
                buffers + 3 * plan.tile * sizeof(float), context.stream, search);
    if (partial)
      DAPT_LAUNCH((knn_merge_kernel<kRows>), merge_grid, 32 * plan.warps, buffers, context.stream,
                  search);
  }
}

/// Whether the plan can find k neighbors; only the longest list may take several passes.
bool fits(const KnnPlan& plan, int64_t k) {
  return plan.kernel == KnnPlan::Kernel::thread_per_query
             ? k == plan.keys
             : plan.keys == kMaxKeys || k <= 32 * plan.keys;
}

}  // namespace

void knn(const KnnArgs& args, const KnnPlan& plan, const Context& context) {
  if (args.B * args.M == 0) return;
  check_cloud_size(args.N);
  const bool by_threads = plan.kernel == KnnPlan::Kernel::thread_per_query;
  const int most_warps = by_threads ? kMaxThreadWarps : kMaxWarps;
  if (plan.warps < 1 || plan.warps > most_warps || plan.tile < kTileStep ||
      plan.tile % kTileStep != 0 || plan.splits < 1 || !fits(plan, args.k))
    throw std::invalid_argument("not a plan of a kNN of k = " + std::to_string(args.k) + ": " +
                                describe(plan));
  if (by_threads) {
    dispatch<1, 2, 3, 4>("keys of a kNN plan", plan.keys,
                         [&](auto keys) { search_by_threads<keys()>(args, plan, context); });
  } else {
    dispatch<1, 2, 4, 8, kMaxKeys>("keys of a kNN plan", plan.keys, [&](auto keys) {
      search_by_warps<keys()>(args, plan, context);
    });
  }
}

void knn(const KnnArgs& args, const Context& context) {
  if (args.D != 3) return knn_any(args, context);
  knn(args, plan_knn(args.B, args.M, args.N, args.k, current_device()), context);
}

}  // namespace dapt::cuda
