// Capacity of a device (DeepSeek-V2 section 2.2.4): of the slots that a sequence sends to a device, the `room` of largest weight
// stay, of equal ones the earlier. One block for each sequence and device, which reads the sequence's slots: a radix select
// finds the smallest weight that stays, eight bits at a time; then one pass in slot order. There are few blocks, so each is as
// large as can be, and a thread asks for several slots before it looks at one.
#include "launch.h"

namespace moe {

constexpr int DROP_BLOCK = 1024, DROP_WARPS = DROP_BLOCK / 32;
constexpr int AHEAD = 4;  // slots that a thread asks for at a time

__global__ void __launch_bounds__(DROP_BLOCK) drop_kernel(
    const int32_t* __restrict__ experts, const float* __restrict__ weights, const uint8_t* __restrict__ exempt,
    int32_t* __restrict__ kept, float* __restrict__ kept_weights, int64_t each, int count, int devices, int room) {
  __shared__ int bins[256];
  __shared__ unsigned prefix;  // of the last key that stays: what is known of it
  __shared__ int left;         // how many of the keys with that prefix stay
  __shared__ int of_warp[AHEAD][DROP_WARPS];
  const int sequence = blockIdx.x / devices, device = blockIdx.x % devices;
  const int per_device = count / devices, first = device * per_device, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t begin = sequence * each, end = begin + each;
  const bool spared = exempt && exempt[sequence];
  int expert[AHEAD];
  float weight[AHEAD];
  auto read = [&](int64_t from) {
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) {
      const int64_t n = from + i * DROP_BLOCK;
      expert[i] = n < end ? __ldg(experts + n) : -1;
      weight[i] = n < end ? __ldg(weights + n) : 0.0f;
    }
  };
  auto is_own = [&](int number) { return static_cast<unsigned>(number - first) < static_cast<unsigned>(per_device); };
  if (threadIdx.x == 0) prefix = 0, left = room;
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int b = threadIdx.x; b < 256; b += DROP_BLOCK) bins[b] = 0;
    __syncthreads();
    const unsigned known = shift == 24 ? 0u : ALL << (shift + 8);
    for (int64_t from = begin + threadIdx.x; from < end; from += AHEAD * DROP_BLOCK) {
      read(from);
#pragma unroll
      for (int i = 0; i < AHEAD; ++i) {
        if (from + i * DROP_BLOCK < end && static_cast<unsigned>(expert[i]) >= static_cast<unsigned>(count)) MOE_TRAP();
        const unsigned key = order_key(weight[i]);
        if (is_own(expert[i]) && (key & known) == prefix) atomicAdd(&bins[key >> shift & 255], 1);
      }
    }
    __syncthreads();
    if (warp == 0) {  // from the largest down: the bin in which the room ends, each lane with eight of them
      const int room_left = left;
      int some[8], above = 0;
#pragma unroll
      for (int i = 0; i < 8; ++i) above += some[i] = bins[255 - lane * 8 - i];
      const int own = above;
#pragma unroll
      for (int step = 1; step < 32; step *= 2) {
        const int other = __shfl_up_sync(ALL, above, step);
        if (lane >= step) above += other;
      }
      above -= own;
      __syncwarp();  // all have read `left`
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int b = 255 - lane * 8 - i;
        if ((b == 255 || above < room_left) && (b == 0 || above + some[i] >= room_left))
          prefix |= static_cast<unsigned>(b) << shift, left = room_left - above;
        above += some[i];
      }
    }
    __syncthreads();
  }
  const unsigned last = prefix;
  int before = 0;  // slots with the last key seen so far; fewer than `left` of them stay
  for (int64_t from = begin; from < end; from += AHEAD * DROP_BLOCK) {
    read(from + threadIdx.x);
    unsigned votes[AHEAD];
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) {
      votes[i] = __ballot_sync(ALL, is_own(expert[i]) && order_key(weight[i]) == last);
      if (lane == 0) of_warp[i][warp] = __popc(votes[i]);
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) {
      const unsigned some = static_cast<unsigned>(of_warp[i][lane]);
      const int earlier = static_cast<int>(__reduce_add_sync(ALL, lane < warp ? some : 0u));
      const int rank = before + earlier + __popc(votes[i] & ((1u << lane) - 1));
      before += static_cast<int>(__reduce_add_sync(ALL, some));
      if (is_own(expert[i])) {
        const unsigned key = order_key(weight[i]);
        const bool stays = spared || key > last || (key == last && rank < left);
        const int64_t n = from + i * DROP_BLOCK + threadIdx.x;
        kept[n] = stays ? expert[i] : count;
        kept_weights[n] = stays ? weight[i] : 0.0f;
      }
    }
    __syncthreads();
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
      drop_kernel, static_cast<int64_t>(sequences) * devices, DROP_BLOCK, stream, experts, static_cast<const float*>(weights),
      exempt, kept, static_cast<float*>(kept_weights), tokens / sequences * k, count, devices, room);
}
