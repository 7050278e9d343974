// Farthest point sampling on CUDA.
//
// Every point carries its squared distance to the nearest point chosen so far. A step takes the
// newest sample, lowers the distances of those that are nearer to it than to the others, and
// chooses the point whose distance is now the greatest. So M samples are M steps one after another,
// and what counts is how long one step takes: a thread keeps its points and their distances in
// registers, so that a step reads no memory but the new sample's place, and looks for its own
// farthest point as it goes. A candidate is one 64-bit number (distance above, index below), so a
// warp finds its best in two instructions, and ties fall to the lowest index by themselves. The
// chosen points lie at distance 0 of themselves, so they are left out only in steps that find
// nothing farther (in a cluster at once, which is faster there). Then the warps have to agree:
//   block    a cloud in one block: candidates meet in shared memory, one barrier a step
//   cluster  a cloud in up to 16 blocks of a cluster: candidates are mailed, with the place of the
//            point, into the shared memory of the others (mailbox.cuh)
//   grid     a cloud in many blocks that all run at once: candidates meet in global memory, each
//            marked with the parity of its step, so that nothing has to be cleared in between
//   streamed as grid, for clouds that do not fit in registers: distances lie in memory
// plan_fps.h chooses by the size of the clouds and the device.
#include <utility>

#include "cuda/cluster.cuh"
#include "cuda/dispatch.h"
#include "cuda/distance.cuh"
#include "cuda/mailbox.cuh"
#include "cuda/plan_fps.h"
#include "cuda/warp.cuh"

namespace dapt::cuda {
namespace {

// Candidates for the next sample are ordered by distance, and equal distances by index, the lowest
// on top. Distances are >= 0, so their bits compare as signed integers; a point that is not to be
// chosen (again) is a negative candidate.
using Candidate = long long;
constexpr Candidate kNone = -1;
constexpr float kTaken = -1.0f;

// It is nearer to no point than any other.
__device__ __forceinline__ float3 nowhere() { return make_float3(NAN, NAN, NAN); }

__device__ __forceinline__ Candidate make_candidate(float distance, unsigned index) {
  return static_cast<Candidate>(__float_as_int(distance)) << 32 | ~index;
}

struct Sampling {
  const float* points;  // [N, 3]
  int64_t* idx;         // [M] out
  float* centers;       // [M, 3] out, or null
  float* nearest;       // [N] scratch, or null
  unsigned N, M, length, start;
  bool skip_near_origin;

  __device__ float3 point(unsigned n) const {
    const float* p = points + 3 * static_cast<int64_t>(n);
    return {__ldg(p), __ldg(p + 1), __ldg(p + 2)};
  }
  // The distance of point n to a set without points.
  __device__ float first_distance(unsigned n, float3 at) const {
    const bool hidden = skip_near_origin && squared_norm(at.x, at.y, at.z) <= 1e-3f;
    return n < length && !hidden ? INFINITY : kTaken;
  }
  __device__ unsigned chosen(Candidate farthest) const {
    return farthest >= 0 ? ~static_cast<unsigned>(farthest) : start;
  }
  // Whether `farthest` may have been chosen before: no point is away from the chosen ones, or the
  // last one was (NaN, which is away from itself).
  __device__ static bool may_repeat(Candidate farthest, unsigned last) {
    return static_cast<int>(farthest >> 32) <= 0 || ~static_cast<unsigned>(farthest) == last;
  }
  __device__ void write(unsigned m, unsigned n) const {
    idx[m] = n;
    if (centers) {
      const float3 at = point(n);
      float* const to = centers + 3 * static_cast<int64_t>(m);
      to[0] = at.x, to[1] = at.y, to[2] = at.z;
    }
  }
};

__device__ __forceinline__ unsigned clamp(int64_t value, int64_t low, int64_t high) {
  return static_cast<unsigned>(value < low ? low : value > high ? high : value);
}

// Lengths and starts in device memory are unchecked: clamped, they lead to no point outside the
// cloud.
__device__ __forceinline__ Sampling sampling_of(const FpsArgs& a, int64_t b,
                                                float* nearest = nullptr) {
  const unsigned length = clamp(a.lengths ? a.lengths[b] : a.N, 1, a.N);
  const unsigned start = clamp(a.starts ? a.starts[b] : a.start, 0, length - 1);
  return {.points = a.points + 3 * b * a.N,
          .idx = a.idx + b * a.M,
          .centers = a.centers ? a.centers + 3 * b * a.M : nullptr,
          .nearest = nearest,
          .N = static_cast<unsigned>(a.N),
          .M = static_cast<unsigned>(a.M),
          .length = length,
          .start = start,
          .skip_near_origin = a.skip_near_origin};
}

// The indices chosen last, one per thread, written when each has one: a step waits for no store.
template <int kThreads>
struct Chosen {
  unsigned mine;

