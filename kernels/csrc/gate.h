// How the gate's two kernels, gate.cu and gate_backward.cu, hold a token: LANES lanes of a warp, each with EACH experts next to
// each other in registers, so that a warp works on 32 / LANES tokens and no score leaves it. With one group a lane (V2: 8 groups
// of 20, V3: 8 of 32) choosing groups takes a handful of shuffles.
#pragma once

#include <type_traits>

#include "launch.h"

namespace moe {

constexpr int TILE = 64;  // tokens of a block

template <int LANES> constexpr int AT_A_TIME = THREADS / LANES;  // tokens

// This lane's experts of one token. An expert past the last has score 0, so it is in no sum, and is never chosen.
template <int LANES, int EACH> struct Token {
  float logit[EACH], score[EACH];
  float top, sum, lse, total;  // as in cpu.cpp

  // A token that does not exist has logits 0: its lanes take part in shuffles and write nothing.
  __device__ __forceinline__ Token(const float* __restrict__ logits, int64_t token, bool there, int lane, const Router& r) {
    const float* row = logits + token * r.experts + lane * EACH;
    const int own = r.experts - lane * EACH;  // experts from this lane on
    if (EACH % 4 == 0 && r.experts % 4 == 0) {
#pragma unroll
      for (int i = 0; i < EACH; i += 4) {
        float4 v = {0, 0, 0, 0};
        if (there && i < own) v = __ldg(reinterpret_cast<const float4*>(row + i));
        logit[i] = v.x, logit[i + 1] = v.y, logit[i + 2] = v.z, logit[i + 3] = v.w;
      }
    } else {
#pragma unroll
      for (int i = 0; i < EACH; ++i) logit[i] = there && i < own ? __ldg(row + i) : 0.0f;
    }
    top = -INFINITY;
#pragma unroll
    for (int i = 0; i < EACH; ++i)
      if (i < own) top = fmaxf(top, logit[i]);
    top = max_lanes<LANES>(top);
    sum = 0;
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
      score[i] = i < own ? expf(logit[i] - top) : 0.0f;
      sum += score[i];
    }
    sum = sum_lanes<LANES>(sum);
    lse = top + logf(sum);
    total = 1;
    if (r.sigmoid) {
      total = 0;
#pragma unroll
      for (int i = 0; i < EACH; ++i) {
        score[i] = i < own ? sigmoid(logit[i]) : 0.0f;
        total += score[i];
      }
      total = sum_lanes<LANES>(total);
    } else {
#pragma unroll
      for (int i = 0; i < EACH; ++i) score[i] = score[i] / sum;
    }
  }
};

struct Segments {
  const int32_t* of;
  int64_t length;
  __device__ __forceinline__ int operator()(int64_t token) const {
    return of ? __ldg(of + token) : static_cast<int>(token / length);
  }
};

// Picks the instance for E experts: fewer lanes a token mean fewer shuffles; 32 experts a lane is what registers hold.
template <typename Call> int by_experts(int experts, Call&& f) {
  using std::integral_constant;
  if (experts <= 64) return f(integral_constant<int, 8>(), integral_constant<int, 8>());
  if (experts <= 128) return f(integral_constant<int, 8>(), integral_constant<int, 16>());
  if (experts <= 160) return f(integral_constant<int, 8>(), integral_constant<int, 20>());
  if (experts <= 256) return f(integral_constant<int, 8>(), integral_constant<int, 32>());
  return f(integral_constant<int, 32>(), integral_constant<int, 16>());
}

}  // namespace moe
