// The router: logits -> the K experts of each token, their weights, and the balance losses of every segment.
//   choose    a block a tile of 64 tokens: experts, weights, and of the tile: slots per expert, tokens per device, sums of shares
//   segments  a block a segment: adds up its tiles (tokens of tiles it shares with another one by one), f, f', f'', three losses
//   total     one block: adds up the segments
// Traffic: 4TE for the logits, 8TK for the routes; the tiles' sums are E/64 of that.
#include "gate.h"

namespace moe {

enum Grouping : int { NONE, OF_LANE, ANY };

struct Scratch {
  int32_t *sent, *received;       // [tiles, experts], [tiles, devices]
  float *share, *z, *lse, *sums;  // [tiles, experts], [tiles], [tokens] lse or of sigmoids their sum, [segments, 3]
  int64_t bytes;

  Scratch(void* memory, const Router& r, int64_t tokens) {
    const int64_t tiles = blocks_for(tokens, TILE);
    char* at = static_cast<char*>(memory);
    auto take = [&](auto*& pointer, int64_t count) {
      pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(at);
      at += blocks_for(count * 4, 16) * 16;
    };
    take(sent, tiles * r.experts);
    take(received, tiles * r.devices);
    take(share, tiles * r.experts);
    take(z, tiles);
    take(lse, tokens);
    take(sums, static_cast<int64_t>(r.segments) * 3);
    bytes = at - static_cast<char*>(memory);
  }
};

// Closes (key 0) the experts of groups that are not among the best.
template <int LANES, int EACH, Grouping GROUPING>
__device__ __forceinline__ void choose_groups(uint32_t (&key)[EACH], uint32_t* __restrict__ row, int lane, const Router& r) {
  if constexpr (GROUPING == OF_LANE) {
    uint32_t best = 0, second = 0;
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
      second = max(second, min(best, key[i]));
      best = max(best, key[i]);
    }
    const uint32_t own = group_key(best, second, r.top2);
    int rank = 0;
#pragma unroll
    for (int step = 1; step < LANES; ++step) rank += before(__shfl_xor_sync(ALL, own, step), lane ^ step, own, lane);
    if (rank >= r.top_groups)
#pragma unroll
      for (int i = 0; i < EACH; ++i) key[i] = 0;
  } else {  // groups that lie across lanes, by shared memory: `row` holds the token's keys, then at each group's first place its own
    const int size = r.experts / r.groups;
#pragma unroll
    for (int i = 0; i < EACH; ++i)
      if (lane * EACH + i < r.experts) row[lane * EACH + i] = key[i];
    __syncwarp();
    for (int g = lane; g < r.groups; g += LANES) {
      uint32_t best = 0, second = 0;
      for (int e = g * size; e < (g + 1) * size; ++e) {
        second = max(second, min(best, row[e]));
        best = max(best, row[e]);
      }
      row[g * size] = group_key(best, second, r.top2);
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
      const int e = lane * EACH + i;
      if (e >= r.experts) continue;
      const int g = e / size;
      int rank = 0;
      for (int other = 0; other < r.groups; ++other) rank += before(row[other * size], other, row[g * size], g);
      if (rank >= r.top_groups) key[i] = 0;
    }
    __syncwarp();
  }
}