  __device__ __forceinline__ void put(const Sampling& sampling, unsigned m, unsigned n) {
    const unsigned turn = m % kThreads;
    if (threadIdx.x == turn) mine = n;
    if ((turn == kThreads - 1 || m + 1 == sampling.M) && threadIdx.x <= turn) {
      sampling.write(m - turn + threadIdx.x, mine);
    }
  }
};

// The points of one thread in registers: first, first + 32, ... so that a warp reads whole lines
// and warps are in the order of their indices.
template <int kThreads, int kPoints>
struct RegisterSlice {
  static constexpr unsigned kPerBlock = kThreads * kPoints;

  float x[kPoints], y[kPoints], z[kPoints];
  float nearest[kPoints];  // squared distance to the chosen set, or kTaken
  unsigned taken;          // a bit for each point that was chosen
  unsigned first;

  // Takes the points of the block `rank` of those that share a cloud.
  __device__ __forceinline__ void load(const Sampling& sampling, unsigned rank) {
    static_assert(kPoints <= 32);
    taken = 0;
    first = rank * kPerBlock + warp_id() * 32 * kPoints + lane_id();
#pragma unroll
    for (int p = 0; p < kPoints; ++p) {
      const unsigned n = first + 32 * p;
      const float3 at = sampling.point(n < sampling.N ? n : 0);
      x[p] = at.x, y[p] = at.y, z[p] = at.z;
      nearest[p] = sampling.first_distance(n, at);
    }
  }

  // out[0] is the first point of the block.
  template <class Place>
  __device__ __forceinline__ void copy_to(Place* out, const Sampling& sampling) const {
#pragma unroll
    for (int p = 0; p < kPoints; ++p) {
      const unsigned n = first + 32 * p;
      if (n < sampling.N) {
        Place& to = out[n % kPerBlock];
        to.x = x[p], to.y = y[p], to.z = z[p];
      }
    }
  }

  // Point n was chosen, and is hidden by hide_taken(),
  __device__ __forceinline__ void take(unsigned n) {
    const unsigned offset = n - first;
    if (offset < 32 * kPoints && offset % 32 == 0) taken |= 1u << offset / 32;
  }
  // or at once.
  __device__ __forceinline__ void hide(unsigned n) {
    const unsigned offset = n - first;
    if (offset < 32 * kPoints) {  // in one warp only
#pragma unroll
      for (int p = 0; p < kPoints; ++p) nearest[p] = offset == 32u * p ? kTaken : nearest[p];
    }
  }

  // The chosen points are no candidates any more.
  __device__ __forceinline__ void hide_taken() {
#pragma unroll
    for (int p = 0; p < kPoints; ++p) nearest[p] = taken >> p & 1 ? kTaken : nearest[p];
  }

  // Adds `at` to the chosen set; returns the farthest point, which may have been chosen before if
  // its distance is 0. As a tree, no comparison waits for all before it; that takes registers.
  template <bool kTree = kThreads <= 256>
  __device__ __forceinline__ Candidate add(float3 at) {
#pragma unroll
    for (int p = 0; p < kPoints; ++p)
      nearest[p] = fminf(nearest[p], squared_distance(x[p], y[p], z[p], at.x, at.y, at.z));
    float farthest[kPoints];
    int slot[kPoints];
    farthest[0] = nearest[0], slot[0] = 0;
    if constexpr (kTree) {
#pragma unroll
      for (int p = 1; p < kPoints; ++p) farthest[p] = nearest[p], slot[p] = p;
#pragma unroll
      for (int width = 1; width < kPoints; width *= 2) {
#pragma unroll
        for (int p = 0; p + width < kPoints; p += 2 * width) {
          slot[p] = farthest[p + width] > farthest[p] ? slot[p + width] : slot[p];
          farthest[p] = fmaxf(farthest[p], farthest[p + width]);
        }
      }
    } else {
#pragma unroll
      for (int p = 1; p < kPoints; ++p) {
        slot[0] = nearest[p] > farthest[0] ? p : slot[0];
        farthest[0] = fmaxf(farthest[0], nearest[p]);
      }
    }
    return make_candidate(farthest[0], first + 32 * slot[0]);
  }
};

// The points of one thread in memory: every kThreads-th of its block's.
template <int kThreads>
struct StreamedSlice {
  Sampling sampling;
  unsigned begin, end;

