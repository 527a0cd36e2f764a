//! Memory for resident planes: large mappings with huge pages, so that a stream of planes costs few page walks.
#![expect(unsafe_code, reason = "hands out disjoint parts of a mapping")]

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::{MmapMut, MmapOptions};

/// A huge page, and the alignment of mappings.
const HUGE: usize = 2 << 20;
/// Planes begin at multiples of this: a cache line.
const ALIGN: usize = 64;
/// Mappings are at least so large; what is not written does not become resident.
const MAPPING: usize = 16 * HUGE;
/// Addresses that differ by multiples of this share lines of a first-level cache.
pub const WAY: usize = 4096;

/// Allocates parts of large mappings; a mapping lives as long as any part of it. Cloning shares the allocator.
#[derive(Debug, Clone, Default)]
pub struct Pages {
    open: Arc<Mutex<Option<Open>>>,
    /// Each part ends where accessible memory ends.
    #[cfg(all(test, target_os = "linux"))]
    guarded: bool,
}

/// A mapping that still has room.
#[derive(Debug)]
struct Open {
    mapping: Arc<Mapping>,
    used: usize,
}

#[derive(Debug)]
struct Mapping {
    map: MmapMut,
    /// Where the first huge page begins.
    skip: usize,
}

// SAFETY: the mapping is only ever accessed through `Part`s, which do not overlap; its own fields are not written.
unsafe impl Sync for Mapping {}

/// Bytes that nobody else writes.
#[derive(Debug)]
pub struct Part {
    mapping: Arc<Mapping>,
    start: usize,
    len: usize,
}

impl Pages {
    /// `len` zero bytes, filled by `fill`, that begin `place` bytes, a multiple of 64, after a multiple of `WAY`, the size of a
    /// way of the first-level cache.
    ///
    /// # Errors
    /// The system has no memory left.
    pub fn filled(&self, len: usize, place: usize, fill: impl FnOnce(&mut [u8])) -> std::io::Result<Part> {
        let part = self.allocate(len, place % WAY / ALIGN * ALIGN)?;
        let base = part.mapping.base().wrapping_add(part.start).cast_mut();
        // SAFETY: `allocate` gives every range of a mapping once, so this part is not shared before it is returned, and the
        // mapping is readable, writable and as long as `allocate` checked.
        fill(unsafe { std::slice::from_raw_parts_mut(base, len) });
        Ok(part)
    }

    /// An allocator of parts after which memory cannot be accessed.
    #[cfg(all(test, target_os = "linux"))]
    pub fn guarded() -> Pages {
        Pages { guarded: true, ..Pages::default() }
    }

    fn allocate(&self, len: usize, place: usize) -> std::io::Result<Part> {
        #[cfg(all(test, target_os = "linux"))]
        if self.guarded {
            return Ok(Part { mapping: Arc::new(Mapping::guarded(len)?), start: 0, len });
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let size = len.next_multiple_of(ALIGN);
        if let Some(Open { mapping, used }) = open.as_mut() {
            let start = *used + (WAY + place - *used % WAY) % WAY;
            if start.checked_add(size).is_some_and(|end| end <= mapping.len()) {
                *used = start + size;
                return Ok(Part { mapping: mapping.clone(), start, len });
            }
        }
        let mapping = Arc::new(Mapping::new((place + size).max(MAPPING))?);
        let part = Part { mapping: mapping.clone(), start: place, len };
        *open = Some(Open { mapping, used: place + size });
        Ok(part)
    }
}

impl Mapping {
    fn new(len: usize) -> std::io::Result<Mapping> {
        let map = MmapOptions::new().len(len.next_multiple_of(HUGE) + HUGE).map_anon()?;
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage); // a system without huge pages is slower, not wrong
        let skip = map.as_ptr().align_offset(HUGE).min(HUGE);
        Ok(Mapping { map, skip })
    }

    /// `len` bytes with an inaccessible page after them.
    #[cfg(all(test, target_os = "linux"))]
    fn guarded(len: usize) -> std::io::Result<Mapping> {
        const GUARD: usize = 64 << 10;
        let end = len.next_multiple_of(GUARD);
        let mut map = MmapOptions::new().len(end + GUARD).map_anon()?;
        // SAFETY: the last page of this mapping, to which nothing refers.
        match unsafe { libc::mprotect(map[end..].as_mut_ptr().cast(), GUARD, libc::PROT_NONE) } {
            0 => Ok(Mapping { map, skip: end - len }),
            _ => Err(std::io::Error::last_os_error()),
        }
    }

    fn base(&self) -> *const u8 {
        self.map.as_ptr().wrapping_add(self.skip)
    }

    fn len(&self) -> usize {
        self.map.len() - self.skip
    }
}

impl Deref for Part {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the part lies inside the mapping, was written before it was returned and is not written again.
        unsafe { std::slice::from_raw_parts(self.mapping.base().wrapping_add(self.start), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_aligned_apart_and_keep_their_bytes() {
        let pages = Pages::default();
        let lens = [1, 63, 64, 65, 0, 5000, MAPPING + 1, 7];
        let parts: Vec<Part> = lens
            .iter()
            .enumerate()
            .map(|(i, &len)| pages.filled(len, 0, |bytes| bytes.fill(i as u8 + 1)).unwrap())
            .collect();
        for (i, (part, len)) in parts.iter().zip(lens).enumerate() {
            assert_eq!(part.len(), len);
            assert!(part.iter().all(|byte| *byte == i as u8 + 1));
            assert!(len == 0 || part.as_ptr().addr().is_multiple_of(ALIGN));
        }
    }

    #[test]
    fn parts_begin_at_their_places() {
        let pages = Pages::default();
        for len in [8 * WAY, 5000, MAPPING, 0] {
            for place in [0, 64, WAY / 2, WAY / 2, 0, WAY - 64] {
                let part = pages.filled(len, place, |_| {}).unwrap();
                assert!(len == 0 || part.as_ptr().addr() % WAY == place, "{len} at {place}");
            }
        }
    }

    #[test]
    fn new_memory_is_zero() {
        let part =
            Pages::default().filled(10_000, 0, |bytes| assert!(bytes.iter().all(|b| *b == 0))).unwrap();
        drop(part);
    }
}
