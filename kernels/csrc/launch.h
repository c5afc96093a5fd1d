// What every .cu file needs: vectors of row elements, sums over lanes in a fixed order, and the launch itself.
//
// A file is read in three layers, from the bottom: the entry (extern "C") checks its arguments; the launcher picks the kernel
// and returns the error; the kernel. Nothing here allocates, waits, or adds floats by atomics: the same input gives the same bits.
#pragma once

#include <type_traits>

#include "entries.h"

#if defined(__CUDACC__)
#include <cuda_runtime.h>
// kernel is a name without commas: bind an instance of a template to one first.
#define MOE_LAUNCH(kernel, blocks, threads, stream, ...) \
  (kernel<<<static_cast<unsigned>(blocks), threads, 0, static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__), cudaGetLastError())
#define MOE_TRAP() __trap()
#define MOE_HOLD(v) asm("" : "+r"(v))  // in a register: not to be computed again wherever it is used
#else
#include "emulated.h"  // of tests/: runs the kernels on a CPU, a fiber a thread
#endif

namespace moe {

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;
constexpr unsigned ALL = 0xffffffffu;

MOE_BOTH constexpr int64_t blocks_for(int64_t items, int64_t each) { return (items + each - 1) / each; }

// --- Vectors: 8 elements of a row ---------------------------------------------------------------------------------------
template <typename R> struct alignas(sizeof(R) == 4 ? 16 : 8 * sizeof(R)) Vector { R at[VECTOR]; };

// Through the read-only cache; stores are streaming, because nothing reads the rows again before the caches have turned over.
template <typename R> __device__ __forceinline__ Vector<R> load(const R* row, int64_t vector) {
  Vector<R> out;
  const uint4* from = reinterpret_cast<const uint4*>(row + vector * VECTOR);
  uint4* to = reinterpret_cast<uint4*>(&out);
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(out) / 16); ++i) to[i] = __ldg(from + i);
  return out;
}
template <typename R> __device__ __forceinline__ void store(R* row, int64_t vector, const Vector<R>& v) {
  uint4* to = reinterpret_cast<uint4*>(row + vector * VECTOR);
  const uint4* from = reinterpret_cast<const uint4*>(&v);
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(v) / 16); ++i) __stcs(to + i, from[i]);
}

// --- Sums over lanes: a butterfly, every lane ends with the same bits ------------------------------------------------------
template <int LANES> __device__ __forceinline__ float sum_lanes(float v) {
#pragma unroll
  for (int step = 1; step < LANES; step *= 2) v += __shfl_xor_sync(ALL, v, step);
  return v;
}
template <int LANES> __device__ __forceinline__ float max_lanes(float v) {
#pragma unroll
  for (int step = 1; step < LANES; step *= 2) v = fmaxf(v, __shfl_xor_sync(ALL, v, step));
  return v;
}

// Runs f with a null pointer of the rows' type; the kernels have no fp64.
template <typename Call> int by_format(int format, Call&& f) {
  switch (format) {
    case F32: return f(static_cast<float*>(nullptr));
    case BF16: return f(static_cast<bf16*>(nullptr));
    case F16: return f(static_cast<f16*>(nullptr));
    default: return BAD_FORMAT;
  }
}

// Calls f with k as a constant where an instance is worth its compilation, with 0 for any other.
template <typename Call> int by_k(int k, Call&& f) {
  switch (k) {
    case 1: return f(std::integral_constant<int, 1>());
    case 2: return f(std::integral_constant<int, 2>());
    case 6: return f(std::integral_constant<int, 6>());
    case 8: return f(std::integral_constant<int, 8>());
    default: return f(std::integral_constant<int, 0>());
  }
}

}  // namespace moe

#define ROWS std::remove_pointer_t<decltype(type)>
