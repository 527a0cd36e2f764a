// The part of CUDA that the kernels use, in plain C++: what the prelude has as inline PTX, and the builtins.
#pragma once
#include <cmath>

#include "fibers.h"

#define MQC_SHIM
#define DEVICE static inline
// Besides the kernel what the stand-in for the driver calls: the size of its arguments, and a launch.
#define KERNEL(name, threads, blocks)                                                                    \
    static void name(const Arguments& a);                                                                \
    extern "C" size_t bytes_##name() { return sizeof(Arguments); }                                       \
    extern "C" void launch_##name(const void* a, unsigned x, unsigned y, unsigned many, unsigned shared) { \
        launch({x, y, 1}, many, shared, false, [=] { name(*(const Arguments*)a); });                     \
    }                                                                                                    \
    static void name(const Arguments& a)
#define DYNAMIC_SHARED(name) uint4* const name = (uint4*)block_.shared
#define threadIdx (block_.current->index)
#define blockIdx (block_.index)
#define gridDim (block_.grid)

struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
inline float __uint_as_float(uint32_t u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}
inline uint32_t __float_as_uint(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}
inline void __threadfence() {}
inline uint32_t atomicAdd(uint32_t* at, uint32_t v) {
    const uint32_t old = *at;
    *at += v;
    return old;
}

inline float f16_to_f32(uint16_t h) {
    _Float16 f;
    memcpy(&f, &h, 2);
    return (float)f;
}
inline uint16_t f32_to_f16(double v) {
    const _Float16 f = (_Float16)v;
    uint16_t h;
    memcpy(&h, &f, 2);
    return h;
}
inline uint16_t f32_to_bf16(float f) {
    const uint32_t u = __float_as_uint(f);
    if (f != f) return 0x7fff;
    return (u + 0x7fff + (u >> 16 & 1)) >> 16;
}

inline uint32_t bit_select(uint32_t a, uint32_t b, uint32_t mask) { return (a & mask) | (b & ~mask); }
inline uint32_t and_or(uint32_t a, uint32_t mask, uint32_t bits) { return (a & mask) | bits; }
inline uint32_t rotate_right(uint32_t a, int by) { return by == 0 ? a : a >> by | a << (32 - by); }
// A function of both halves of two pairs. f64 holds sums of two f16 exactly, so each result is rounded once.
template <class F> inline uint32_t map_pairs(uint32_t a, uint32_t b, F f) {
    const uint32_t low = f32_to_f16(f((double)f16_to_f32(a), (double)f16_to_f32(b)));
    return low | (uint32_t)f32_to_f16(f((double)f16_to_f32(a >> 16), (double)f16_to_f32(b >> 16))) << 16;
}
inline uint32_t add_pair(uint32_t a, uint32_t b) {
    return map_pairs(a, b, [](double x, double y) { return x + y; });
}
inline uint32_t halve_add_pair(uint32_t a, uint32_t b) {
    return map_pairs(a, b, [](double x, double y) { return x / 2 + y; });
}
inline uint32_t min_pair(uint32_t a, uint32_t b) {
    return map_pairs(a, b, [](double x, double y) { return x < y ? x : y; });
}
inline float half_of(uint32_t word, int which) { return f16_to_f32(which ? word >> 16 : word); }

// The order of sums inside of a tensor core is not defined: here they are exact until the last addition.
inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    const uint32_t in[6] = {a[0], a[1], a[2], a[3], b0, b1};
    const int lane = threadIdx.x % 32;
    const auto all = exchange_warp(in, 6);
    for (int i = 0; i < 4; i++) {
        const int row = lane / 4 + 8 * (i / 2), col = 2 * (lane % 4) + i % 2;
        double sum = c[i];
        for (int k = 0; k < 16; k++) {
            const auto& of_row = all[row % 8 * 4 + k % 8 / 2];
            const auto& of_col = all[col * 4 + k % 8 / 2];
            sum += (double)half_of(of_row[row / 8 + 2 * (k / 8)], k % 2) * (double)half_of(of_col[4 + k / 8], k % 2);
        }
        c[i] = (float)sum;
    }
}
inline void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    for (float& v : c) v = 0;
    multiply_add(c, a, b0, b1);
}
inline uint4 load_once(const uint4* p) { return *p; }
inline std::deque<std::vector<Copy>>& copies() {
    auto& all = block_.current->copies;
    if (all.empty()) all.emplace_back();
    return all;
}
inline void copy_async(uint4* to, const uint4* from) { copies().back().push_back({to, from}); }
inline void copy_commit() { copies().emplace_back(); }
template <int LEFT> inline void copy_wait() {
    for (auto& all = copies(); all.size() > LEFT + 1; all.pop_front())
        for (const Copy& copy : all.front()) memcpy(copy.to, copy.from, 16);
}
inline float shuffle_xor(float v, int mask) {
    const uint32_t in = __float_as_uint(v);
    return __uint_as_float(exchange_warp(&in, 1)[(threadIdx.x % 32) ^ mask][0]);
}

// Products of four warps. Shared memory begins at address 0, at a multiple of the unit of the swizzle.
inline uint32_t shared_address(const void* p) { return (const char*)p - block_.shared; }
inline void shared_fence() {}
inline void group_fence() {}
inline void group_commit() {}
inline void group_wait(float (&)[16][4]) {}
inline void group_multiply_add(float (&d)[16][4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint64_t b, int add) {
    // Rows of 128 bytes in units of eight, the first unit's distance to the next 1024 bytes, swizzled by 128 bytes.
    if (b >> 62 != 1 || (b >> 32 & 0x3fff) != 64) shim_fail("an operand in shared memory of another form");
    const uint32_t in[4] = {a0, a1, a2, a3}, start = (b & 0x3fff) << 4;
    const int thread = threadIdx.x % 128, lane = thread % 32, warp = thread / 32;
    const auto all = exchange_group(in, 4);
    double rows[2][16];
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < 16; k++) rows[i][k] = half_of(all[32 * warp + lane / 4 * 4 + k % 8 / 2][i + 2 * (k / 8)], k % 2);
    for (int column = 0; column < 128; column++) {
        if (column % 8 / 2 != lane % 4) continue;
        double sum[2] = {};
        for (int k = 0; k < 16; k++) {
            const uint32_t at = start + column / 8 * 1024 + column % 8 * 128 + 2 * k;
            uint16_t h;
            memcpy(&h, block_.shared + (at ^ (at >> 7 & 7) << 4), 2);
            const double x = f16_to_f32(h);
            sum[0] += rows[0][k] * x, sum[1] += rows[1][k] * x;
        }
        for (int i = 0; i < 2; i++) {
            float& v = d[column / 8][2 * i + column % 2];
            v = (float)((add ? (double)v : 0.0) + sum[i]);
        }
    }
}
