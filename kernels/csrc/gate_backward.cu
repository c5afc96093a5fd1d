// From the gradients of weights and losses to that of the logits, in one pass: scores are computed again from the logits, and the
// three balance losses and z come in as one vector per segment and a number per token (trainer notes: DeepSeek-V2 equations
// 23-31 have constant f). Traffic: 8TE for logits and their gradient, 8TK for routes.
#include "gate.h"

namespace moe {

// FULL: experts fill the lanes.
template <int LANES, int EACH, bool FULL, bool SIGMOID>
__global__ void __launch_bounds__(THREADS) gate_backward_kernel(
    const float* __restrict__ logits, Segments segment, const int32_t* __restrict__ experts, const float* __restrict__ balance,
    const float* __restrict__ dweights, const float* __restrict__ dlosses, float* __restrict__ dlogits, Router r,
    int64_t tokens) {
  constexpr int WIDTH = LANES * EACH, PLACES = THREADS / LANES;
  alignas(16) __shared__ float common[WIDTH];              // d loss / d share, where all tokens of the block are of one segment
  alignas(16) __shared__ float direct[PLACES][WIDTH + 4];  // d loss / d score by way of the weights: 0 but for chosen experts
  const int lane = threadIdx.x % LANES, place = threadIdx.x / LANES, k = r.k;
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * PLACES, end = min(tokens, begin + PLACES);
  const bool there = begin + place < end;
  const float* row = logits + (begin + place) * r.experts;
  experts += (begin + place) * k, dweights += (begin + place) * k, dlogits += (begin + place) * r.experts;
  float own[EACH];
  read_logits<LANES, EACH, FULL>(own, row, there, lane, r.experts);
  const float per_token = 1.0f / static_cast<float>(tokens), scale = static_cast<float>(r.scale);
  const float dlosses_held[4] = {__ldg(dlosses), __ldg(dlosses + 1), __ldg(dlosses + 2), __ldg(dlosses + 3)};
  auto of_share = [&](int number, int e) {
    const float* f = balance + static_cast<int64_t>(number) * 3 * r.experts + e;
    return share_gradient(__ldg(f), __ldg(f + r.experts), __ldg(f + 2 * r.experts), dlosses_held, per_token);
  };
  const int only = segment(begin);
  const bool alone = segment.has(only, end - 1);
  if (alone)
#pragma unroll 1
    for (int e = threadIdx.x; e < WIDTH; e += THREADS) common[e] = FULL || e < r.experts ? of_share(only, e) : 0.0f;
  const float4 nothing = {0, 0, 0, 0};
#pragma unroll
  for (int i = 0; i < EACH; i += 4) *reinterpret_cast<float4*>(&direct[place][expert_of<LANES, EACH, false>(lane, i)]) = nothing;
  __syncthreads();
  // Scores again. `soft` makes shares of exp(logit - top), `norm` of scores.
  float top = -INFINITY, sum = 0, norm = 1;
  float score[EACH], d[EACH];
#pragma unroll
  for (int i = 0; i < EACH; ++i) top = fmaxf(top, own[i]);
  top = max_lanes<LANES>(top);
#pragma unroll
  for (int i = 0; i < EACH; ++i) score[i] = fast_exp(own[i] - top), sum += score[i];
  sum = sum_lanes<LANES>(sum);
  const float soft = fast_inverse(sum);
  if (SIGMOID) {
    float total = 0;
#pragma unroll
    for (int i = 0; i < EACH; ++i) score[i] = sigmoid(own[i]), total += score[i];
    norm = 1 / sum_lanes<LANES>(total);
  } else {
#pragma unroll
    for (int i = 0; i < EACH; ++i) score[i] *= soft;
  }
  // What comes by way of the weights.
  float chosen = 1, dot = 0;
  if (r.renormalize) {
    chosen = 0;
    if (there)
      for (int j = lane; j < k; j += LANES) {
        const float logit = __ldg(row + __ldg(experts + j));
        const float weight = SIGMOID ? sigmoid(logit) : fast_exp(logit - top) * soft;
        chosen += weight, dot += weight * __ldg(dweights + j);
      }
    chosen = sum_lanes<LANES>(chosen) + static_cast<float>(TINY);
    dot = sum_lanes<LANES>(dot) / chosen;
  }
  const float factor = r.renormalize ? scale / chosen : scale;
  if (there)
#pragma unroll 1
    for (int j = lane; j < k; j += LANES) direct[place][__ldg(experts + j)] = (__ldg(dweights + j) - dot) * factor;
  __syncwarp();
  // By way of the shares.
  const int number = alone || !there ? only : segment(begin + place);
  if (alone) {
    get_row<LANES, EACH, false>(d, common, lane);
  } else {
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
      const int e = expert_of<LANES, EACH, false>(lane, i);
      d[i] = e < r.experts ? of_share(number, e) : 0.0f;
    }
  }
  float inner = 0;
  if (SIGMOID) {  // from shares to scores
#pragma unroll
    for (int i = 0; i < EACH; ++i) inner += d[i] * score[i];
    inner = sum_lanes<LANES>(inner) * norm;
#pragma unroll
    for (int i = 0; i < EACH; ++i) d[i] = (d[i] - inner) * norm;
    inner = 0;
  }
#pragma unroll
  for (int i = 0; i < EACH; i += 4) {
    const float4 v = *reinterpret_cast<const float4*>(&direct[place][expert_of<LANES, EACH, false>(lane, i)]);
    d[i] += v.x, d[i + 1] += v.y, d[i + 2] += v.z, d[i + 3] += v.w;
  }
  const float dz = 2 * dlosses_held[3] * (top + logf(sum)) * per_token;
  if (SIGMOID) {
#pragma unroll
    for (int i = 0; i < EACH; ++i) d[i] = score[i] * (1 - score[i]) * d[i] + dz * soft * fast_exp(own[i] - top);
  } else {
    // d less its mean. Where one score is nearly 1 that is a small difference of large numbers, so what is left of the mean after the
    // first pass goes in a second one: that, too, by which the scores' sum misses 1.
    float mean = 0;
#pragma unroll
    for (int i = 0; i < EACH; ++i) mean += d[i] * score[i];
    mean = sum_lanes<LANES>(mean);
#pragma unroll
    for (int i = 0; i < EACH; ++i) d[i] -= mean, inner += d[i] * score[i];
    inner = sum_lanes<LANES>(inner);
#pragma unroll
    for (int i = 0; i < EACH; ++i) d[i] = score[i] * (d[i] - inner + dz);
  }
  if (!there) return;
#pragma unroll
  for (int i = 0; i < EACH; i += 4) {
    const int e = expert_of<LANES, EACH, false>(lane, i);
    if (FULL || r.experts % 4 == 0) {
      if (FULL || e < r.experts) *reinterpret_cast<float4*>(dlogits + e) = float4{d[i], d[i + 1], d[i + 2], d[i + 3]};
    } else {
#pragma unroll
      for (int c = 0; c < 4; ++c)
        if (e + c < r.experts) dlogits[e + c] = d[i + c];
    }
  }
}

