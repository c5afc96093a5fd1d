// A stable counting sort of the slots by expert: where each expert's rows begin, the row of a slot, the slot of a row.
// Two kernels. The first counts the slots of each tile per expert. In the second every block adds up the counts of the tiles
// before its own, so there is no scan between them, and numbers its slots: a warp takes 32 slots at a time, in order, and a
// slot's place among equal ones is a population count. Integers only: the order of atomics does not show.
#include "launch.h"

namespace moe {

constexpr int MAX_BINS = MAX_EXPERTS + 1;  // the last bin is nobody's
constexpr int MOST_TILES = 128;            // the second kernel reads tiles * bins counts in each of its blocks

struct Tiles {
  int64_t slots;  // of a warp; a tile is WARPS times that
  int64_t count;
};

inline Tiles tiles_for(int64_t slots) {
  const int64_t each = blocks_for(blocks_for(slots, MOST_TILES), THREADS);
  const int64_t of_warp = 32 * (each > 4 ? each : 4);
  return {of_warp, blocks_for(slots, of_warp * WARPS)};
}

__device__ __forceinline__ int checked(int expert, int count) {
  if (static_cast<unsigned>(expert) > static_cast<unsigned>(count)) MOE_TRAP();
  return expert;
}

__global__ void __launch_bounds__(THREADS) count_kernel(
    const int32_t* __restrict__ experts, int32_t* __restrict__ counts, int64_t slots, int64_t of_warp, int count) {
  __shared__ int bins[MAX_BINS];
  for (int e = threadIdx.x; e <= count; e += THREADS) bins[e] = 0;
  __syncthreads();
  const int64_t begin = blockIdx.x * of_warp * WARPS;
  for (int64_t n = begin + threadIdx.x; n < begin + of_warp * WARPS && n < slots; n += THREADS)
    atomicAdd(&bins[checked(__ldg(experts + n), count)], 1);
  __syncthreads();
  for (int e = threadIdx.x; e <= count; e += THREADS) counts[static_cast<int64_t>(blockIdx.x) * (count + 1) + e] = bins[e];
}

__global__ void __launch_bounds__(THREADS) number_kernel(
    const int32_t* __restrict__ experts, const int32_t* __restrict__ counts, int32_t* __restrict__ offs,
    int32_t* __restrict__ pos, int32_t* __restrict__ src, int64_t slots, int64_t of_warp, int count) {
  __shared__ int next[WARPS][MAX_BINS];  // of each warp and expert: slots in it, then the row of the next
  __shared__ int starts[MAX_BINS];
  __shared__ int totals[2][MAX_BINS];
  const int bins = count + 1, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  // Slots of all tiles, and of those before this one.
  for (int e = threadIdx.x; e < bins; e += THREADS) {
    int all = 0, earlier = 0;
    for (int tile = 0; tile < static_cast<int>(gridDim.x); ++tile) {
      const int some = __ldg(counts + static_cast<int64_t>(tile) * bins + e);
      all += some;
      if (tile < static_cast<int>(blockIdx.x)) earlier += some;
    }
    totals[0][e] = all;
    starts[e] = earlier;
    for (int w = 0; w < WARPS; ++w) next[w][e] = 0;
  }
  __syncthreads();
  // Inclusive scan of the totals over experts, doubling the reach.
  int now = 0;
  for (int reach = 1; reach < bins; reach *= 2) {
    for (int e = threadIdx.x; e < bins; e += THREADS)
      totals[1 - now][e] = totals[now][e] + (e >= reach ? totals[now][e - reach] : 0);
    now = 1 - now;
    __syncthreads();
  }
  for (int e = threadIdx.x; e < bins; e += THREADS) {
    const int before = e ? totals[now][e - 1] : 0;
    starts[e] += before;
    if (blockIdx.x == 0) offs[e] = before;
  }
  // Slots of each warp.
  const int64_t begin = (static_cast<int64_t>(blockIdx.x) * WARPS + warp) * of_warp;
  const int64_t end = begin + of_warp < slots ? begin + of_warp : slots;
  for (int64_t n = begin + lane; n < end; n += 32) atomicAdd(&next[warp][__ldg(experts + n)], 1);
  __syncthreads();
  for (int e = threadIdx.x; e < bins; e += THREADS) {
    int row = starts[e];
    for (int w = 0; w < WARPS; ++w) {
      const int own = next[w][e];
      next[w][e] = row;
      row += own;
    }
  }
  __syncthreads();
  for (int64_t n = begin + lane; n - lane < end; n += 32) {
    const int expert = n < end ? __ldg(experts + n) : -1;
    const unsigned same = __match_any_sync(ALL, expert);
    const int rank = __popc(same & ((1u << lane) - 1));
    const int row = n < end ? next[warp][expert] + rank : 0;
    __syncwarp();
    if (n < end && rank == 0) next[warp][expert] += __popc(same);
    __syncwarp();
    if (n < end) {
      pos[n] = row;
      src[row] = static_cast<int32_t>(n);
    }
  }
}

inline int route(
    const int32_t* experts, int32_t* offs, int32_t* pos, int32_t* src, int32_t* counts, int64_t slots, int count, void* stream) {
  const Tiles tiles = tiles_for(slots);
  // No slot still makes one block, which writes the offsets.
  const int64_t blocks = tiles.count ? tiles.count : 1;
  int error = MOE_LAUNCH(count_kernel, blocks, THREADS, stream, experts, counts, slots, tiles.slots, count);
  if (error) return error;
  return MOE_LAUNCH(number_kernel, blocks, THREADS, stream, experts, counts, offs, pos, src, slots, tiles.slots, count);
}

}  // namespace moe

using namespace moe;

int64_t moe_route_scratch(int64_t tokens, int k, int experts) {
  const int64_t tiles = tiles_for(tokens * k).count;
  return (tiles ? tiles : 1) * (experts + 1) * 4;
}

int moe_route(
    const int32_t* experts, int32_t* offs, int32_t* pos, int32_t* src, void* scratch, int64_t tokens, int k, int count,
    void* stream) {
  if (!fits(tokens, k) || count < 1 || count > MAX_EXPERTS) return BAD_SHAPE;
  return route(experts, offs, pos, src, static_cast<int32_t*>(scratch), tokens * k, count, stream);
}
