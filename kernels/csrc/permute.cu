// Rows of tokens to rows grouped by expert: y[pos[t,j]] = x[t]. A row is read once and written K times (scatter): 2TH(1+K)
// bytes of bf16, where gathering row by row would read it K times.
#include "launch.h"

namespace moe {

// K is a constant, 0 for any other: then all rows' numbers are asked for, with the vector, before the first is written.
template <typename R, int K>
__global__ void __launch_bounds__(THREADS) permute_kernel(
    const R* __restrict__ x, const int32_t* __restrict__ pos, const int32_t* __restrict__ live, R* __restrict__ y,
    int64_t items, int any_k, int per_row) {
  const int64_t item = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
  if (item >= items) return;
  const int k = K ? K : any_k;
  const int alive = live ? __ldg(live) : 0x7fffffff;
  const Vector<R> held = load(x, item);
  const int64_t token = item / per_row;
  const int64_t vector = item - token * per_row;
  constexpr int AT_ONCE = K ? K : 4;
  for (int from = 0; from < k; from += AT_ONCE) {
    int row[AT_ONCE];
#pragma unroll
    for (int j = 0; j < AT_ONCE; ++j) row[j] = K || from + j < k ? __ldg(pos + token * k + from + j) : 0;
#pragma unroll
    for (int j = 0; j < AT_ONCE; ++j)
      if (K || from + j < k) store(y, static_cast<int64_t>(row[j]) * per_row + vector, row[j] < alive ? held : Vector<R>{});
  }
}

template <typename R>
int permute(const R* x, const int32_t* pos, const int32_t* live, R* y, int64_t tokens, int k, int hidden, void* stream) {
  const int per_row = hidden / VECTOR;
  const int64_t items = tokens * per_row;
  if (!items) return OK;
  return by_k(k, [&](auto fixed) {
    auto kernel = permute_kernel<R, decltype(fixed)::value>;
    return static_cast<int>(
        MOE_LAUNCH(kernel, blocks_for(items, THREADS), THREADS, stream, x, pos, live, y, items, k, per_row));
  });
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
