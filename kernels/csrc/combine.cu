// A token's rows, weighted and added up: z[t] = shared[t] + sum of weights[t,j] * y[pos[t,j]], j = 0..K-1 in order, in fp32,
// rounded once. Without weights it is the backward of permute. And its own backward: dy row by row, and one dot product a slot.
#include "launch.h"

namespace moe {

// K is a constant, 0 for any other: then all rows of a slot are asked for before the first is added.
template <typename R, int K>
__global__ void __launch_bounds__(THREADS) combine_kernel(
    const R* __restrict__ y, const float* __restrict__ weights, const R* __restrict__ shared, const int32_t* __restrict__ pos,
    const int32_t* __restrict__ live, R* __restrict__ z, int64_t items, int any_k, int per_row) {
  const int64_t item = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
  if (item >= items) return;
  const int k = K ? K : any_k;
  const int alive = live ? __ldg(live) : 0x7fffffff;
  const int64_t token = item / per_row;
  const int64_t vector = item - token * per_row;
  float sum[VECTOR] = {};
  constexpr int AT_ONCE = K ? K : 4;
  for (int from = 0; from < k; from += AT_ONCE) {
    Vector<R> held[AT_ONCE];
    float w[AT_ONCE];
#pragma unroll
    for (int j = 0; j < AT_ONCE; ++j) {
      const int64_t slot = token * k + from + j;
      const int row = K || from + j < k ? __ldg(pos + slot) : 0x7fffffff;
      const bool there = row < alive;
      w[j] = there ? (weights ? __ldg(weights + slot) : 1.0f) : 0.0f;
      held[j] = there ? load(y, static_cast<int64_t>(row) * per_row + vector) : Vector<R>{};
    }
#pragma unroll
    for (int j = 0; j < AT_ONCE; ++j)
#pragma unroll
      for (int h = 0; h < VECTOR; ++h) sum[h] += w[j] * widen(held[j].at[h]);
  }
  Vector<R> out;
  const Vector<R> more = shared ? load(shared, item) : Vector<R>{};
#pragma unroll
  for (int h = 0; h < VECTOR; ++h) out.at[h] = narrow<R>(shared ? sum[h] + widen(more.at[h]) : sum[h]);
  store(z, item, out);
}

// One block a token: dz is read once, each of the K rows of y once. Sums: a thread's vectors, then lanes, then warps.
template <typename R, int K>
__global__ void __launch_bounds__(THREADS) combine_backward_kernel(
    const R* __restrict__ dz, const R* __restrict__ y, const float* __restrict__ weights, const int32_t* __restrict__ pos,
    const int32_t* __restrict__ live, R* __restrict__ dy, float* __restrict__ dweights, int any_k, int per_row) {
  __shared__ float parts[WARPS][MAX_K];
  const int k = K ? K : any_k;
  const int64_t token = blockIdx.x;
  const int alive = live ? __ldg(live) : 0x7fffffff;
  constexpr int MOST = K ? K : MAX_K;
  float dot[MOST] = {}, w[MOST];
  int row[MOST];
#pragma unroll
  for (int j = 0; j < MOST; ++j)
    if (K || j < k) {
      row[j] = __ldg(pos + token * k + j);
      w[j] = __ldg(weights + token * k + j);
    }
  for (int vector = threadIdx.x; vector < per_row; vector += blockDim.x) {
    const Vector<R> up = load(dz, token * per_row + vector);
#pragma unroll
    for (int j = 0; j < MOST; ++j)
      if (K || j < k) {
        const int64_t at = static_cast<int64_t>(row[j]) * per_row + vector;
        Vector<R> out{};
        if (row[j] < alive) {
          const Vector<R> from = load(y, at);
#pragma unroll
          for (int h = 0; h < VECTOR; ++h) {
            dot[j] += widen(up.at[h]) * widen(from.at[h]);
            out.at[h] = narrow<R>(w[j] * widen(up.at[h]));
          }
        }
        store(dy, at, out);
      }
  }
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int j = 0; j < MOST; ++j)
    if (K || j < k) {
      dot[j] = sum_lanes<32>(dot[j]);
      if (lane == 0) parts[warp][j] = dot[j];
    }
  __syncthreads();
  if (static_cast<int>(threadIdx.x) < k) {
    float total = 0;
    for (int other = 0; other < static_cast<int>(blockDim.x) / 32; ++other) total += parts[other][threadIdx.x];
    dweights[token * k + threadIdx.x] = total;
  }
}

template <typename R>
int combine(
    const R* y, const float* weights, const R* shared, const int32_t* pos, const int32_t* live, R* z, int64_t tokens, int k,
    int hidden, void* stream) {
  const int per_row = hidden / VECTOR;
  const int64_t items = tokens * per_row;
  if (!items) return OK;
  return by_k(k, [&](auto fixed) {
    auto kernel = combine_kernel<R, decltype(fixed)::value>;
    return static_cast<int>(MOE_LAUNCH(
        kernel, blocks_for(items, THREADS), THREADS, stream, y, weights, shared, pos, live, z, items, k, per_row));
  });
}

template <typename R>
int combine_backward(
    const R* dz, const R* y, const float* weights, const int32_t* pos, const int32_t* live, R* dy, float* dweights,
    int64_t tokens, int k, int hidden, void* stream) {
  if (!tokens) return OK;
  const int per_row = hidden / VECTOR;
  const int threads = per_row >= THREADS ? THREADS : static_cast<int>(blocks_for(per_row, 32)) * 32;
  return by_k(k, [&](auto fixed) {
    auto kernel = combine_backward_kernel<R, decltype(fixed)::value>;
    return static_cast<int>(MOE_LAUNCH(kernel, tokens, threads, stream, dz, y, weights, pos, live, dy, dweights, k, per_row));
  });
}

}  // namespace moe

using namespace moe;

int moe_combine(
    const void* y, const void* weights, const void* shared, const int32_t* pos, const int32_t* live, void* z, int64_t tokens,
    int k, int hidden, int format, void* stream) {
  if (!fits(tokens, k) || hidden < 1 || hidden % VECTOR) return BAD_SHAPE;
  if (!aligned(y) || !aligned(z) || !aligned(shared)) return BAD_POINTER;
  return by_format(format, [&](auto type) {
    return combine(
        static_cast<const ROWS*>(y), static_cast<const float*>(weights), static_cast<const ROWS*>(shared), pos, live,
        static_cast<ROWS*>(z), tokens, k, hidden, stream);
  });
}

int moe_combine_backward(
    const void* dz, const void* y, const void* weights, const int32_t* pos, const int32_t* live, void* dy, void* dweights,
    int64_t tokens, int k, int hidden, int format, void* stream) {
  if (!fits(tokens, k) || hidden < 1 || hidden % VECTOR) return BAD_SHAPE;
  if (!aligned(dz) || !aligned(y) || !aligned(dy)) return BAD_POINTER;
  return by_format(format, [&](auto type) {
    return combine_backward(
        static_cast<const ROWS*>(dz), static_cast<const ROWS*>(y), static_cast<const float*>(weights), pos, live,
        static_cast<ROWS*>(dy), static_cast<float*>(dweights), tokens, k, hidden, stream);
  });
}
