// The router: logits -> the K experts of each token, their weights, and the balance losses of every segment.
//   choose    a block a tile of 64 tokens: experts, weights, and of the tile: shares and slots per expert, tokens per device
//   segments  a block a segment: adds up its tiles (tokens of tiles it shares with another one by one), f, f', f'', three losses;
//             the last block to end adds up the segments
// Traffic: 4TE for the logits, 8TK for the routes; the tiles' sums are E/32 of that.
#include "choose.h"
#include "segments.h"

namespace moe {

// How many tokens a block has at a time: what 43,000 bytes of shared memory hold, the whole tile if they can.
template <int LANES, int EACH, int GROUPS> struct Plan {
  static constexpr int WIDTH = LANES * EACH;
  static constexpr int STRIDE = WIDTH + (LANES == 4 && GROUPS <= 0 ? 16 : 4);  // two rows' vectors then lie in different banks
  static constexpr int BYTES = STRIDE * 4 * (GROUPS == ANY ? 2 : 1);
  static constexpr int PLACES = BYTES * 64 <= 43000 ? 64 : BYTES * 32 <= 43000 ? 32 : BYTES * 16 <= 43000 ? 16 : 8;
  static constexpr int BLOCK = LANES * PLACES;                          // threads
  static constexpr int COLUMNS = (WIDTH + BLOCK - 1) / BLOCK;           // experts whose shares a thread adds up
  static constexpr int PARTS = BLOCK / WIDTH > 1 ? BLOCK / WIDTH : 1;   // threads that add up one expert's
  static constexpr uint32_t LOW = WIDTH > 256 ? 511 : WIDTH > 128 ? 255 : WIDTH - 1;  // bits of a packed key that hold an expert
  // Of an SM: 512 threads with up to 128 registers each. Twice as many with 64 where that spills nothing: plain, the row in shared
  // memory, so that it need not be kept meanwhile. At T = 16,384 there are 256 blocks for 108 to 148 SMs.
  static constexpr int blocks(bool plain) { return plain && GROUPS > 0 && BLOCK == 512 ? 2 : 512 / BLOCK; }
};

// PLAIN: softmax, chosen by logit, groups by their maximum, and experts fill the lanes, as in V2; else whatever the router says.
template <int LANES, int EACH, int GROUPS, bool PLAIN>
__global__ void __launch_bounds__(Plan<LANES, EACH, GROUPS>::BLOCK, Plan<LANES, EACH, GROUPS>::blocks(PLAIN)) choose_kernel(
    const float* __restrict__ logits, const float* __restrict__ bias, int32_t* __restrict__ experts, float* __restrict__ weights,
    Scratch scratch, Router r, int64_t tokens, unsigned inverse) {
  using P = Plan<LANES, EACH, GROUPS>;
  constexpr bool TOGETHER = GROUPS > 0;
  alignas(16) __shared__ float rows[P::PLACES][P::STRIDE];  // logits, then what shares are made of
  __shared__ uint32_t keys[GROUPS == ANY ? P::PLACES : 1][GROUPS == ANY ? P::WIDTH : 1];
  __shared__ uint16_t slots[P::PLACES][MAX_K];
  __shared__ float norms[P::PLACES], zs[P::PLACES];
  __shared__ int sent[P::WIDTH], received[P::WIDTH];
  if (blockIdx.x == 0 && threadIdx.x == 0) *scratch.done = 0;
  if (!tokens) return;
  const int thread = threadIdx.x, lane = thread % LANES, place = thread / LANES;
#pragma unroll 1
  for (int e = thread; e < P::WIDTH; e += P::BLOCK) sent[e] = received[e] = 0;
  __syncthreads();
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * TILE;
  const int count = static_cast<int>(min(static_cast<int64_t>(TILE), tokens - begin)), k = r.k;
  // Of this tile.
  logits += begin * r.experts, experts += begin * k, weights += begin * k, scratch.lse += begin;
  const float scale = static_cast<float>(r.scale);
  const bool by_logit = PLAIN || (!r.sigmoid && !bias);
  const bool sigmoids = !PLAIN && r.sigmoid;
  auto device_of = [&](unsigned expert) { return expert * inverse >> 18; };
  const int column = thread % P::WIDTH, part = thread / P::WIDTH;
  float share[P::COLUMNS] = {}, z = 0;
#pragma unroll 1
  for (int round = 0; round < TILE; round += P::PLACES) {
    const int at = round + place;
    const bool there = at < count;
    const float* row = logits + at * r.experts;
    float own[EACH];
    read_logits<LANES, EACH, PLAIN>(own, row, there, lane, r.experts);
    if constexpr (TOGETHER) {
      put_row<LANES, EACH, false>(rows[place], own, lane);
      __syncwarp();
      get_row<LANES, EACH, true>(own, rows[place], lane);
    }
    float top = 0, norm = 1;
    // The first one chosen has the largest logit. Not by sums of two: then that may lie in a group which is closed.
    const bool first_is_top = by_logit && (PLAIN || GROUPS == NONE || !r.top2);
    if (!first_is_top) {
      top = -INFINITY;
#pragma unroll
      for (int i = 0; i < EACH; ++i) top = fmaxf(top, own[i]);
      top = max_lanes<LANES>(top);
      if (!by_logit && !sigmoids) {
        norm = 0;
#pragma unroll
        for (int i = 0; i < EACH; ++i) norm += expf(own[i] - top);
        norm = sum_lanes<LANES>(norm);
      }
    }
    auto key_of = [&](int i) {
      const int e = expert_of<LANES, EACH, TOGETHER>(lane, i);
      if (!PLAIN && e >= r.experts) return 0u;
      if (by_logit) return order_key(own[i]);
      const float score = sigmoids ? sigmoid(own[i]) : expf(own[i] - top) / norm;
      return order_key(score + (bias ? __ldg(bias + e) : 0.0f));
    };
    // The experts. First by the upper bits of their keys, which nearly always tell.
    uint32_t key[EACH];
    bool alike = GROUPS == ANY || (GROUPS != NONE && !PLAIN && r.top2);
    if (!alike) {
#pragma unroll
      for (int i = 0; i < EACH; ++i) {
        key[i] = (key_of(i) & ~P::LOW) + (P::LOW - static_cast<uint32_t>(expert_of<LANES, EACH, TOGETHER>(lane, i)));
        MOE_HOLD(key[i]);
      }
      if constexpr (GROUPS > 0) alike = close_groups<LANES, EACH, GROUPS>(key, nullptr, lane, r, P::LOW);
      alike |= choose_packed<LANES, EACH>(key, slots[place], lane, k, P::LOW);
    }
    if (__ballot_sync(ALL, alike && there)) {
      __syncwarp();  // lanes have written the slots that the first one writes now
      if constexpr (TOGETHER) get_row<LANES, EACH, true>(own, rows[place], lane);  // not kept in registers while choosing
#pragma unroll
      for (int i = 0; i < EACH; ++i) key[i] = key_of(i);
      if constexpr (GROUPS != NONE) close_groups<LANES, EACH, GROUPS>(key, keys[GROUPS == ANY ? place : 0], lane, r, 0);
      choose_exactly<LANES, EACH, TOGETHER>(key, slots[place], lane, k);
    }
    __syncwarp();
    if constexpr (TOGETHER) get_row<LANES, EACH, true>(own, rows[place], lane);
    // Scores: of softmax exp(logit - top), of sigmoids themselves; `norm` makes shares of them.
    if (first_is_top && there) top = __ldg(row + slots[place][0]);
    float sum = 0, total = 0;
    if (!sigmoids) {
#pragma unroll
      for (int i = 0; i < EACH; ++i) own[i] = fast_exp(own[i] - top), sum += own[i];
      total = sum = sum_lanes<LANES>(sum);
    } else {
#pragma unroll
      for (int i = 0; i < EACH; ++i) {
        sum += fast_exp(own[i] - top);
        own[i] = sigmoid(own[i]);
        total += own[i];
      }
      sum = sum_lanes<LANES>(sum);
      total = sum_lanes<LANES>(total);
    }
    norm = fast_inverse(total);
    put_row<LANES, EACH, TOGETHER>(rows[place], own, lane);
    if (lane == 0) {
      norms[place] = there ? norm : 0.0f;
      if (there) {
        const float lse = top + logf(sum);
        scratch.lse[at] = sigmoids ? total : lse;
        z += lse * lse;
      }
    }
    auto weight_of = [&](int expert) {
      const float logit = __ldg(row + expert);
      return sigmoids ? sigmoid(logit) : fast_exp(logit - top) * norm;
    };
    float factor = scale;
    if (r.renormalize) {
      float chosen = 0;
      for (int j = lane; j < k; j += LANES) chosen += there ? weight_of(slots[place][j]) : 0.0f;
      factor = scale / (sum_lanes<LANES>(chosen) + static_cast<float>(TINY));
    }
    unsigned bits = 0;  // the token's devices: it counts once for each
    if (there) {
#pragma unroll 1
      for (int j = lane; j < k; j += LANES) {
        const int expert = slots[place][j];
        experts[at * k + j] = expert;
        weights[at * k + j] = weight_of(expert) * factor;
        atomicAdd(&sent[expert], 1);
        bits |= 1u << (device_of(expert) & 31);
      }
    }
    if (r.devices <= 32) {
#pragma unroll
      for (int step = 1; step < LANES; step *= 2) bits |= __shfl_xor_sync(ALL, bits, step);
#pragma unroll 1
      for (int d = lane; d < r.devices; d += LANES)
        if (bits >> d & 1) atomicAdd(&received[d], 1);
    } else if (there) {
      for (int j = lane; j < k; j += LANES) {
        const unsigned device = device_of(slots[place][j]);
        bool again = false;
        for (int before = 0; before < j; ++before) again |= device_of(slots[place][before]) == device;
        if (!again) atomicAdd(&received[device], 1);
      }
    }
    __syncthreads();
#pragma unroll
    for (int c = 0; c < P::COLUMNS; ++c) {
      const int e = column + c * P::BLOCK;
      if (e < r.experts && part < P::PARTS)
#pragma unroll 8
        for (int other = part; other < P::PLACES; other += P::PARTS) share[c] += rows[other][e] * norms[other];
    }
    __syncthreads();
  }
  if (lane == 0) zs[place] = z;
  if (P::PARTS > 1 && part < P::PARTS) rows[part][column] = share[0];
  __syncthreads();
  const int64_t tile = blockIdx.x;
#pragma unroll
  for (int c = 0; c < P::COLUMNS; ++c) {
    const int e = thread + c * P::BLOCK;
    if (e >= r.experts) continue;
    if (P::PARTS > 1)
#pragma unroll
      for (int other = 1; other < P::PARTS; ++other) share[c] += rows[other][e];
    scratch.sums[tile * r.experts + e] = {share[c], sent[e]};
    if (e < r.devices) scratch.received[tile * r.devices + e] = received[e];
  }
  if (thread < 32) {
    z = 0;
#pragma unroll
    for (int p = 0; p < P::PLACES; p += 32) z += p + thread < P::PLACES ? zs[p + thread] : 0.0f;
    z = sum_lanes<32>(z);
    if (thread == 0) scratch.z[tile] = z;
  }
}

template <int N> using number = std::integral_constant<int, N>;

// Picks the instance.
template <typename Call> int by_router(const Router& r, Call&& f) {
  return by_experts<4>(r.experts, [&](auto lanes, auto each) {
    constexpr int LANES = decltype(lanes)::value, WIDTH = LANES * decltype(each)::value;
    if (r.groups == 1) return f(lanes, each, number<NONE>());
    if constexpr (LANES < 32) {
      if (r.experts == WIDTH && r.groups == LANES) return f(lanes, each, number<1>());
      if constexpr (LANES == 4)
        if (r.experts == WIDTH && r.groups == 2 * LANES) return f(lanes, each, number<2>());
    }
    return f(lanes, each, number<ANY>());
  });
}

inline int gate_forward(
    const float* logits, const float* bias, const int32_t* of, int32_t* experts, float* weights, float* losses, float* balance,
    void* memory, const Router& r, int64_t tokens, void* stream) {
  const Scratch scratch(memory, r, tokens);
  const int64_t tiles = tokens ? blocks_for(tokens, TILE) : 1;  // no token still makes one block, which sets `done` to 0
  const int error = by_router(r, [&](auto lanes, auto each, auto groups) {
    constexpr int LANES = decltype(lanes)::value, EACH = decltype(each)::value, GROUPS = decltype(groups)::value;
    const bool plain = r.experts == LANES * EACH && !r.sigmoid && !bias && (r.groups == 1 || !r.top2);
    auto kernel = choose_kernel<LANES, EACH, GROUPS, false>;
    if (GROUPS != ANY && plain) kernel = choose_kernel<LANES, EACH, GROUPS, GROUPS != ANY>;
    constexpr int threads = Plan<LANES, EACH, GROUPS>::BLOCK;
    const unsigned per_device = r.experts / r.devices;
    const unsigned inverse = ((1u << 18) + per_device - 1) / per_device;  // device_of(e) is e / per_device, for e below 512
    return static_cast<int>(
        MOE_LAUNCH(kernel, tiles, threads, stream, logits, bias, experts, weights, scratch, r, tokens, inverse));
  });
  if (error) return error;
  const Segments segment{of, static_cast<unsigned>(tokens / r.segments), static_cast<unsigned>(r.segments)};
  return MOE_LAUNCH(
      segments_kernel, r.segments, WIDE_BLOCK, stream, logits, experts, segment, scratch, balance, losses, r, tokens);
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