template <int LANES, int EACH, Grouping GROUPING>
__global__ void __launch_bounds__(THREADS) choose_kernel(
    const float* __restrict__ logits, const float* __restrict__ bias, int32_t* __restrict__ experts, float* __restrict__ weights,
    Scratch scratch, Router r, int64_t tokens) {
  constexpr int WIDTH = LANES * EACH;
  __shared__ uint32_t keys[GROUPING == ANY ? AT_A_TIME<LANES> : 1][GROUPING == ANY ? WIDTH : 1];
  __shared__ float shares[WARPS][WIDTH];
  __shared__ float zs[WARPS];
  __shared__ int routes[TILE][MAX_K];
  __shared__ int sent[WIDTH], received[WIDTH];
  const int lane = threadIdx.x % LANES, place = threadIdx.x / LANES, warp = threadIdx.x / 32;
  for (int e = threadIdx.x; e < WIDTH; e += THREADS) sent[e] = received[e] = 0;
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * TILE;
  const int count = static_cast<int>(min(static_cast<int64_t>(TILE), tokens - begin));
  const float scale = static_cast<float>(r.scale);
  float share[EACH] = {}, z = 0;
  for (int round = 0; round < TILE; round += AT_A_TIME<LANES>) {
    const int own = round + place;
    const bool there = own < count;
    const int64_t at = begin + own;
    const Token<LANES, EACH> token(logits, at, there, lane, r);
    uint32_t key[EACH];
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
      const int e = lane * EACH + i;
      const float value = r.sigmoid || bias ? token.score[i] + (bias && e < r.experts ? __ldg(bias + e) : 0.0f) : token.logit[i];
      key[i] = e < r.experts ? order_key(value) : 0u;
      share[i] += there ? token.score[i] / token.total : 0.0f;
    }
    if (GROUPING != NONE) choose_groups<LANES, EACH, GROUPING>(key, GROUPING == ANY ? keys[place] : nullptr, lane, r);
    float sum = 0, mine[MAX_K / LANES + 1] = {};
    int chosen[MAX_K / LANES + 1] = {};
    for (int j = 0; j < r.k; ++j) {
      uint32_t best = 0;
      float score = 0;
      int expert = MAX_EXPERTS;
#pragma unroll
      for (int i = 0; i < EACH; ++i)
        if (key[i] > best) best = key[i], score = token.score[i], expert = lane * EACH + i;
#pragma unroll
      for (int step = 1; step < LANES; step *= 2) {
        const uint32_t other = __shfl_xor_sync(ALL, best, step);
        const float other_score = __shfl_xor_sync(ALL, score, step);
        const int other_expert = __shfl_xor_sync(ALL, expert, step);
        if (before(other, other_expert, best, expert)) best = other, score = other_score, expert = other_expert;
      }
#pragma unroll
      for (int i = 0; i < EACH; ++i)
        if (lane * EACH + i == expert) key[i] = 0;
      sum += score;
#pragma unroll
      for (int own_slot = 0; own_slot <= MAX_K / LANES; ++own_slot)
        if (j == own_slot * LANES + lane) mine[own_slot] = score, chosen[own_slot] = expert;
    }
    if (there) {
#pragma unroll
      for (int own_slot = 0; own_slot <= MAX_K / LANES; ++own_slot) {
        const int j = own_slot * LANES + lane;
        if (j >= r.k) break;
        routes[own][j] = chosen[own_slot];
        experts[at * r.k + j] = chosen[own_slot];
        weights[at * r.k + j] = (r.renormalize ? mine[own_slot] / (sum + static_cast<float>(TINY)) : mine[own_slot]) * scale;
      }
      if (lane == 0) {
        scratch.lse[at] = r.sigmoid ? token.total : token.lse;
        z += token.lse * token.lse;
      }
    }
  }
  // The tile's sums: over the tokens of a warp, then over warps.
