// What both the device code (*.cu) and its twin for the host (cpu.cpp) mean: number formats, the order of choice, scores, loss
// formulas. kernels/reference.py says the same in torch and is the definition.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define MOE_BOTH __host__ __device__ __forceinline__
#else
#define MOE_BOTH inline
#endif

#define MOE_VERSION 1  // of entries.h: raised with every change of a signature

// Whether the host's compiler has half floats: g++ from 12 on, and clang. Where not, bits are converted by hand.
#if !defined(__FLT16_MAX__) && !defined(MOE_NO_FLOAT16)
#define MOE_NO_FLOAT16
#endif

namespace moe {

// --- Limits of the kernels; every entry checks them ---------------------------------------------------------------------
constexpr int MAX_EXPERTS = 512;
constexpr int MAX_K = 16;
constexpr int VECTOR = 8;  // elements of a row that one thread handles at a time: 16 bytes of bf16

// --- Number formats -----------------------------------------------------------------------------------------------------
enum Format : int { F64 = 0, F32 = 1, BF16 = 2, F16 = 3 };

struct bf16 { uint16_t bits; };
struct f16 { uint16_t bits; };

template <typename R> struct wide { using type = float; };
template <> struct wide<double> { using type = double; };
template <typename R> using wide_t = typename wide<R>::type;  // what rows of R are added up in, and their weights' type

MOE_BOTH double widen(double v) { return v; }
MOE_BOTH float widen(float v) { return v; }
MOE_BOTH float widen(bf16 v) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(static_cast<uint32_t>(v.bits) << 16);
#else
  uint32_t bits = static_cast<uint32_t>(v.bits) << 16;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
#endif
}
MOE_BOTH float widen(f16 v) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(v.bits));
#elif defined(MOE_NO_FLOAT16)
  const uint32_t sign = static_cast<uint32_t>(v.bits & 0x8000) << 16, rest = v.bits & 0x7fff;
  float out = static_cast<float>(rest) * 0x1p-24f;  // below 2^-14 a half counts steps of 2^-24
  uint32_t bits;
  std::memcpy(&bits, &out, 4);
  if (rest >= 0x7c00) bits = 0x7f800000 | (rest & 0x3ff) << 13 | (rest > 0x7c00 ? 0x400000 : 0);  // infinity, NaN
  else if (rest >= 0x400) bits = (rest << 13) + (112u << 23);  // of exponents, what they are off by differs by 112
  bits |= sign;
  std::memcpy(&out, &bits, 4);
  return out;
#else
  _Float16 half;
  std::memcpy(&half, &v, 2);
  return static_cast<float>(half);
#endif
}

// To nearest, ties to even. NaN stays NaN: adding the rounding to its bits could carry it to infinity or to -0.
template <typename R> MOE_BOTH R narrow(wide_t<R> v);
template <> MOE_BOTH double narrow<double>(double v) { return v; }
template <> MOE_BOTH float narrow<float>(float v) { return v; }
template <> MOE_BOTH bf16 narrow<bf16>(float v) {
#if defined(__CUDA_ARCH__)
  return {__bfloat16_as_ushort(__float2bfloat16_rn(v))};
#else
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  if (v != v) return {static_cast<uint16_t>((bits >> 16) | 0x40)};
  return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
#endif
}
template <> MOE_BOTH f16 narrow<f16>(float v) {
#if defined(__CUDA_ARCH__)
  return {__half_as_ushort(__float2half_rn(v))};
#elif defined(MOE_NO_FLOAT16)
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return {static_cast<uint16_t>(sign | 0x7e00 | (bits >> 13 & 0x3ff))};  // NaN
  if (bits >= 0x477ff000) return {static_cast<uint16_t>(sign | 0x7c00)};  // from 65520 on: infinity
  if (bits < 0x38800000) {  // below 2^-14 a half counts steps of 2^-24, and those of floats in [0.5, 1) are 2^-24
    float small;
    std::memcpy(&small, &bits, 4);
    small += 0.5f;
    std::memcpy(&bits, &small, 4);
    return {static_cast<uint16_t>(sign | (bits - 0x3f000000))};
  }
  return {static_cast<uint16_t>(sign | ((bits - (112u << 23) + 0xfff + (bits >> 13 & 1)) >> 13))};
#else
  _Float16 half = static_cast<_Float16>(v);
  f16 out;
  std::memcpy(&out, &half, 2);
  return out;
#endif
}

// --- Order of choice ----------------------------------------------------------------------------------------------------
// Larger value, larger key; equal values, also 0 and -0, equal keys; NaN above everything; 0 is the key of nothing.
MOE_BOTH uint32_t order_key(float v) {
#if defined(__CUDA_ARCH__)
  // -0 + 0 is 0, and any NaN + 0 is 0x7fffffff (PTX ISA, add.f32), whose key below is 0xffffffff.
  const uint32_t bits = __float_as_uint(v + 0.0f);
  return bits ^ (static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) | 0x80000000u);
