// A stable counting sort of the slots by expert: where each expert's rows begin, the row of a slot, the slot of a row.
// Two kernels. The first counts the slots of each tile per expert. In the second every block adds up the counts of the tiles
// before its own, so there is no scan between them, and numbers its slots: a warp takes 32 slots at a time, in order, and a
// slot's place among equal ones is a population count. Integers only: the order of atomics does not show.
// A few hundred kilobytes move, so what counts is how long the chain of waits is: loads go out together, scans are short.
#include "launch.h"

namespace moe {

constexpr int BLOCK = 512, BLOCK_WARPS = BLOCK / 32;
constexpr int MAX_BINS = MAX_EXPERTS + 1;  // the last bin is nobody's
constexpr int HELD = 4;                    // slots of a lane that stay in registers
constexpr int MOST_TILES = 64;             // the second kernel reads tiles * bins counts in each of its blocks

struct Tiles {
  int64_t slots;  // of a warp; a tile is BLOCK_WARPS times that
  int64_t count;
};

inline Tiles tiles_for(int64_t slots) {
  const int64_t each = blocks_for(slots, static_cast<int64_t>(MOST_TILES) * BLOCK);
  const int64_t of_warp = 32 * (each > HELD ? each : HELD);
  return {of_warp, blocks_for(slots, of_warp * BLOCK_WARPS)};
}

__device__ __forceinline__ int checked(int expert, int count) {
  if (static_cast<unsigned>(expert) > static_cast<unsigned>(count)) MOE_TRAP();
  return expert;
}

__global__ void __launch_bounds__(BLOCK) count_kernel(
    const int32_t* __restrict__ experts, int32_t* __restrict__ counts, int64_t slots, int64_t of_tile, int count) {
  __shared__ int bins[MAX_BINS];
  for (int e = threadIdx.x; e <= count; e += BLOCK) bins[e] = 0;
  __syncthreads();
  const int64_t begin = blockIdx.x * of_tile, end = begin + of_tile < slots ? begin + of_tile : slots;
  for (int64_t from = begin + threadIdx.x; from < end; from += HELD * BLOCK) {  // all are asked for before one is checked
    int held[HELD];
#pragma unroll
    for (int i = 0; i < HELD; ++i) held[i] = from + i * BLOCK < end ? __ldg(experts + from + i * BLOCK) : -1;
#pragma unroll
    for (int i = 0; i < HELD; ++i)
      if (from + i * BLOCK < end) atomicAdd(&bins[checked(held[i], count)], 1);
  }
  __syncthreads();
  for (int e = threadIdx.x; e <= count; e += BLOCK) counts[static_cast<int64_t>(blockIdx.x) * (count + 1) + e] = bins[e];
}

__global__ void __launch_bounds__(BLOCK) number_kernel(
    const int32_t* __restrict__ experts, const int32_t* __restrict__ counts, int32_t* __restrict__ offs,
    int32_t* __restrict__ pos, int32_t* __restrict__ src, int64_t slots, int64_t of_warp, int count) {
  __shared__ int next[BLOCK_WARPS][MAX_BINS];  // of each warp and expert: slots in it, then the row of the next
  __shared__ int all[BLOCK], earlier[BLOCK];
  __shared__ int of_warps[BLOCK_WARPS], nobodys;
  const int bins = count + 1, thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  const int tiles = gridDim.x, own_tile = blockIdx.x;
  const int64_t begin = (static_cast<int64_t>(own_tile) * BLOCK_WARPS + warp) * of_warp;
  const int64_t end = begin + of_warp < slots ? begin + of_warp : slots;
  auto expert_of = [&](int64_t n) { return n < end ? __ldg(experts + n) : -1; };
  int held[HELD];  // the first of the lane's slots, mostly all, asked for before anything else
#pragma unroll
  for (int i = 0; i < HELD; ++i) held[i] = expert_of(begin + i * 32 + lane);
  for (int e = lane; e < bins; e += 32) next[warp][e] = 0;
  __syncwarp();
  // Slots of all tiles, and of those before this one; threads share the tiles of an expert.
  const int columns = (count + 31) / 32 * 32, parts = BLOCK / columns;
  const int column = thread % columns, part = thread / columns;
  int total = 0, before = 0;
  if (part < parts && column < count)
    for (int from = part; from < tiles; from += 8 * parts) {  // eight are asked for before one is added
      int some[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int tile = from + i * parts;
        some[i] = tile < tiles ? __ldg(counts + tile * bins + column) : 0;
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) total += some[i], before += from + i * parts < own_tile ? some[i] : 0;
    }
  all[thread] = total, earlier[thread] = before;
  if (warp == BLOCK_WARPS - 1) {  // slots of nobody before this tile
    unsigned some = 0;
    for (int tile = lane; tile < own_tile; tile += 32) some += __ldg(counts + static_cast<int64_t>(tile) * bins + count);
    some = __reduce_add_sync(ALL, some);
    if (lane == 0) nobodys = static_cast<int>(some);
  }
  // Slots of each warp.
#pragma unroll
  for (int i = 0; i < HELD; ++i)
    if (held[i] >= 0) atomicAdd(&next[warp][held[i]], 1);
  for (int64_t n = begin + HELD * 32 + lane; n < end; n += 32) atomicAdd(&next[warp][expert_of(n)], 1);
  __syncthreads();
  // Where each expert begins: an exclusive scan, over lanes, then over warps.
  total = before = 0;
  if (thread < columns)
    for (int p = 0; p < parts; ++p) total += all[thread + p * columns], before += earlier[thread + p * columns];
  int sum = total;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(ALL, sum, step);
    if (lane >= step) sum += other;
  }
  if (lane == 31) of_warps[warp] = sum;
  __syncthreads();
#pragma unroll
  for (int w = 0; w < BLOCK_WARPS; ++w) sum += w < warp ? of_warps[w] : 0;
  auto begin_rows = [&](int e, int first, int row) {  // rows of an expert, and of each warp's slots of it
    if (own_tile == 0) offs[e] = first;
    int some[BLOCK_WARPS];
#pragma unroll
    for (int w = 0; w < BLOCK_WARPS; ++w) some[w] = next[w][e];
#pragma unroll
    for (int w = 0; w < BLOCK_WARPS; ++w) {
      next[w][e] = row;
      row += some[w];
    }
  };
  if (thread < count) begin_rows(thread, sum - total, sum - total + before);
  if (thread == count - 1) begin_rows(count, sum, sum + nobodys);
  __syncthreads();
  auto put = [&](int64_t n, int expert) {
    const unsigned same = __match_any_sync(ALL, expert);
    const int rank = __popc(same & ((1u << lane) - 1));
    const int row = expert >= 0 ? next[warp][expert] + rank : 0;
    __syncwarp();
    if (expert >= 0) {
      if (rank == 0) next[warp][expert] = row + __popc(same);
      pos[n] = row;
      src[row] = static_cast<int32_t>(n);
    }
    __syncwarp();
  };
#pragma unroll
  for (int i = 0; i < HELD; ++i) put(begin + i * 32 + lane, held[i]);
  for (int64_t n = begin + HELD * 32 + lane; n - lane < end; n += 32) put(n, expert_of(n));
}

inline int route(
    const int32_t* experts, int32_t* offs, int32_t* pos, int32_t* src, int32_t* counts, int64_t slots, int count, void* stream) {
  const Tiles tiles = tiles_for(slots);
  // No slot still makes one block, which writes the offsets.
  const int64_t blocks = tiles.count ? tiles.count : 1;
  const int64_t of_tile = tiles.slots * BLOCK_WARPS;
  int error = MOE_LAUNCH(count_kernel, blocks, BLOCK, stream, experts, counts, slots, of_tile, count);
  if (error) return error;
  return MOE_LAUNCH(number_kernel, blocks, BLOCK, stream, experts, counts, offs, pos, src, slots, tiles.slots, count);
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
