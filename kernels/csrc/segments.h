// What the gate's blocks leave of their tiles, and the kernel that makes balances and losses of it.
#pragma once

#include "gate.h"

namespace moe {

constexpr int TILE = 64;  // tokens of a block of `choose`

struct alignas(8) Sums {  // of a tile and an expert
  float share;
  int32_t sent;
};

struct Scratch {
  Sums* sums;               // [tiles, experts]
  int32_t *received, *done;  // [tiles, devices], [1] blocks of `segments` that ended
  float *z, *lse, *losses;  // [tiles], [tokens] lse or of sigmoids their sum, [segments, 3]
  int64_t bytes;

  Scratch(void* memory, const Router& r, int64_t tokens) {
    const int64_t tiles = blocks_for(tokens, TILE);
    char* at = static_cast<char*>(memory);
    auto take = [&](auto*& pointer, int64_t count) {
      pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(at);
      at += blocks_for(count * static_cast<int64_t>(sizeof(*pointer)), 16) * 16;
    };
    take(sums, tiles * r.experts);
    take(received, tiles * r.devices);
    take(done, 1);
    take(z, tiles);
    take(lse, tokens);
    take(losses, static_cast<int64_t>(r.segments) * 3);
    bytes = at - static_cast<char*>(memory);
  }
};

constexpr int WIDE_BLOCK = 1024;

// First token of a segment or of a later one: `of` rises.
__device__ __forceinline__ int64_t first_of(const Segments& segment, int number, int64_t tokens) {
  if (!segment.of) return static_cast<int64_t>(number) * segment.length;
  int64_t low = 0, high = tokens;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (__ldg(segment.of + middle) < number) low = middle + 1;
    else high = middle;
  }
  return low;
}