inline int gate_backward(
    const float* logits, const int32_t* of, const int32_t* experts, const float* balance, const float* dweights,
    const float* dlosses, float* dlogits, const Router& r, int64_t tokens, void* stream) {
  if (!tokens) return OK;
  const Segments segment{of, static_cast<unsigned>(tokens / r.segments), static_cast<unsigned>(r.segments)};
  return by_experts<8>(r.experts, [&](auto lanes, auto each) {
    constexpr int LANES = decltype(lanes)::value, EACH = decltype(each)::value;
    const bool full = r.experts == LANES * EACH;
    auto kernel = gate_backward_kernel<LANES, EACH, false, false>;
    if (full) kernel = gate_backward_kernel<LANES, EACH, true, false>;
    if (r.sigmoid) kernel = full ? gate_backward_kernel<LANES, EACH, true, true> : gate_backward_kernel<LANES, EACH, false, true>;
    return static_cast<int>(MOE_LAUNCH(
        kernel, blocks_for(tokens, THREADS / LANES), THREADS, stream, logits, segment, experts, balance, dweights, dlosses,
        dlogits, r, tokens));
  });
}

}  // namespace moe

using namespace moe;

int moe_gate_backward(
    const void* logits, const int32_t* of, const int32_t* experts, const void* balance, const void* dweights,
    const void* dlosses, void* dlogits, const Router* r, int64_t tokens, int format, void* stream) {
  if (!fits(*r, tokens) || (!of && tokens % r->segments)) return BAD_SHAPE;
  if (format != F32) return BAD_FORMAT;
  if (!aligned(logits) || !aligned(dlogits)) return BAD_POINTER;
  return gate_backward(
      static_cast<const float*>(logits), of, experts, static_cast<const float*>(balance), static_cast<const float*>(dweights),
      static_cast<const float*>(dlosses), static_cast<float*>(dlogits), *r, tokens, stream);
}
