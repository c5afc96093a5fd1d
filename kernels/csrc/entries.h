// The C interface, the same from every library: built by nvcc it takes device pointers and a stream, built from cpu.cpp host
// pointers and no stream. Nothing allocates or waits. Returns 0, an Error of semantics.h, or a cudaError_t.
//
// T tokens, K slots a token, E experts, N = T*K rows, H hidden; rows are `format`, weights and losses fp32 (F64 rows: fp64),
// numbers int32. `live`: how many rows belong to an expert, in device memory, or null for all; rows after that are nobody's:
// they are written as 0 and never read.
#pragma once

#include "semantics.h"

extern "C" {

int moe_version();  // MOE_VERSION of the sources; the loader compares

// Bytes of scratch memory.
int64_t moe_gate_scratch(const moe::Router* router, int64_t tokens);
int64_t moe_route_scratch(int64_t tokens, int k, int experts);

// logits [T,E] F32 (twin: or F64), bias [E] or null, of [T] segment of each token, rising, or null for equal lengths: `of` out of
// range or falling is BAD_SEGMENT or stops the stream
//   -> experts [T,K], weights [T,K], losses [4], balance [segments,3,E]: f, f', f'' of each expert
int moe_gate_forward(
    const void* logits, const void* bias, const int32_t* of, int32_t* experts, void* weights, void* losses, void* balance,
    void* scratch, const moe::Router* router, int64_t tokens, int format, void* stream);

// dweights [T,K], dlosses [4] -> dlogits [T,E]
int moe_gate_backward(
    const void* logits, const int32_t* of, const int32_t* experts, const void* balance, const void* dweights,
    const void* dlosses, void* dlogits, const moe::Router* router, int64_t tokens, int format, void* stream);

// experts [T,K], weights [T,K], exempt [sequences] bytes or null -> the same with slots beyond `room` given to nobody
int moe_drop(
    const int32_t* experts, const void* weights, const uint8_t* exempt, int32_t* kept, void* kept_weights, int64_t tokens,
    int k, int count, int devices, int sequences, int room, int format, void* stream);

// experts [T,K], numbers 0..count, `count` for nobody -> offs [count+1], pos [T,K] slot to row, src [N] row to slot
int moe_route(
    const int32_t* experts, int32_t* offs, int32_t* pos, int32_t* src, void* scratch, int64_t tokens, int k, int count,
    void* stream);

// y[pos[t,j]] = x[t]
int moe_permute(
    const void* x, const int32_t* pos, const int32_t* live, void* y, int64_t tokens, int k, int hidden, int format, void* stream);

// z[t] = shared[t] + sum over j of weights[t,j] * y[pos[t,j]]; weights and shared may be null
int moe_combine(
    const void* y, const void* weights, const void* shared, const int32_t* pos, const int32_t* live, void* z, int64_t tokens,
    int k, int hidden, int format, void* stream);

// dy[pos[t,j]] = weights[t,j] * dz[t];  dweights[t,j] = <dz[t], y[pos[t,j]]>
int moe_combine_backward(
    const void* dz, const void* y, const void* weights, const int32_t* pos, const int32_t* live, void* dy, void* dweights,
    int64_t tokens, int k, int hidden, int format, void* stream);

// gate_up [N,2*inner], weights [T,K] of slot src[n] -> out[n] = silu(gate) * up * weight
int moe_swiglu_weighted(
    const void* gate_up, const void* weights, const int32_t* src, const int32_t* live, void* out, int64_t rows, int inner,
    int format, void* stream);

// dout [N,inner] -> dgate_up [N,2*inner], dweights of slot src[n]
int moe_swiglu_weighted_backward(
    const void* dout, const void* gate_up, const void* weights, const int32_t* src, const int32_t* live, void* dgate_up,
    void* dweights, int64_t rows, int inner, int format, void* stream);
}