#pragma unroll
  for (int i = 0; i < EACH; ++i) {
#pragma unroll
    for (int step = LANES; step < 32; step *= 2) share[i] += __shfl_xor_sync(ALL, share[i], step);
    if (threadIdx.x % 32 < LANES) shares[warp][lane * EACH + i] = share[i];
  }
  z = sum_lanes<32>(z);
  if (threadIdx.x % 32 == 0) zs[warp] = z;
  __syncthreads();
  const int per_device = r.experts / r.devices;
  if (static_cast<int>(threadIdx.x) < count) {
    const int* route = routes[threadIdx.x];
    for (int j = 0; j < r.k; ++j) {
      atomicAdd(&sent[route[j]], 1);
      bool first = true;
      for (int i = 0; i < j; ++i) first &= route[i] / per_device != route[j] / per_device;
      if (first) atomicAdd(&received[route[j] / per_device], 1);
    }
  }
  __syncthreads();
  const int64_t tile = blockIdx.x;
  for (int e = threadIdx.x; e < r.experts; e += THREADS) {
    float total = 0;
    for (int w = 0; w < WARPS; ++w) total += shares[w][e];
    scratch.share[tile * r.experts + e] = total;
    scratch.sent[tile * r.experts + e] = sent[e];
    if (e < r.devices) scratch.received[tile * r.devices + e] = received[e];
  }
  if (threadIdx.x == 0) {
    float total = 0;
    for (int w = 0; w < WARPS; ++w) total += zs[w];
    scratch.z[tile] = total;
  }
}

constexpr int WIDE_BLOCK = 512;

// First token of a segment or of a later one: `of` rises.
__device__ __forceinline__ int64_t first_of(const Segments& segment, int number, int64_t tokens) {
  if (!segment.of) return number * segment.length;
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
    float* __restrict__ balance, Router r, int64_t tokens) {
  __shared__ float p[WIDE_BLOCK], f[WIDE_BLOCK];
  __shared__ int counts[WIDE_BLOCK];
  __shared__ float device_p[MAX_EXPERTS], device_f[MAX_EXPERTS];
  __shared__ int received[MAX_EXPERTS];
  const int number = blockIdx.x, per_device = r.experts / r.devices;
  const int64_t begin = first_of(segment, number, tokens), end = first_of(segment, number + 1, tokens);
  // Tiles that lie in this segment are added up whole; tokens before and after them one by one.
  int64_t tile_begin = blocks_for(begin, TILE), tile_end = end / TILE;
  if (end == tokens) tile_end = blocks_for(tokens, TILE);
  if (tile_begin > tile_end) tile_begin = tile_end;
  const int64_t head_end = min(end, max(begin, tile_begin * TILE)), tail_begin = max(head_end, min(end, tile_end * TILE));
  const int64_t heads = head_end - begin, tiles = head_end < tail_begin ? tile_end - tile_begin : 0, tails = end - tail_begin;
  // Columns are experts, rows take every rows-th item.
  const int columns = (r.experts + 31) / 32 * 32, rows = WIDE_BLOCK / columns;
  const int column = threadIdx.x % columns, row = threadIdx.x / columns;
  float share = 0;
  int sent = 0, reached = 0;
  if (row < rows && column < r.experts) {
    for (int64_t i = row; i < heads + tiles + tails; i += rows) {
      if (i >= heads && i < heads + tiles) {
        const int64_t tile = tile_begin + i - heads;
        share += __ldg(scratch.share + tile * r.experts + column);
        sent += __ldg(scratch.sent + tile * r.experts + column);
        if (column < r.devices) reached += __ldg(scratch.received + tile * r.devices + column);
        continue;
      }
      const int64_t token = i < heads ? begin + i : tail_begin + i - heads - tiles;
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
  // Rows are added up in order, one quantity after another through the same memory.
  p[threadIdx.x] = share;
  counts[threadIdx.x] = sent;
  __syncthreads();
  const bool owner = static_cast<int>(threadIdx.x) < r.experts;
  const int length = static_cast<int>(end - begin);
  if (owner) {
    for (int other = 1; other < rows; ++other) share += p[other * columns + column], sent += counts[other * columns + column];
    share = tokens ? share / static_cast<float>(tokens) : 0.0f;
  }
  __syncthreads();
  counts[threadIdx.x] = reached;
  __syncthreads();
  const float own = owner ? static_cast<float>(sent_share(r, sent, length)) : 0.0f;
  if (owner) {
    for (int other = 1; other < rows; ++other) reached += counts[other * columns + column];
    p[column] = share;
    f[column] = own;
    if (column < r.devices) received[column] = reached;
  }
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
    out[2 * r.experts] = static_cast<float>(received_share(r, received[column / per_device], length));
  }
  if (threadIdx.x < 32) {
    float sums[3] = {};
    for (int e = threadIdx.x; e < r.experts; e += 32) sums[0] += f[e] * p[e];
    for (int d = threadIdx.x; d < r.devices; d += 32) {
      sums[1] += device_f[d] * device_p[d];
      sums[2] += static_cast<float>(received_share(r, received[d], length)) * device_p[d];
    }
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      sums[i] = sum_lanes<32>(sums[i]);
      if (threadIdx.x == 0) scratch.sums[static_cast<int64_t>(number) * 3 + i] = sums[i];
    }
  }
}