#else
  if (v != v) return 0xffffffffu;
  v += 0.0f;
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
#endif
}
MOE_BOTH uint64_t order_key(double v) {
  if (v != v) return ~0ull;
  v += 0.0;
#if defined(__CUDA_ARCH__)
  uint64_t bits = static_cast<uint64_t>(__double_as_longlong(v));
#else
  uint64_t bits;
  std::memcpy(&bits, &v, 8);
#endif
  return bits >> 63 ? ~bits : bits | (1ull << 63);
}
MOE_BOTH float value_of(uint32_t key) {  // the inverse
  uint32_t bits = key >> 31 ? key & 0x7fffffffu : ~key;
#if defined(__CUDA_ARCH__)
  return __uint_as_float(key == 0xffffffffu ? 0x7fc00000u : bits);
#else
  if (key == 0xffffffffu) return NAN;
  float v;
  std::memcpy(&v, &bits, 4);
  return v;
#endif
}
MOE_BOTH double value_of(uint64_t key) {
  if (key == ~0ull) return NAN;
  uint64_t bits = key >> 63 ? key & ~(1ull << 63) : ~key;
#if defined(__CUDA_ARCH__)
  return __longlong_as_double(static_cast<long long>(bits));
#else
  double v;
  std::memcpy(&v, &bits, 8);
  return v;
#endif
}

// The tie rule: of equal keys the lower number wins.
template <typename Key> MOE_BOTH bool before(Key key, int number, Key other_key, int other) {
  return key > other_key || (key == other_key && number < other);
}

// --- The router ---------------------------------------------------------------------------------------------------------
struct Router {
  int experts, k, groups, top_groups;
  int sigmoid;      // scores: 0 softmax, 1 sigmoid
  int top2;         // a group's score: 0 its best expert (V2), 1 the sum of its two best (V3)
  int renormalize;  // weights of a token add up to `scale`
  int devices, top_devices, segments;
  double scale;
};

// Of a logit less the largest one. On a GPU two instructions: relative error at most 6e-8 times its size, and 0 below 1e-38.
MOE_BOTH float fast_exp(float v) {
#if defined(__CUDA_ARCH__)
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(v * 1.4426950408889634f));
  return power;
#else
  return std::exp(v);
#endif
}

// 1 / v, for v from 1 to 512 (a sum of scores whose largest is 1) or of sigmoids; at most two units in the last place off.
MOE_BOTH float fast_inverse(float v) {
#if defined(__CUDA_ARCH__)
  return __fdividef(1.0f, v);
#else
  return 1.0f / v;
#endif
}

template <typename F> MOE_BOTH F sigmoid(F logit) { return F(1) / (F(1) + exp(-logit)); }

constexpr double TINY = 1e-20;  // DeepSeek-V3's guard when weights are renormalised

// A group's score, as a key, from the keys of its best and second best expert (0: it has one).
template <typename Key> MOE_BOTH Key group_key(Key best, Key second, int top2) {
  return top2 && second ? order_key(value_of(best) + value_of(second)) : best;
}

// --- Balance (DeepSeek-V2, equations 23-31) -------------------------------------------------------------------------------
// Of a segment of `length` tokens: f_e, and f''_d; f'_d is the mean of f_e over the device's experts.
template <typename F> MOE_BOTH F sent_share(const Router& r, int sent, int length) {
  return F(sent) * F(r.experts) / (F(r.k) * F(length > 0 ? length : 1));
}
template <typename F> MOE_BOTH F received_share(const Router& r, int received, int length) {
  return F(received) * F(r.devices) / (F(r.top_devices) * F(length > 0 ? length : 1));
}
// d loss / d share of expert e: `balance` holds f, f', f'' of its segment and expert, d the gradients of the four losses.
template <typename F> MOE_BOTH F share_gradient(F f, F f1, F f2, const F* d, F per_token) {
  return (d[0] * f + d[1] * f1 + d[2] * f2) * per_token;
}

// --- SwiGLU -------------------------------------------------------------------------------------------------------------
template <typename F> MOE_BOTH F silu(F g) { return g * sigmoid(g); }
template <typename F> MOE_BOTH F silu_gradient(F g) {
  F s = sigmoid(g);
  return s * (F(1) + g * (F(1) - s));
}

// --- What entries return ------------------------------------------------------------------------------------------------
// Above 0: a cudaError.
enum Error : int { OK = 0, BAD_SHAPE = -1, BAD_FORMAT = -2, BAD_POINTER = -3, BAD_EXPERT = -4, BAD_SEGMENT = -5 };

inline bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

inline bool fits(int64_t tokens, int k) { return tokens >= 0 && k >= 1 && k <= MAX_K && tokens * k < (1ll << 31); }

inline bool fits(const Router& r, int64_t tokens) {
  return fits(tokens, r.k) && r.experts >= 1 && r.experts <= MAX_EXPERTS && r.groups >= 1 && r.experts % r.groups == 0 &&
         r.top_groups >= 1 && r.top_groups <= r.groups && r.k <= r.experts / r.groups * r.top_groups && r.devices >= 1 &&
         r.experts % r.devices == 0 && r.top_devices >= 1 && r.segments >= 1;
}

}  // namespace moe