  __device__ __forceinline__ void load(const Sampling& of, unsigned rank) {
    sampling = of;
    const unsigned per_block = (sampling.N + gridDim.x - 1) / gridDim.x;
    begin = rank * per_block + threadIdx.x;
    end = Min()((rank + 1) * per_block, sampling.N);
    for (unsigned n = begin; n < end; n += kThreads) {
      sampling.nearest[n] = sampling.first_distance(n, sampling.point(n));
    }
  }

  __device__ __forceinline__ void take(unsigned n) {
    if (n >= begin && n < end && (n - begin) % kThreads == 0) sampling.nearest[n] = kTaken;
  }

  __device__ __forceinline__ Candidate add(float3 at) {
    float farthest = kTaken;
    unsigned index = 0;
#pragma unroll 4
    for (unsigned n = begin; n < end; n += kThreads) {
      const float3 p = sampling.point(n);
      const float distance =
          fminf(sampling.nearest[n], squared_distance(p.x, p.y, p.z, at.x, at.y, at.z));
      sampling.nearest[n] = distance;
      index = distance > farthest ? n : index;
      farthest = fmaxf(distance, farthest);
    }
    return make_candidate(farthest, index);
  }

  __device__ __forceinline__ void hide_taken() {}  // they are hidden as they are taken
};

// Adds the point `last`, which is at `at`, to the chosen set; returns what all threads agree on as
// the farthest of the others.
template <class Slice, class Agree>
__device__ __forceinline__ Candidate farthest_after(unsigned last, float3 at, Slice& slice,
                                                    const Agree& agree) {
  slice.take(last);
  for (bool again = false;; again = true) {
    const Candidate best = agree(slice.add(at));
    if (again || !Sampling::may_repeat(best, last)) return best;
    slice.hide_taken();
    at = nowhere();
  }
}

// The best of the candidates of the warps: slots without a warp hold kNone. A few are read by every
// thread faster than a warp reduces them.
template <int kWarps>
__device__ __forceinline__ Candidate farthest_of(const Candidate* of_warps) {
  if constexpr (kWarps > 4) return warp_max(of_warps[lane_id()]);
  Candidate best = of_warps[0];
#pragma unroll
  for (int warp = 1; warp < kWarps; ++warp) best = Max()(best, of_warps[warp]);
  return best;
}

template <int kThreads, int kPoints>
__global__ void __launch_bounds__(kThreads) fps_block_kernel(const FpsArgs a) {
  // Parallel over B by blocks, over N by their threads.
  using Place = std::conditional_t<kThreads * kPoints <= kMostPadded, float4, float3>;
  DAPT_DYNAMIC_SHARED(Candidate, keys);                       // [2, 32], by warp
  Place* const points = reinterpret_cast<Place*>(keys + 64);  // [N]
  const Sampling sampling = sampling_of(a, blockIdx.x);
  RegisterSlice<kThreads, kPoints> slice;
  slice.load(sampling, 0);
  slice.copy_to(points, sampling);
  if (threadIdx.x < 64) keys[threadIdx.x] = kNone;
  __syncthreads();
  unsigned turn = 0;
  const auto agree = [&](Candidate of_thread) {
    const Candidate of_warp = warp_max(of_thread);
    // Two sets of keys: a warp that is a turn ahead does not overwrite what others still read.
    Candidate* const of_turn = keys + turn % 2 * 32;
    ++turn;
    if (lane_id() == 0) of_turn[warp_id()] = of_warp;
    __syncthreads();
    return farthest_of<kThreads / 32>(of_turn);
  };
  Chosen<kThreads> chosen;
  unsigned last = sampling.start;
  for (unsigned m = 0;; ++m) {
    const Place at = points[last];
    chosen.put(sampling, m, last);
    if (m + 1 == sampling.M) return;
    last = sampling.chosen(farthest_after(last, {at.x, at.y, at.z}, slice, agree));
  }
}

template <int kThreads, int kPoints, int kBlocks>
__global__ void __launch_bounds__(kThreads) fps_cluster_kernel(const FpsArgs a) {
  // Parallel over B by clusters of kBlocks blocks, over N by their threads.
  constexpr int kWarps = kThreads / 32;
  // With at most 32 warps in a cluster each sends its own key, else the block sends one.
  constexpr bool kWarpSends = kWarps * kBlocks <= 32;
  constexpr int kSlots = kWarpSends ? kWarps * kBlocks : kBlocks;
  DAPT_DYNAMIC_SHARED(float3, points);  // [kThreads * kPoints], those of this block
  __shared__ Candidate keys[kWarps];
  // Two of each: a block that is a step ahead does not overwrite what others still read. The order
  // of the slots is that of their indices.
  __shared__ Mailbox mail[2];
  __shared__ int distance[2][kSlots];  // bits, as in a key
  __shared__ float4 place[2][kSlots];  // x, y, z, index as bits
  const Sampling sampling = sampling_of(a, blockIdx.x / kBlocks);
  const unsigned rank = cluster_rank();
  RegisterSlice<kThreads, kPoints> slice;
  slice.load(sampling, rank);
  slice.copy_to(points, sampling);
  if (threadIdx.x < 2) mail[threadIdx.x].init();
  cluster_sync();
  Chosen<kThreads> chosen;
  unsigned last = sampling.start;
  float3 at = sampling.point(last);
  for (unsigned m = 0;; ++m) {
    if (rank == 0) chosen.put(sampling, m, last);
    if (m + 1 == sampling.M) return;
    Mailbox& box = mail[m % 2];
    if (threadIdx.x == 0) box.expect(kSlots * (sizeof(int) + sizeof(float4)));
    slice.hide(last);
    Candidate best = warp_max(slice.template add<false>(at));
    if (!kWarpSends) {
      if (lane_id() == 0) keys[warp_id()] = best;
      __syncthreads();
      if (warp_id() == 0) best = warp_max(lane_id() < kWarps ? keys[lane_id()] : kNone);
    }
    if ((kWarpSends || warp_id() == 0) && lane_id() < kBlocks) {
      const unsigned slot = kWarpSends ? rank * kWarps + warp_id() : rank;
      const unsigned n = sampling.chosen(best);
      const float3 p = points[n % slice.kPerBlock];
      box.send(&distance[m % 2][slot], static_cast<int>(best >> 32), lane_id());
      box.send(&place[m % 2][slot], make_float4(p.x, p.y, p.z, __uint_as_float(n)), lane_id());
    }
    box.wait(m / 2 % 2);
    const int mine = lane_id() < kSlots ? distance[m % 2][lane_id()] : -1;
    const int farthest = warp_max(mine);
    const float4 found = place[m % 2][__ffs(__ballot_sync(kFullWarp, mine == farthest)) - 1];
    last = __float_as_uint(found.w);
    at = {found.x, found.y, found.z};
    if (farthest < 0) last = sampling.start, at = sampling.point(last);
  }
}

// Bit 31 of a key is always set, as indices are below 2^31: in the mail it is the parity of the
// turn.
constexpr unsigned long long kTag = 1ull << 31;

template <int kThreads, int kPoints>
__global__ void __launch_bounds__(kThreads, 1)
    fps_grid_kernel(const FpsArgs a, unsigned long long* mail, float* nearest) {
  // Parallel over B by rows of the grid, over N by the threads of a row. All blocks run at once:
  // those of a row send each other their farthest points through mail[gridDim.y][2][gridDim.x],
  // zero at first.
  constexpr int kWarps = kThreads / 32;
  using Slice =
      std::conditional_t<kPoints == 0, StreamedSlice<kThreads>, RegisterSlice<kThreads, kPoints>>;
  __shared__ Candidate of_block[kWarps], of_row[kWarps];
  mail += blockIdx.y * 2 * gridDim.x;
  unsigned turn = 2;
  for (int64_t b = blockIdx.y; b < a.B; b += gridDim.y) {
    const Sampling sampling = sampling_of(a, b, nearest);
    Slice slice;
    slice.load(sampling, blockIdx.x);
    const auto agree = [&](Candidate best) {
      best = warp_max(best);
      if (lane_id() == 0) of_block[warp_id()] = best;
      __syncthreads();
      // A block is never two turns ahead of another, so two boxes and one bit tell the turns apart.
      unsigned long long* const box = mail + turn % 2 * gridDim.x;
      const unsigned long long tag = turn / 2 % 2 ? kTag : 0;
      ++turn;
      if (warp_id() == 0) {
        best = warp_max(lane_id() < kWarps ? of_block[lane_id()] : kNone);
        if (lane_id() == 0) store_relaxed(&box[blockIdx.x], (best & ~kTag) | tag);
      }
      best = kNone;
      if (threadIdx.x < gridDim.x) {
        unsigned long long word;
        do word = load_relaxed(&box[threadIdx.x]);
        while ((word & kTag) != tag);
        best = static_cast<Candidate>(word | kTag);
      }
      best = warp_max(best);
      if (lane_id() == 0) of_row[warp_id()] = best;
      __syncthreads();
      return warp_max(lane_id() < kWarps ? of_row[lane_id()] : kNone);
    };
    Chosen<kThreads> chosen;
    unsigned last = sampling.start;
    for (unsigned m = 0;; ++m) {
      const float3 at = sampling.point(last);
      if (blockIdx.x == 0) chosen.put(sampling, m, last);
      if (m + 1 == sampling.M) break;
      last = sampling.chosen(farthest_after(last, at, slice, agree));
    }
  }
}

template <size_t kListed>
void launch_listed(const FpsArgs& a, const FpsPlan& plan, const Context& context) {
  constexpr FpsKernel k = kFpsKernels[kListed];
  const unsigned blocks = plan.blocks_per_cloud, rows = plan.clouds_at_once;
  if constexpr (k.version == FpsVersion::block) {
    DAPT_LAUNCH((fps_block_kernel<k.threads, k.points_per_thread>), grid_of(a.B), k.threads,
                plan.shared_bytes, context.stream, a);
  } else if constexpr (k.version == FpsVersion::cluster) {
    DAPT_LAUNCH_CLUSTER((fps_cluster_kernel<k.threads, k.points_per_thread, k.blocks_per_cloud>),
                        blocks, grid_of(a.B * blocks), k.threads, plan.shared_bytes, context.stream,
                        a);
  } else {
    const size_t mail_bytes = sizeof(Candidate) * 2 * blocks * rows;
    auto* mail = static_cast<unsigned long long*>(context.scratch(mail_bytes));
    DAPT_CUDA_CHECK(cudaMemsetAsync(mail, 0, mail_bytes, context.stream));
    float* nearest = nullptr;
    if (k.version == FpsVersion::streamed) {
      nearest = static_cast<float*>(context.scratch(sizeof(float) * a.N));
    }
    DAPT_LAUNCH_COOPERATIVE((fps_grid_kernel<k.threads, k.points_per_thread>), dim3(blocks, rows),
                            k.threads, 0, context.stream, a, mail, nearest);
  }
}

template <size_t... kListed>
void launch_plan(const FpsArgs& a, const FpsPlan& plan, const Context& context,
                 std::index_sequence<kListed...>) {
  const bool listed =
      ((plan.kernel == kFpsKernels[kListed] && (launch_listed<kListed>(a, plan, context), true)) ||
       ...);
  if (!listed) throw std::runtime_error("no kernel is compiled for fps as " + describe(plan));
}

}  // namespace

void fps(const FpsArgs& a, const FpsPlan& plan, const Context& context) {
  if (a.B == 0 || a.M == 0) return;
  check_cloud_size(a.N);
  launch_plan(a, plan, context, std::make_index_sequence<std::size(kFpsKernels)>());
}

void fps(const FpsArgs& a, const Context& context) {
  fps(a, plan_fps(a.B, a.N, current_device()), context);
}

}  // namespace dapt::cuda
