// Messages between blocks that run at the same time, without a barrier of them all.
#pragma once

#include "cuda/cluster.cuh"
#include "cuda/warp.cuh"

namespace dapt::cuda {

// In global memory: a word is seen by all, in no order with other memory. A word that says which
// turn it belongs to needs nothing else.

__device__ __forceinline__ void store_relaxed(unsigned long long* to, unsigned long long word) {
#ifdef __CUDACC__
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(to), "l"(word) : "memory");
#else
  on_host::store_relaxed(to, word);
#endif
}

// To be called in a loop until the word has come.
__device__ __forceinline__ unsigned long long load_relaxed(const unsigned long long* from) {
#ifdef __CUDACC__
  unsigned long long word;
  asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(word) : "l"(from) : "memory");
  return word;
#else
  return on_host::load_relaxed(from);
#endif
}

#if __CUDA_ARCH__ >= 900
#define DAPT_MAIL(...) asm volatile(__VA_ARGS__ : "memory")
#else
#define DAPT_MAIL(...) __trap()
#endif

// In the shared memory of a cluster's blocks: a mailbox counts the bytes that came, one turn after
// the other. In each turn one thread of its block says how many will come, before or after they do,
// and all threads wait. From init() to the first message there has to be a barrier of the cluster.
struct Mailbox {
#ifdef __CUDACC__
  unsigned long long barrier;

  __device__ __forceinline__ void init() {
    DAPT_MAIL(
        "mbarrier.init.shared::cta.b64 [%0], 1;\n"
        "fence.mbarrier_init.release.cluster;" ::"r"(here(this)));
  }
  __device__ __forceinline__ void expect(unsigned bytes) {
    DAPT_MAIL("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(here(this)),
              "r"(bytes));
  }
  // Writes to what block `rank` has at `slot`, and counts in what it has at `this`.
  __device__ __forceinline__ void send(int* slot, int value, unsigned rank) {
    DAPT_MAIL("st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(
                  there(slot, rank)),
              "r"(value), "r"(there(this, rank)));
  }
  __device__ __forceinline__ void send(float4* slot, float4 value, unsigned rank) {
    DAPT_MAIL(
        "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, "
        "[%5];" ::"r"(there(slot, rank)),
        "f"(value.x), "f"(value.y), "f"(value.z), "f"(value.w), "r"(there(this, rank)));
  }
  // `parity` is that of the turn; the first turn is 0.
  __device__ __forceinline__ void wait(unsigned parity) {
    unsigned came = 0;
    while (!came) {
      DAPT_MAIL(
          "{ .reg .pred p;\n"
          "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
          "selp.u32 %0, 1, 0, p; }" : "=r"(came) : "r"(here(this)),
          "r"(parity));
    }
  }

 private:
  __device__ __forceinline__ static unsigned here(const void* shared) {
    return static_cast<unsigned>(__cvta_generic_to_shared(shared));
  }
  __device__ __forceinline__ static unsigned there(const void* shared, unsigned rank) {
    unsigned mapped = 0;
    DAPT_MAIL("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(mapped) : "r"(here(shared)), "r"(rank));
    return mapped;
  }
#else
  int bytes;  // that are still to come
  unsigned short announced, turn;

  void init() {
    on_host::set_accesses(on_host::Accesses::ignored);
    bytes = announced = turn = 0;
    on_host::set_accesses(on_host::Accesses::plain);
  }
  void expect(int coming) {
    on_host::set_accesses(on_host::Accesses::ignored);
    if (announced++) on_host::fail("expects mail twice in one turn");
    count(coming);
    on_host::set_accesses(on_host::Accesses::plain);
  }
  template <class T>
  void send(T* slot, T value, unsigned rank) {
    on_host::post(slot, &value, sizeof value, rank, this,
                  [](void* box, int came) { static_cast<Mailbox*>(box)->count(-came); });
  }
  void wait(unsigned parity) {
    while (lane_id() == 0 && this_turn() % 2u == parity) on_host::yield();
    __syncwarp();
    on_host::passed_mail();
  }

 private:
  void count(int coming) {
    bytes += coming;
    if (announced && !bytes) ++turn, announced = 0;
  }
  unsigned this_turn() const {
    on_host::set_accesses(on_host::Accesses::ignored);
    const unsigned now = turn;
    on_host::set_accesses(on_host::Accesses::plain);
    return now;
  }
#endif
};

#undef DAPT_MAIL

}  // namespace dapt::cuda
