//! Every buffer ends where accessible memory ends, so that a kernel that goes past one stops the process.
#![expect(unsafe_code, reason = "an allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

const PAGE: usize = 64 << 10;
/// Addresses that are reserved; none is used twice.
const REGION: usize = 32 << 30;

/// The system's allocator but on threads that ask for guarded memory.
struct Guarded {
    used: AtomicUsize,
}

#[global_allocator]
static ALLOCATOR: Guarded = Guarded { used: AtomicUsize::new(0) };

thread_local! {
    static GUARD: Cell<bool> = const { Cell::new(false) };
}

/// The first address of the region.
fn region() -> usize {
    static BASE: OnceLock<usize> = OnceLock::new();
    *BASE.get_or_init(|| {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping; nothing may access it yet.
        let base = unsafe { libc::mmap(null_mut(), REGION, libc::PROT_NONE, flags, -1, 0) };
        if base == libc::MAP_FAILED { 0 } else { base.addr().next_multiple_of(PAGE) }
    })
}

// SAFETY: parts of the region are handed out once, aligned and as long as asked; the rest is the system's allocator.
unsafe impl GlobalAlloc for Guarded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !GUARD.get() || layout.align() > PAGE {
            // SAFETY: as the caller says.
            return unsafe { System.alloc(layout) };
        }
        let size = layout.size().next_multiple_of(PAGE);
        let at = self.used.fetch_add(size + PAGE, Ordering::Relaxed);
        if region() == 0 || at + size + 2 * PAGE > REGION {
            return null_mut();
        }
        let pages = std::ptr::with_exposed_provenance_mut::<u8>(region() + at);
        // SAFETY: inside the region, and nobody else's.
        if unsafe { libc::mprotect(pages.cast(), size, libc::PROT_READ | libc::PROT_WRITE) } != 0 {
            return null_mut();
        }
        pages.wrapping_add((size - layout.size()) / layout.align() * layout.align())
    }

    unsafe fn dealloc(&self, bytes: *mut u8, layout: Layout) {
        if region() == 0 || !(region()..region() + REGION).contains(&bytes.addr()) {
            // SAFETY: then it came from the system.
            return unsafe { System.dealloc(bytes, layout) };
        }
        let pages = bytes.wrapping_sub(bytes.addr() % PAGE);
        let size = layout.size().next_multiple_of(PAGE);
        // SAFETY: the pages of this allocation; nobody has it any more.
        unsafe {
            libc::madvise(pages.cast(), size, libc::MADV_DONTNEED);
            libc::mprotect(pages.cast(), size, libc::PROT_NONE);
        }
    }
}

/// Whether a byte can be read, as the kernel says when it is to write it to a pipe.
fn readable(address: usize) -> bool {
    let mut ends = [0; 2];
    // SAFETY: the system checks the address; the pipe is closed again.
    unsafe {
        assert_eq!(libc::pipe(ends.as_mut_ptr()), 0);
        let written = libc::write(ends[1], std::ptr::with_exposed_provenance(address), 1);
        ends.into_iter().for_each(|end| assert_eq!(libc::close(end), 0));
        written == 1
    }
}

#[test]
fn guarded_memory_ends_with_the_buffer() {
    GUARD.set(true);
    let bytes = Box::new([7u8; 100]);
    let floats = Box::new([1.0f32; 3]);
    GUARD.set(false);
    for end in [bytes.as_ptr_range().end.addr(), floats.as_ptr_range().end.addr()] {
        assert_eq!(end % PAGE, 0);
        assert!(!readable(end) && readable(end - 1));
    }
    let part = Pages::guarded().filled(130, 0, |bytes| bytes.fill(3)).unwrap();
    let end = part.as_ptr_range().end.addr();
    assert!(!readable(end) && readable(end - 1));
    assert!(part.iter().all(|byte| *byte == 3));
}

#[test]
fn kernels_stay_inside_their_buffers() {
    let shapes = [(1, 1, 1), (3, 31, 2), (5, 33, 1), (17, 290, 7), (4, 512, 1), (18, 1000, 2), (9, 523, 17)];
    let activations = [Activations::F32, Activations::Int16, Activations::Int8, Activations::Int8Group(32)];
    for isa in Isa::available() {
        for (rows, cols, tokens) in shapes {
            for (i, activations) in activations.into_iter().enumerate() {
                for group in [0, 8, 40, 128] {
                    let mode = [SliceMode::Midpoint, SliceMode::Round, SliceMode::Extra][(i + rows) % 3];
                    let grouping = Grouping::group(group).unwrap();
                    let case = Case { mode, grouping, ..example(rows, cols, tokens, activations) };
                    // A thread of its own, because threads keep their scratch memory.
                    std::thread::scope(|scope| {
                        scope.spawn(|| {
                            GUARD.set(true);
                            case.check_in(isa, &Pages::guarded()).unwrap();
                            GUARD.set(false);
                        });
                    });
                }
            }
        }
    }
}
