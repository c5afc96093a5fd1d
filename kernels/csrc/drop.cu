// Capacity of a device (DeepSeek-V2 section 2.2.4): of the slots that a sequence sends to a device, the `room` of largest weight
// stay, of equal ones the earlier. One block for each sequence and device, which reads the sequence's slots: a radix select
// finds the smallest weight that stays, eight bits at a time; then one pass in slot order.
#include "launch.h"

namespace moe {

__global__ void __launch_bounds__(THREADS) drop_kernel(
    const int32_t* __restrict__ experts, const float* __restrict__ weights, const uint8_t* __restrict__ exempt,
    int32_t* __restrict__ kept, float* __restrict__ kept_weights, int64_t each, int count, int devices, int room) {
  __shared__ int bins[256];
  __shared__ unsigned prefix;  // of the last key that stays: what is known of it
  __shared__ int left;         // how many of the keys with that prefix stay
  __shared__ int of_warp[WARPS];
  const int sequence = blockIdx.x / devices, device = blockIdx.x % devices;
  const int per_device = count / devices, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t begin = sequence * each, end = begin + each;
  const bool spared = exempt && exempt[sequence];
  if (threadIdx.x == 0) prefix = 0, left = room;
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int b = threadIdx.x; b < 256; b += THREADS) bins[b] = 0;
    __syncthreads();
    const unsigned known = shift == 24 ? 0u : ALL << (shift + 8);
    for (int64_t n = begin + threadIdx.x; n < end; n += THREADS) {
      const int expert = __ldg(experts + n);
      if (static_cast<unsigned>(expert) >= static_cast<unsigned>(count)) MOE_TRAP();
      const unsigned key = order_key(__ldg(weights + n));
      if (expert / per_device == device && (key & known) == prefix) atomicAdd(&bins[key >> shift & 255], 1);
    }
    __syncthreads();
    if (threadIdx.x == 0) {  // from the largest down: the bin in which the room ends
      int b = 255;
      while (b > 0 && bins[b] < left) left -= bins[b--];
      prefix |= static_cast<unsigned>(b) << shift;
    }
    __syncthreads();
  }
  const unsigned last = prefix;
  int before = 0;  // slots with the last key seen so far; fewer than `left` of them stay
  for (int64_t from = begin; from < end; from += THREADS) {
    const int64_t n = from + threadIdx.x;
    const int expert = n < end ? __ldg(experts + n) : -1;
    const bool own = n < end && expert / per_device == device;
    const float weight = own ? __ldg(weights + n) : 0.0f;
    const unsigned key = own ? order_key(weight) : 0u;
    const bool equal = own && key == last;
    const unsigned votes = __ballot_sync(ALL, equal);
    if (lane == 0) of_warp[warp] = __popc(votes);
    __syncthreads();
    int rank = before + __popc(votes & ((1u << lane) - 1));
    for (int w = 0; w < WARPS; ++w) {
      if (w < warp) rank += of_warp[w];
      before += of_warp[w];
    }
    __syncthreads();
    if (own) {
      const bool stays = spared || key > last || (equal && rank < left);
      kept[n] = stays ? expert : count;
      kept_weights[n] = stays ? weight : 0.0f;
    }
  }
}

}  // namespace moe

using namespace moe;

int moe_drop(
    const int32_t* experts, const void* weights, const uint8_t* exempt, int32_t* kept, void* kept_weights, int64_t tokens,
    int k, int count, int devices, int sequences, int room, int format, void* stream) {
  if (!fits(tokens, k) || sequences < 1 || tokens % sequences || devices < 1 || count < 1 || count % devices || room < 0)
    return BAD_SHAPE;
  if (format != F32) return BAD_FORMAT;
  if (!tokens) return OK;
  return MOE_LAUNCH(
      drop_kernel, static_cast<int64_t>(sequences) * devices, THREADS, stream, experts, static_cast<const float*>(weights),
      exempt, kept, static_cast<float*>(kept_weights), tokens / sequences * k, count, devices, room);
}
