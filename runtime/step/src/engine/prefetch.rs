//! Asks for memory before it is read: blocks end at pages, where the processor stops doing so by itself.
#![expect(unsafe_code, reason = "the intrinsic takes a pointer")]

/// Asks for the elements of a slice.
#[inline(always)]
pub(super) fn prefetch<T>(values: &[T]) {
    #[cfg(target_arch = "x86_64")]
    {
        let base = values.as_ptr().cast::<i8>();
        for offset in (0..size_of_val(values)).step_by(64) {
            // SAFETY: a prefetch reads nothing; the address lies within the slice.
            unsafe {
                std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(base.add(offset))
            };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = values;
}