__global__ void __launch_bounds__(WIDE_BLOCK) segments_kernel(
    const float* __restrict__ logits, const int32_t* __restrict__ experts, Segments segment, Scratch scratch,
    float* __restrict__ balance, float* __restrict__ losses, Router r, int64_t tokens) {
  __shared__ float p[WIDE_BLOCK], f[MAX_EXPERTS];
  __shared__ int counts[2][WIDE_BLOCK];
  __shared__ float device_p[MAX_EXPERTS], device_f[MAX_EXPERTS], device_f2[MAX_EXPERTS];
  __shared__ bool last;
  const int number = blockIdx.x, per_device = r.experts / r.devices;
  const int64_t begin = first_of(segment, number, tokens), end = first_of(segment, number + 1, tokens);
  // Whatever `of` holds, a segment ends where the next begins. So if the first begins with the first token, the last ends with the
  // last, and each holds its own number only, `of` rises and is in range.
  if (segment.of) {
    if ((number == 0 && begin != 0) || (number == static_cast<int>(gridDim.x) - 1 && end != tokens)) MOE_TRAP();
    for (int64_t t = begin + threadIdx.x; t < end; t += WIDE_BLOCK)
      if (__ldg(segment.of + t) != number) MOE_TRAP();
  }
  // Tiles that lie in this segment are added up whole; tokens before and after them one by one.
  int64_t tile_begin = blocks_for(begin, TILE), tile_end = end / TILE;
  if (end == tokens) tile_end = blocks_for(tokens, TILE);
  if (tile_begin > tile_end) tile_begin = tile_end;
  const int64_t head_end = min(end, max(begin, tile_begin * TILE)), tail_begin = max(head_end, min(end, tile_end * TILE));
  if (head_end >= tail_begin) tile_end = tile_begin;
  // Columns are experts, rows take every rows-th item.
  const int columns = (r.experts + 31) / 32 * 32, rows = WIDE_BLOCK / columns;
  const int column = threadIdx.x % columns, row = threadIdx.x / columns;
  float share = 0;
  int sent = 0, reached = 0;
  if (row < rows && column < r.experts) {
    const bool device = column < r.devices;
    const Sums* sums = scratch.sums + tile_begin * r.experts + column;
    const int32_t* received = scratch.received + tile_begin * r.devices + column;
    const int tiles = static_cast<int>(tile_end - tile_begin);
    for (int from = row; from < tiles; from += 8 * rows) {  // eight are asked for before one is added
      Sums one[8];
      int some[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int64_t tile = from + i * rows;
        one[i] = tile < tiles ? sums[tile * r.experts] : Sums{0, 0};
        some[i] = device && tile < tiles ? received[tile * r.devices] : 0;
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) share += one[i].share, sent += one[i].sent, reached += some[i];
    }
    const int64_t heads = head_end - begin, singles = heads + end - tail_begin;
    for (int64_t i = row; i < singles; i += rows) {
      const int64_t token = i < heads ? begin + i : tail_begin + i - heads;
      const float logit = __ldg(logits + token * r.experts + column), norm = scratch.lse[token];
      share += r.sigmoid ? sigmoid(logit) / norm : expf(logit - norm);
      bool here = false;
      for (int j = 0; j < r.k; ++j) {
        const int expert = __ldg(experts + token * r.k + j);
        sent += expert == column;
        here |= expert / per_device == column;
      }
      reached += here;
    }
  }
  // Rows are added up in order.
  p[threadIdx.x] = share;
  counts[0][threadIdx.x] = sent;
  counts[1][threadIdx.x] = reached;
  __syncthreads();
  const bool owner = static_cast<int>(threadIdx.x) < r.experts;
  const int length = static_cast<int>(end - begin);
  float own = 0;
  if (owner) {
    for (int other = column + columns; other < rows * columns; other += columns)
      share += p[other], sent += counts[0][other], reached += counts[1][other];
    share = tokens ? share / static_cast<float>(tokens) : 0.0f;
    own = sent_share<float>(r, sent, length);
    if (column < r.devices) device_f2[column] = received_share<float>(r, reached, length);
    f[column] = own;
  }
  __syncthreads();
  if (owner) p[column] = share;
  __syncthreads();
  if (owner && column < r.devices) {
    float there = 0, mean = 0;
    for (int e = column * per_device; e < (column + 1) * per_device; ++e) there += p[e], mean += f[e];
    device_p[column] = there;
    device_f[column] = mean / static_cast<float>(per_device);
  }
  __syncthreads();
  if (owner) {
    float* out = balance + static_cast<int64_t>(number) * 3 * r.experts + column;
    out[0] = own;
    out[r.experts] = device_f[column / per_device];
    out[2 * r.experts] = device_f2[column / per_device];
  }
  if (threadIdx.x < 32) {
    float sums[3] = {};
    for (int e = threadIdx.x; e < r.experts; e += 32) sums[0] += f[e] * p[e];
    for (int d = threadIdx.x; d < r.devices; d += 32) sums[1] += device_f[d] * device_p[d], sums[2] += device_f2[d] * device_p[d];
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      sums[i] = sum_lanes<32>(sums[i]);
      if (threadIdx.x == 0) scratch.losses[static_cast<int64_t>(number) * 3 + i] = sums[i];
    }
    if (threadIdx.x == 0) {
      __threadfence();  // whoever counts this block as ended sees its sums
      last = atomicAdd(scratch.done, 1) == static_cast<int>(gridDim.x) - 1;
    }
  }
  __syncthreads();
  if (!last) return;
  // Of all segments, by the block that ended last: which one that is does not show. Four losses, eight warps each.
  const int loss = threadIdx.x / 256;
  float sum = 0;
  if (loss < 3)
    for (int64_t s = threadIdx.x % 256; s < r.segments; s += 256) sum += __ldcg(scratch.losses + s * 3 + loss);
  else
#pragma unroll 4
    for (int64_t tile = threadIdx.x % 256; tile < blocks_for(tokens, TILE); tile += 256) sum += scratch.z[tile];
  sum = sum_lanes<32>(sum);
  if (threadIdx.x % 32 == 0) p[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x % 256 == 0) {
    sum = 0;
    for (int w = 0; w < 8; ++w) sum += p[threadIdx.x / 32 + w];
    losses[loss] = loss < 3 ? sum : (tokens ? sum / static_cast<float>(tokens) : 0.0f);
  }
}

}  // namespace moe