// Four losses, two warps each.
__global__ void __launch_bounds__(THREADS) total_kernel(Scratch scratch, float* __restrict__ losses, int segments, int64_t tokens) {
  __shared__ float parts[WARPS];
  const int loss = threadIdx.x / 64;
  const int64_t tiles = blocks_for(tokens, TILE);
  float sum = 0;
  if (loss < 3)
    for (int s = threadIdx.x % 64; s < segments; s += 64) sum += scratch.sums[static_cast<int64_t>(s) * 3 + loss];
  else
    for (int64_t tile = threadIdx.x % 64; tile < tiles; tile += 64) sum += scratch.z[tile];
  sum = sum_lanes<32>(sum);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x % 64 == 0) {
    sum = parts[threadIdx.x / 32] + parts[threadIdx.x / 32 + 1];
    losses[loss] = loss < 3 ? sum : (tokens ? sum / static_cast<float>(tokens) : 0.0f);
  }
}

inline int gate_forward(
    const float* logits, const float* bias, const int32_t* of, int32_t* experts, float* weights, float* losses, float* balance,
    void* memory, const Router& r, int64_t tokens, void* stream) {
  const Scratch scratch(memory, r, tokens);
  if (tokens) {
    const int error = by_experts(r.experts, [&](auto lanes, auto each) {
      constexpr int LANES = decltype(lanes)::value, EACH = decltype(each)::value;
      auto kernel = choose_kernel<LANES, EACH, NONE>;
      if (r.groups > 1) kernel = choose_kernel<LANES, EACH, ANY>;
      if (r.groups == LANES && r.experts == LANES * EACH) kernel = choose_kernel<LANES, EACH, OF_LANE>;
      return static_cast<int>(
          MOE_LAUNCH(kernel, blocks_for(tokens, TILE), THREADS, stream, logits, bias, experts, weights, scratch, r, tokens));
    });
    if (error) return error;
  }
  const Segments segment{of, tokens / r.segments};
  int error = MOE_LAUNCH(segments_kernel, r.segments, WIDE_BLOCK, stream, logits, experts, segment, scratch, balance, r, tokens);
  if (error) return error;
  return MOE_LAUNCH(total_kernel, 1, THREADS, stream, scratch, losses, r.segments, tokens);
}

}  // namespace moe

using namespace moe;

int64_t moe_gate_scratch(const Router* r, int64_t tokens) { return Scratch(nullptr, *r, tokens).bytes; }

int moe_gate_forward(
    const void* logits, const void* bias, const int32_t* of, int32_t* experts, void* weights, void* losses, void* balance,
    void* scratch, const Router* r, int64_t tokens, int format, void* stream) {
  if (!fits(*r, tokens) || (!of && tokens % r->segments)) return BAD_SHAPE;
  if (format != F32) return BAD_FORMAT;
  if (!aligned(logits) || !aligned(scratch)) return BAD_POINTER;
  return gate_forward(
      static_cast<const float*>(logits), static_cast<const float*>(bias), of, experts, static_cast<float*>(weights),
      static_cast<float*>(losses), static_cast<float*>(balance), scratch, *r, tokens, stream);
}
