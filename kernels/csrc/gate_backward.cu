// From the gradients of weights and losses to that of the logits, in one pass: scores are computed again from the logits, and the
// three balance losses and z come in as one vector per segment and a number per token (trainer notes: DeepSeek-V2 equations
// 23-31 have constant f). Traffic: 8TE for logits and their gradient, 8TK for routes.
#include "gate.h"

namespace moe {

template <int LANES, int EACH>
__global__ void __launch_bounds__(THREADS) gate_backward_kernel(
    const float* __restrict__ logits, Segments segment, const int32_t* __restrict__ experts, const float* __restrict__ balance,
    const float* __restrict__ dweights, const float* __restrict__ dlosses, float* __restrict__ dlogits, Router r,
    int64_t tokens) {
  constexpr int WIDTH = LANES * EACH;
  __shared__ float common[WIDTH];  // d loss / d share, where the whole tile is of one segment
  const int lane = threadIdx.x % LANES, place = threadIdx.x / LANES;
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * TILE;
  const int64_t end = min(tokens, begin + TILE);
  const float per_token = 1.0f / static_cast<float>(tokens), scale = static_cast<float>(r.scale);
  const float dlosses_held[4] = {__ldg(dlosses), __ldg(dlosses + 1), __ldg(dlosses + 2), __ldg(dlosses + 3)};
  auto of_share = [&](int number, int e) {
    const float* f = balance + static_cast<int64_t>(number) * 3 * r.experts + e;
    return share_gradient(__ldg(f), __ldg(f + r.experts), __ldg(f + 2 * r.experts), dlosses_held, per_token);
  };
  const int only = segment(begin);
  const bool alone = only == segment(end - 1);
  if (alone)
    for (int e = threadIdx.x; e < r.experts; e += THREADS) common[e] = of_share(only, e);
  __syncthreads();
  for (int64_t from = begin; from < begin + TILE; from += AT_A_TIME<LANES>) {
    const int64_t at = from + place;
    const bool there = at < end;
    const Token<LANES, EACH> token(logits, at, there, lane, r);
    const int number = alone || !there ? only : segment(at);
    float d[EACH], inner = 0;
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
      const int e = lane * EACH + i;
      d[i] = e < r.experts ? (alone ? common[e] : of_share(number, e)) : 0.0f;
      inner += d[i] * token.score[i] / token.total;
    }
    if (r.sigmoid) {  // from shares to scores
      inner = sum_lanes<LANES>(inner);
#pragma unroll
      for (int i = 0; i < EACH; ++i) d[i] = (d[i] - inner) / token.total;
    }
    float sum = 0, dot = 0;
    if (r.renormalize) {
      for (int j = 0; j < r.k; ++j) {
        const int chosen = there ? __ldg(experts + at * r.k + j) - lane * EACH : -1;
        const float dw = there ? __ldg(dweights + at * r.k + j) : 0.0f;
#pragma unroll
        for (int i = 0; i < EACH; ++i)
          if (i == chosen) sum += token.score[i], dot += token.score[i] * dw;
      }
      sum = sum_lanes<LANES>(sum) + static_cast<float>(TINY);
      dot = sum_lanes<LANES>(dot);
    }
    for (int j = 0; j < r.k; ++j) {
      const int chosen = there ? __ldg(experts + at * r.k + j) - lane * EACH : -1;
      const float dw = there ? __ldg(dweights + at * r.k + j) : 0.0f;
      const float direct = (r.renormalize ? (dw - dot / sum) / sum : dw) * scale;
#pragma unroll
      for (int i = 0; i < EACH; ++i)
        if (i == chosen) d[i] += direct;
    }
    inner = 0;
    if (!r.sigmoid) {
#pragma unroll
      for (int i = 0; i < EACH; ++i) inner += d[i] * token.score[i];
      inner = sum_lanes<LANES>(inner);
    }
    const float dz = 2 * dlosses_held[3] * token.lse * per_token;
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
      const float s = token.score[i];
      const float soft = r.sigmoid ? expf(token.logit[i] - token.top) / token.sum : s;
      d[i] = (r.sigmoid ? s * (1 - s) * d[i] : s * (d[i] - inner)) + dz * soft;
    }
    if (!there) continue;  // nothing after this looks at other lanes
    float* row = dlogits + at * r.experts + lane * EACH;
    const int own = r.experts - lane * EACH;
    if (EACH % 4 == 0 && r.experts % 4 == 0) {
#pragma unroll
      for (int i = 0; i < EACH; i += 4)
        if (i < own) *reinterpret_cast<float4*>(row + i) = float4{d[i], d[i + 1], d[i + 2], d[i + 3]};
    } else {
#pragma unroll
      for (int i = 0; i < EACH; ++i)
        if (i < own) row[i] = d[i];
    }
  }
}

inline int gate_backward(
    const float* logits, const int32_t* of, const int32_t* experts, const float* balance, const float* dweights,
    const float* dlosses, float* dlogits, const Router& r, int64_t tokens, void* stream) {
  if (!tokens) return OK;
  const Segments segment{of, tokens / r.segments};
  return by_experts(r.experts, [&](auto lanes, auto each) {
    auto kernel = gate_backward_kernel<decltype(lanes)::value, decltype(each)::value>;
    return static_cast<int>(MOE_LAUNCH(
        kernel, blocks_for(tokens, TILE), THREADS, stream, logits, segment, experts, balance, dweights, dlosses, dlogits, r,
        tokens));
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
