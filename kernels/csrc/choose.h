// The K experts of a token, from keys that LANES lanes hold, EACH a lane: a larger key first, of equal ones the lower expert. By whole
// keys, and faster by packed ones, where that is sure to be the same.
#pragma once

#include "gate.h"

namespace moe {

constexpr int NONE = 0, ANY = -1;  // of GROUPS: one group; groups that lie across lanes; otherwise how many a lane has whole

// Closes (key 0) the experts of groups that are not among the best. Returns whether two groups' keys are equal but for the bits `low`.
template <int LANES, int EACH, int GROUPS>
__device__ __forceinline__ bool close_groups(
    uint32_t (&key)[EACH], uint32_t* __restrict__ row, int lane, const Router& r, uint32_t low) {
  uint32_t least = ~0u;  // of the differences between groups
  if constexpr (GROUPS > 0) {
    constexpr int SIZE = EACH / GROUPS;
    uint32_t own[GROUPS];
    int rank[GROUPS] = {};
#pragma unroll
    for (int g = 0; g < GROUPS; ++g) {
      uint32_t best = 0, second = 0;
#pragma unroll
      for (int i = g * SIZE; i < (g + 1) * SIZE; ++i) {
        second = max(second, min(best, key[i]));
        best = max(best, key[i]);
      }
      own[g] = group_key(best, second, r.top2);
    }
#pragma unroll
    for (int step = 0; step < LANES; ++step)
#pragma unroll
      for (int h = 0; h < GROUPS; ++h) {
        const uint32_t other = step ? __shfl_xor_sync(ALL, own[h], step) : own[h];
#pragma unroll
        for (int g = 0; g < GROUPS; ++g) {
          if (!step && g == h) continue;
          rank[g] += before(other, (lane ^ step) * GROUPS + h, own[g], lane * GROUPS + g);
          least = min(least, other ^ own[g]);
        }
      }
#pragma unroll
    for (int g = 0; g < GROUPS; ++g)
      if (rank[g] >= r.top_groups)
#pragma unroll
        for (int i = g * SIZE; i < (g + 1) * SIZE; ++i) key[i] = 0;
  } else {  // by shared memory: `row` holds the token's keys, then at each group's first place its own
    const int size = r.experts / r.groups;
#pragma unroll
    for (int i = 0; i < EACH; ++i) row[expert_of<LANES, EACH, false>(lane, i)] = key[i];
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
      const int e = expert_of<LANES, EACH, false>(lane, i);
      if (e >= r.experts) continue;
      const int g = e / size;
      int rank = 0;
      for (int other = 0; other < r.groups; ++other) rank += before(row[other * size], other, row[g * size], g);
      if (rank >= r.top_groups) key[i] = 0;
    }
    __syncwarp();
  }
  return least <= low;
}

// The K largest, from keys whose lowest bits are LOW - expert, so that all differ: a round is the largest key below the last one
// found, on Hopper one instruction an expert. Right unless two keys next to each other differ in those bits only; returns whether so.
template <int LANES, int EACH>
__device__ __forceinline__ bool choose_packed(const uint32_t (&key)[EACH], uint16_t* slots, int lane, int k, uint32_t low) {
  uint32_t last = 0, least = ~0u;  // least: of the differences between neighbours
#pragma unroll 1
  for (int from = 0; from <= k; from += LANES) {
    uint32_t own = 0;
#pragma unroll 1
    for (int j = from; j <= min(k, from + LANES - 1); ++j) {
      uint32_t best[4] = {};
#pragma unroll
      for (int i = 0; i < EACH; ++i) best[i % 4] = max(best[i % 4], key[i] - last);  // those already found wrap to small ones
      best[0] = max(max(best[0], best[1]), max(best[2], best[3]));
#pragma unroll
      for (int step = 1; step < LANES; step *= 2) best[0] = max(best[0], __shfl_xor_sync(ALL, best[0], step));
      const uint32_t next = best[0] + last;
      least = min(least, next ^ last);
      if (lane == j - from) own = next;
      last = next;
    }
    if (from + lane < k) slots[from + lane] = static_cast<uint16_t>(low - (own & low));
  }
  return least <= low;
}

// The same from whole keys.
template <int LANES, int EACH, bool TOGETHER>
__device__ __forceinline__ void choose_exactly(uint32_t (&key)[EACH], uint16_t* slots, int lane, int k) {
#pragma unroll 1
  for (int j = 0; j < k; ++j) {
    uint32_t best = 0;
    int expert = MAX_EXPERTS;
#pragma unroll
    for (int i = 0; i < EACH; ++i)
      if (key[i] > best) best = key[i], expert = expert_of<LANES, EACH, TOGETHER>(lane, i);
#pragma unroll
    for (int step = 1; step < LANES; step *= 2) {
      const uint32_t other = __shfl_xor_sync(ALL, best, step);
      const int other_expert = __shfl_xor_sync(ALL, expert, step);
      if (before(other, other_expert, best, expert)) best = other, expert = other_expert;
    }
#pragma unroll
    for (int i = 0; i < EACH; ++i)
      if (expert_of<LANES, EACH, TOGETHER>(lane, i) == expert) key[i] = 0;
    if (lane == 0) slots[j] = static_cast<uint16_t>(expert);
  }
}

}  // namespace moe
