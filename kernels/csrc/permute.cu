// Rows of tokens to rows grouped by expert: y[pos[t,j]] = x[t]. A row is read once and written K times (scatter): 2TH(1+K)
// bytes of bf16, where gathering row by row would read it K times.
#include <type_traits>

#include "launch.h"

namespace moe {

// Each thread moves VECTORS vectors of 16 bytes, THREADS apart, all loaded before the first is stored.
constexpr int VECTORS = 2;

template <typename R>
__global__ void __launch_bounds__(THREADS) permute_kernel(
    const R* __restrict__ x, const int32_t* __restrict__ pos, const int32_t* __restrict__ live, R* __restrict__ y,
    int64_t items, int k, int per_row) {
  const int alive = live ? __ldg(live) : 0x7fffffff;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * THREADS * VECTORS + threadIdx.x;
  Vector<R> held[VECTORS];
#pragma unroll
  for (int i = 0; i < VECTORS; ++i)
    if (first + i * THREADS < items) held[i] = load(x, first + i * THREADS);
#pragma unroll
  for (int i = 0; i < VECTORS; ++i) {
    const int64_t item = first + i * THREADS;
    if (item >= items) return;
    const int64_t token = item / per_row;
    const int64_t vector = item - token * per_row;
    for (int j = 0; j < k; ++j) {
      const int row = __ldg(pos + token * k + j);
      store(y, static_cast<int64_t>(row) * per_row + vector, row < alive ? held[i] : Vector<R>{});
    }
  }
}

template <typename R>
int permute(const R* x, const int32_t* pos, const int32_t* live, R* y, int64_t tokens, int k, int hidden, void* stream) {
  const int per_row = hidden / VECTOR;
  const int64_t items = tokens * per_row;
  if (!items) return OK;
  auto kernel = permute_kernel<R>;
  return MOE_LAUNCH(kernel, blocks_for(items, THREADS * VECTORS), THREADS, stream, x, pos, live, y, items, k, per_row);
}

}  // namespace moe

using namespace moe;

int moe_version() { return MOE_VERSION; }

int moe_permute(
    const void* x, const int32_t* pos, const int32_t* live, void* y, int64_t tokens, int k, int hidden, int format, void* stream) {
  if (!fits(tokens, k) || hidden < 1 || hidden % VECTOR) return BAD_SHAPE;
  if (!aligned(x) || !aligned(y)) return BAD_POINTER;
  return by_format(format, [&](auto type) {
    return permute(static_cast<const ROWS*>(x), pos, live, static_cast<ROWS*>(y), tokens, k, hidden, stream);
  });
}
