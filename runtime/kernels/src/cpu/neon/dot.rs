//! Sums of products of bytes: one instruction where the processor has it.

use std::arch::aarch64::*;

/// `sum + a * b`, four products to a lane; exact.
pub(super) trait Dot {
    /// # Safety
    /// The processor has what the implementation says.
    unsafe fn dot(sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t;
}

/// With the dot product instructions.
pub(super) struct Dotprod;

/// With what every processor has.
pub(super) struct Baseline;

impl Dot for Dotprod {
    #[inline(always)]
    unsafe fn dot(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
        // SAFETY: the caller has checked for the instruction, which reads and writes these registers only. Its intrinsic
        // is not in stable Rust.
        unsafe {
            std::arch::asm!(
                ".arch_extension dotprod",
                "sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b",
                sum = inout(vreg) sum,
                a = in(vreg) a,
                b = in(vreg) b,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        sum
    }
}

impl Dot for Baseline {
    #[inline(always)]
    unsafe fn dot(sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
        // SAFETY: every processor of this architecture has NEON.
        unsafe {
            let low = vpaddlq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b)));
            let high = vpaddlq_s16(vmull_high_s8(a, b));
            vaddq_s32(sum, vpaddq_s32(low, high))
        }
    }
}
