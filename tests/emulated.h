// CUDA on a CPU, as far as kernels/csrc uses it: a thread is a fiber, blocks run one after another. Slow and exact: what the
// kernels compute, in which order lanes and barriers meet, and which memory they touch is that of a GPU; only speed and the
// memory model between running threads are not. A warp runs as far as the next barrier of the block before another begins, in an
// order that differs from launch to launch, so that a missing barrier shows up as a different result; lanes that wait at
// different places are an error, as are traps.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __launch_bounds__(...)
#define __forceinline__ inline
#define __restrict__ __restrict

struct Index3 { unsigned x; };
inline Index3 threadIdx, blockIdx, blockDim, gridDim;
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
using std::max;
using std::min;

namespace emulated {

constexpr int TRAPPED = 719, DEADLOCK = 702;  // cudaErrorLaunchFailure, cudaErrorLaunchTimeout
constexpr size_t STACK = 96 << 10;

enum State { READY, AT_WARP, AT_BLOCK, DONE };

struct Fiber {
  ucontext_t context;
  State state;
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<std::unique_ptr<char[]>> stacks;
  std::vector<uint64_t> slots;  // what a lane shows the others of its warp
  ucontext_t scheduler;
  unsigned current = 0;
  int error = 0;
  std::function<void()> body;
};
inline Block block;

inline void pause(State state) {
  const unsigned own = block.current;
  block.fibers[own].state = state;
  swapcontext(&block.fibers[own].context, &block.scheduler);
  threadIdx.x = own;
}
inline void enter() {
  block.body();
  block.fibers[block.current].state = DONE;
}

inline void shuffle(std::vector<unsigned>& order, unsigned& seed) {  // Fisher and Yates, by a small generator
  for (unsigned i = static_cast<unsigned>(order.size()); i > 1; --i) {
    seed = seed * 1664525u + 1013904223u;
    std::swap(order[i - 1], order[(seed >> 8) % i]);
  }
}

// Runs a warp until all its lanes are done or wait for the block.
inline int run_warp(unsigned begin, unsigned end) {
  for (;;) {
    for (unsigned i = begin; i < end; ++i) {
      if (block.fibers[i].state != READY) continue;
      block.current = threadIdx.x = i;
      swapcontext(&block.scheduler, &block.fibers[i].context);
      if (block.error) return block.error;
    }
    unsigned waiting = 0;
    for (unsigned i = begin; i < end; ++i) waiting += block.fibers[i].state == AT_WARP;
    if (!waiting) return 0;
    if (waiting != end - begin) return DEADLOCK;
    for (unsigned i = begin; i < end; ++i) block.fibers[i].state = READY;
  }
}

// Runs one block of `threads` threads to its end.
inline int run_block(unsigned threads, unsigned seed) {
  block.fibers.resize(threads);
  block.slots.assign(threads, 0);
  while (block.stacks.size() < threads) block.stacks.emplace_back(new char[STACK]);
  for (unsigned i = 0; i < threads; ++i) {
    Fiber& fiber = block.fibers[i];
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = block.stacks[i].get();
    fiber.context.uc_stack.ss_size = STACK;
    fiber.context.uc_link = &block.scheduler;
    makecontext(&fiber.context, enter, 0);
    fiber.state = READY;
  }
  std::vector<unsigned> warps((threads + 31) / 32);
  for (unsigned i = 0; i < warps.size(); ++i) warps[i] = i * 32;
  for (;;) {
    shuffle(warps, seed);
    for (const unsigned begin : warps)
      if (const int error = run_warp(begin, min(threads, begin + 32))) return error;
    unsigned done = 0;
    for (const Fiber& fiber : block.fibers) done += fiber.state == DONE;
    if (done == threads) return 0;
    if (done) return DEADLOCK;  // a thread that left before a barrier: undefined on a GPU
    for (Fiber& fiber : block.fibers) fiber.state = READY;
  }
}

inline int launch(int64_t blocks, unsigned threads, std::function<void()> body) {
  static unsigned launches = 0;
  const unsigned seed = 7919 * ++launches;
  block.body = std::move(body);
  block.error = 0;
  blockDim.x = threads;
  gridDim.x = static_cast<unsigned>(blocks);
  for (int64_t i = 0; i < blocks; ++i) {
    blockIdx.x = static_cast<unsigned>(i);
    const int error = run_block(threads, seed + static_cast<unsigned>(i));
    if (error) return error;
  }
  return 0;
}

inline void trap() {
  block.error = TRAPPED;
  pause(DONE);
}

// Every lane shows its value, then looks.
template <typename T, typename Look> auto exchange(T value, Look&& look) {
  static_assert(sizeof(T) <= 8);
  const unsigned own = threadIdx.x, warp = own / 32 * 32;
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  block.slots[own] = bits;
  pause(AT_WARP);
  auto shown = [&](unsigned lane) {
    T other;
    std::memcpy(&other, &block.slots[warp + lane], sizeof(T));
    return other;
  };
  auto result = look(shown, own - warp);
  pause(AT_WARP);
  return result;
}

}  // namespace emulated

inline void __syncthreads() { emulated::pause(emulated::AT_BLOCK); }
inline void __syncwarp() { emulated::pause(emulated::AT_WARP); }
template <typename T> T __shfl_xor_sync(unsigned, T value, int step) {
  return emulated::exchange(value, [&](auto shown, unsigned lane) { return shown(lane ^ step); });
}
template <typename T> T __shfl_up_sync(unsigned, T value, int step) {
  return emulated::exchange(value, [&](auto shown, unsigned lane) { return shown(lane < unsigned(step) ? lane : lane - step); });
}
inline unsigned __reduce_add_sync(unsigned, unsigned value) {
  return emulated::exchange(value, [&](auto shown, unsigned) {
    unsigned sum = 0;
    for (unsigned other = 0; other < 32; ++other) sum += shown(other);
    return sum;
  });
}
template <typename T> unsigned __match_any_sync(unsigned, T value) {
  return emulated::exchange(value, [&](auto shown, unsigned lane) {
    unsigned same = 0;
    for (unsigned other = 0; other < 32; ++other) same |= static_cast<unsigned>(shown(other) == shown(lane)) << other;
    return same;
  });
}
inline unsigned __ballot_sync(unsigned, int predicate) {
  return emulated::exchange(predicate, [&](auto shown, unsigned) {
    unsigned votes = 0;
    for (unsigned other = 0; other < 32; ++other) votes |= static_cast<unsigned>(shown(other) != 0) << other;
    return votes;
  });
}
inline int __popc(unsigned v) { return __builtin_popcount(v); }
template <typename T> T __ldg(const T* p) { return *p; }
template <typename T> T __ldcg(const T* p) { return *p; }
inline void __threadfence() {}
template <typename T> void __stcs(T* p, T v) { *p = v; }
inline int atomicAdd(int* p, int v) {
  *p += v;
  return *p - v;
}

#define MOE_LAUNCH(kernel, blocks, threads, stream, ...) \
  (static_cast<void>(stream), emulated::launch(blocks, static_cast<unsigned>(threads), [=] { kernel(__VA_ARGS__); }))
#define MOE_TRAP() emulated::trap()
#define MOE_HOLD(v) static_cast<void>(v)
