// silu(gate) * up * the slot's weight, rows grouped by expert: weights go in here instead of at combine, whose backward then
// needs no row of y, and y is not kept: T*K*H*2 bytes a layer less to keep and to read (Megatron-Core, SonicMoE do the same).
#include <type_traits>

#include "launch.h"

namespace moe {

template <typename R>
__global__ void __launch_bounds__(THREADS) swiglu_kernel(
    const R* __restrict__ gate_up, const float* __restrict__ weights, const int32_t* __restrict__ src,
    const int32_t* __restrict__ live, R* __restrict__ out, int64_t items, int per_row) {
  const int64_t item = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
  if (item >= items) return;
  const int64_t row = item / per_row;
  const int64_t vector = item - row * per_row;
  Vector<R> result{};
  if (!live || row < __ldg(live)) {
    const Vector<R> gate = load(gate_up, row * 2 * per_row + vector);
    const Vector<R> up = load(gate_up, row * 2 * per_row + per_row + vector);
    const float weight = __ldg(weights + __ldg(src + row));
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) result.at[i] = narrow<R>(silu(widen(gate.at[i])) * widen(up.at[i]) * weight);
  }
  store(out, item, result);
}

// One block a row, for its dot product: the weight's gradient is <dout, silu(gate) * up>.
template <typename R>
__global__ void __launch_bounds__(THREADS) swiglu_backward_kernel(
    const R* __restrict__ dout, const R* __restrict__ gate_up, const float* __restrict__ weights,
    const int32_t* __restrict__ src, const int32_t* __restrict__ live, R* __restrict__ dgate_up, float* __restrict__ dweights,
    int per_row) {
  __shared__ float parts[WARPS];
  const int64_t row = blockIdx.x;
  const int slot = __ldg(src + row);
  const float weight = __ldg(weights + slot);
  const bool alive = !live || row < __ldg(live);
  float dot = 0;
  for (int vector = threadIdx.x; vector < per_row; vector += blockDim.x) {
    Vector<R> dgate{}, dup{};
    if (alive) {
      const Vector<R> d = load(dout, row * per_row + vector);
      const Vector<R> gate = load(gate_up, row * 2 * per_row + vector);
      const Vector<R> up = load(gate_up, row * 2 * per_row + per_row + vector);
#pragma unroll
      for (int i = 0; i < VECTOR; ++i) {
        const float g = widen(gate.at[i]), u = widen(up.at[i]), by = widen(d.at[i]);
        const float active = silu(g);
        dot += by * active * u;
        dgate.at[i] = narrow<R>(by * weight * u * silu_gradient(g));
        dup.at[i] = narrow<R>(by * weight * active);
      }
    }
    store(dgate_up, row * 2 * per_row + vector, dgate);
    store(dgate_up, row * 2 * per_row + per_row + vector, dup);
  }
  dot = sum_lanes<32>(dot);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = dot;
  __syncthreads();
  if (threadIdx.x == 0) {
    float total = 0;
    for (int warp = 0; warp < static_cast<int>(blockDim.x) / 32; ++warp) total += parts[warp];
    dweights[slot] = total;
  }
}

template <typename R>
int swiglu(
    const R* gate_up, const float* weights, const int32_t* src, const int32_t* live, R* out, int64_t rows, int inner, void* stream) {
  const int per_row = inner / VECTOR;
  const int64_t items = rows * per_row;
  if (!items) return OK;
  auto kernel = swiglu_kernel<R>;
  return MOE_LAUNCH(kernel, blocks_for(items, THREADS), THREADS, stream, gate_up, weights, src, live, out, items, per_row);
}

template <typename R>
int swiglu_backward(
    const R* dout, const R* gate_up, const float* weights, const int32_t* src, const int32_t* live, R* dgate_up,
    float* dweights, int64_t rows, int inner, void* stream) {
  if (!rows) return OK;
  const int per_row = inner / VECTOR;
  const int threads = per_row >= THREADS ? THREADS : static_cast<int>(blocks_for(per_row, 32)) * 32;
  auto kernel = swiglu_backward_kernel<R>;
  return MOE_LAUNCH(kernel, rows, threads, stream, dout, gate_up, weights, src, live, dgate_up, dweights, per_row);
}

}  // namespace moe

using namespace moe;

int moe_swiglu_weighted(
    const void* gate_up, const void* weights, const int32_t* src, const int32_t* live, void* out, int64_t rows, int inner,
    int format, void* stream) {
  if (rows < 0 || rows >= 1ll << 31 || inner < 1 || inner % VECTOR) return BAD_SHAPE;
  if (!aligned(gate_up) || !aligned(out)) return BAD_POINTER;
  return by_format(format, [&](auto type) {
    return swiglu(
        static_cast<const ROWS*>(gate_up), static_cast<const float*>(weights), src, live, static_cast<ROWS*>(out), rows, inner,
        stream);
  });
}

int moe_swiglu_weighted_backward(
    const void* dout, const void* gate_up, const void* weights, const int32_t* src, const int32_t* live, void* dgate_up,
    void* dweights, int64_t rows, int inner, int format, void* stream) {
  if (rows < 0 || rows >= 1ll << 31 || inner < 1 || inner % VECTOR) return BAD_SHAPE;
  if (!aligned(dout) || !aligned(gate_up) || !aligned(dgate_up)) return BAD_POINTER;
  return by_format(format, [&](auto type) {
    return swiglu_backward(
        static_cast<const ROWS*>(dout), static_cast<const ROWS*>(gate_up), static_cast<const float*>(weights), src, live,
        static_cast<ROWS*>(dgate_up), static_cast<float*>(dweights), rows, inner, stream);
  });
}
