// What csrc/soft_cross_entropy.cu needs of CUDA, for a host compiler: one CUDA thread is one fiber, and one block runs at
// a time. Barriers and shuffles are checked: who is missing, who has left, who came for something else.
#pragma once

#define __global__
#define __shared__ static __attribute__((section("kd_shared")))
#define __launch_bounds__(...)
#define KD_DYNAMIC_SHARED(name) unsigned char* name = kd_shim::dynamic_shared

namespace kd_shim {

struct triple { unsigned x, y, z; };
extern unsigned char* dynamic_shared;

void block_barrier();
// Waits for the lanes of the mask, each of which brings 8 bytes, and returns what another one brought.
unsigned long long exchange(unsigned mask, int what, unsigned long long own, int partner);
int this_lane();

template <class A> A shuffled(unsigned mask, A value, int distance) {
    unsigned long long bits = 0;
    __builtin_memcpy(&bits, &value, sizeof value);
    bits = exchange(mask, 1, bits, this_lane() ^ distance);
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}

}  // namespace kd_shim

extern kd_shim::triple threadIdx, blockIdx, blockDim, gridDim;

inline void __syncthreads() { kd_shim::block_barrier(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { kd_shim::exchange(mask, 0, 0, kd_shim::this_lane()); }
template <class A> A __shfl_xor_sync(unsigned mask, A value, int distance) {
    return kd_shim::shuffled(mask, value, distance);
}
inline void __threadfence() {}
inline int atomicAdd(int* where, int more) {
    int before = *where;
    *where += more;
    return before;
}
