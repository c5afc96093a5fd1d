// How the gate's two kernels, gate.cu and gate_backward.cu, hold a token: LANES lanes of a warp, each with EACH experts in
// registers, so that a warp works on 32 / LANES tokens. What limits these kernels is the number of instructions, not memory: what
// is done once a lane (shuffles, addresses) is dear with many lanes, what is done once an expert needs long code with few.
#pragma once

#include "launch.h"

namespace moe {

// The i-th expert of a lane. Vectors of four go round the lanes, so that these read whole lines of memory; or a lane has
// neighbours, TOGETHER, and so whole groups.
template <int LANES, int EACH, bool TOGETHER> __device__ __forceinline__ int expert_of(int lane, int i) {
  return TOGETHER ? lane * EACH + i : (i / 4 * LANES + lane) * 4 + i % 4;
}

// A lane's logits, vectors going round. Unless experts fill the lanes, FULL, what is past the last has -inf, whose share is 0. A
// token that does not exist has 0s: its lanes take part in shuffles and write nothing.
template <int LANES, int EACH, bool FULL>
__device__ __forceinline__ void read_logits(float (&own)[EACH], const float* __restrict__ row, bool there, int lane, int experts) {
#pragma unroll
  for (int i = 0; i < EACH; i += 4) {
    const int e = expert_of<LANES, EACH, false>(lane, i);
    const float other = there && !FULL ? -INFINITY : 0.0f;
    float4 v = {other, other, other, other};
    if (FULL || experts % 4 == 0) {
      if (there && (FULL || e < experts)) v = __ldg(reinterpret_cast<const float4*>(row + e));
    } else if (there) {
      if (e < experts) v.x = __ldg(row + e);
      if (e + 1 < experts) v.y = __ldg(row + e + 1);
      if (e + 2 < experts) v.z = __ldg(row + e + 2);
      if (e + 3 < experts) v.w = __ldg(row + e + 3);
    }
    own[i] = v.x, own[i + 1] = v.y, own[i + 2] = v.z, own[i + 3] = v.w;
  }
}

// A lane's values, one an expert, from and to a row of shared memory.
template <int LANES, int EACH, bool TOGETHER>
__device__ __forceinline__ void get_row(float (&own)[EACH], const float* row, int lane) {
#pragma unroll
  for (int i = 0; i < EACH; i += 4) {
    const float4 v = *reinterpret_cast<const float4*>(row + expert_of<LANES, EACH, TOGETHER>(lane, i));
    own[i] = v.x, own[i + 1] = v.y, own[i + 2] = v.z, own[i + 3] = v.w;
  }
}
template <int LANES, int EACH, bool TOGETHER>
__device__ __forceinline__ void put_row(float* row, const float (&own)[EACH], int lane) {
#pragma unroll
  for (int i = 0; i < EACH; i += 4)
    *reinterpret_cast<float4*>(row + expert_of<LANES, EACH, TOGETHER>(lane, i)) = float4{own[i], own[i + 1], own[i + 2], own[i + 3]};
}

struct Segments {
  const int32_t* of;
  unsigned length;  // there are fewer than 2^31 tokens
  unsigned count;
  __device__ __forceinline__ int operator()(int64_t token) const {
    if (!of) return static_cast<int>(static_cast<unsigned>(token) / length);
    const int number = __ldg(of + token);
    if (static_cast<unsigned>(number) >= count) MOE_TRAP();  // it would be an address
    return number;
  }
  // Whether all tokens up to `last` are of segment `number`, of which an earlier one is.
  __device__ __forceinline__ bool has(int number, int64_t last) const {
    return of ? __ldg(of + last) == number : last < (static_cast<int64_t>(number) + 1) * length;
  }
};

// Calls f with lanes a token and experts a lane for E experts: FEW lanes for up to 64; 32 experts a lane is what registers hold.
template <int FEW, typename Call> int by_experts(int experts, Call&& f) {
  using std::integral_constant;
  if (experts <= 64) return f(integral_constant<int, FEW>(), integral_constant<int, 64 / FEW>());
  if (experts <= 128) return f(integral_constant<int, 8>(), integral_constant<int, 16>());
  if (experts <= 160) return f(integral_constant<int, 8>(), integral_constant<int, 20>());
  if (experts <= 256) return f(integral_constant<int, 8>(), integral_constant<int, 32>());
  return f(integral_constant<int, 32>(), integral_constant<int, 16>());
}

}  // namespace moe
