#ifndef MQC_SHIM
#define MQC_FOUR(d) "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
// d += a b, or d = a b where `add` is 0: a, 64 x 16, lies in the registers of four warps, b, 16 x 128, in shared memory.
DEVICE void group_multiply_add(float (&d)[16][4], u32 a0, u32 a1, u32 a2, u32 a3, u64 b, int add) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
        "{%64, %65, %66, %67}, %68, p, 1, 1, 0;\n}"
        : MQC_FOUR(d[0]), MQC_FOUR(d[1]), MQC_FOUR(d[2]), MQC_FOUR(d[3]),
          MQC_FOUR(d[4]), MQC_FOUR(d[5]), MQC_FOUR(d[6]), MQC_FOUR(d[7]),
          MQC_FOUR(d[8]), MQC_FOUR(d[9]), MQC_FOUR(d[10]), MQC_FOUR(d[11]),
          MQC_FOUR(d[12]), MQC_FOUR(d[13]), MQC_FOUR(d[14]), MQC_FOUR(d[15])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b), "r"(add));
}
// Before the first product and after registers of one have changed; after the last of those that are waited for together.
DEVICE void group_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void group_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
DEVICE void group_wait(float (&d)[16][4]) {
    asm volatile("wgmma.wait_group.sync.aligned 0;"
        : MQC_FOUR(d[0]), MQC_FOUR(d[1]), MQC_FOUR(d[2]), MQC_FOUR(d[3]),
          MQC_FOUR(d[4]), MQC_FOUR(d[5]), MQC_FOUR(d[6]), MQC_FOUR(d[7]),
          MQC_FOUR(d[8]), MQC_FOUR(d[9]), MQC_FOUR(d[10]), MQC_FOUR(d[11]),
          MQC_FOUR(d[12]), MQC_FOUR(d[13]), MQC_FOUR(d[14]), MQC_FOUR(d[15])
        :: "memory");
}
// What this thread wrote to shared memory is seen by the tensor cores after the next barrier.
DEVICE void shared_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
DEVICE u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
#endif

// Rows of 128 bytes, eight of them a unit of 1024, 16-byte pieces exchanged by the number of the row (128-byte swizzle).
DEVICE u64 describe(const void* p) { return (u64)(shared_address(p) >> 4 & 0x3fff) | 1ull << 16 | 64ull << 32 | 1ull << 62; }
