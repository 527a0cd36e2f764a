// No header is included: the compiler that the driver's user has finds none without a toolkit.
typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned char u8;
typedef long long i64;

#ifndef MQC_SHIM
#define DEVICE __device__ __forceinline__
#define KERNEL(name, threads, blocks) \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ Arguments a)
#define DYNAMIC_SHARED(name) extern __shared__ uint4 name[]
DEVICE float shuffle_xor(float v, int mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }
#endif

DEVICE float bits(u32 bits) { return __uint_as_float(bits); }
DEVICE float flag(bool b) { return b ? 1.f : 0.f; }
// NaN when one is.
DEVICE float greater(float a, float b) { return a > b || a != a ? a : b; }
DEVICE float lesser(float a, float b) { return a < b || a != a ? a : b; }
DEVICE float sum(float a, float b) { return a + b; }
DEVICE float product(float a, float b) { return a * b; }
DEVICE float softplus(float a) { return fmaxf(a, 0.f) + log1pf(expf(-fabsf(a))); }
DEVICE float clamp(float a, float low, float high) { return a < low ? low : a > high ? high : a; }
// Of a row, or of a part of one: every thread of 32, or of a whole block, gets the same, always added up in the same order.
#define COMBINE(name, function)                                                          \
    DEVICE float name(float v, float* shared, bool whole_block) {                        \
        for (int mask = 16; mask > 0; mask /= 2) v = function(v, shuffle_xor(v, mask));  \
        if (!whole_block) return v;                                                      \
        __syncthreads();                                                                 \
        if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = v;                         \
        __syncthreads();                                                                 \
        v = shared[threadIdx.x % 8];                                                     \
        for (int mask = 4; mask > 0; mask /= 2) v = function(v, shuffle_xor(v, mask));   \
        return v;                                                                        \
    }
COMBINE(combine_sum, sum)
COMBINE(combine_prod, product)
COMBINE(combine_max, greater)
COMBINE(combine_min, lesser)
