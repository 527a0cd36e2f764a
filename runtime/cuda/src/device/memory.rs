//! Weights in device memory: of each the leading planes that were asked for, loaded once.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::{CudaSlice, DevicePtr};
use mqc_ir::quant::Width;
use mqc_kernels::nested::NestedWeight;

use super::{Device, DeviceError};
use crate::layout::{permute, permute_map, plane_words};
use crate::{CudaError, Form, TooFewPlanes};

/// All weights of a model.
#[derive(Debug)]
pub struct Weights {
    device: Arc<Device>,
    weights: Vec<Weight>,
}

/// One weight.
#[derive(Debug)]
pub struct Weight {
    source: NestedWeight,
    held: usize,
    planes: Option<CudaSlice<u32>>,
    maps: Vec<Map>,
}

#[derive(Debug)]
struct Map {
    /// The widest of the widths that use it.
    widest: Width,
    scale: CudaSlice<f32>,
    zero: CudaSlice<f32>,
}

impl Weights {
    /// No weights yet.
    pub fn new(device: Arc<Device>) -> Weights {
        Weights { device, weights: vec![] }
    }

    /// Adds a weight and uploads its scales and zeros. Returns its number.
    ///
    /// # Errors
    /// No room for them.
    pub fn add(&mut self, source: NestedWeight) -> Result<usize, DeviceError> {
        let (rows, cols, grouping) = (source.rows(), source.cols(), source.grouping());
        let mut maps = vec![];
        for (widest, map) in source.maps() {
            let upload = |what, values| -> Result<CudaSlice<f32>, DeviceError> {
                self.device.upload(what, &permute_map(values, grouping, rows, cols)?)
            };
            let scale = upload("the scales of a weight", map.scale.as_slice())?;
            let zero = upload("the zeros of a weight", map.zero.as_slice())?;
            maps.push(Map { widest, scale, zero });
        }
        self.weights.push(Weight { source, held: 0, planes: None, maps });
        Ok(self.weights.len() - 1)
    }

    /// A weight by its number.
    pub fn get(&self, number: usize) -> Option<&Weight> {
        self.weights.get(number)
    }

    /// Uploads the planes of a weight that a width reads and that are not there yet.
    ///
    /// # Errors
    /// A number that no weight has, a width that the weight has no planes for, no room (which says how much was needed and
    /// which planes could be dropped).
    pub fn load(&mut self, number: usize, width: Width) -> Result<(), DeviceError> {
        let weight = self.weights.get(number).ok_or(CudaError::NoWeight { number })?;
        let read = weight.source.mode().planes_read(width);
        let missing = weight.missing(read)?;
        if missing.is_empty() {
            return Ok(());
        }
        let planes =
            weight.grown(&self.device, missing.end).map_err(|error| self.with_advice(error, read))?;
        let weight = &mut self.weights[number];
        (weight.planes, weight.held) = (Some(planes), read);
        Ok(())
    }

    /// Drops the planes of all weights from number `planes` on, to make room. Those before are uploaded again, since a copy on
    /// the device would need room first.
    ///
    /// # Errors
    /// A device that is lost.
    pub fn keep(&mut self, planes: usize) -> Result<(), DeviceError> {
        for weight in self.weights.iter_mut().filter(|weight| weight.held > planes) {
            (weight.planes, weight.held) = (None, 0);
            if planes > 0 {
                weight.planes = Some(weight.grown(&self.device, planes)?);
                weight.held = planes;
            }
        }
        Ok(())
    }

    /// Bytes that are held of each plane.
    pub fn held(&self) -> [u64; 8] {
        std::array::from_fn(|plane| {
            let holders = self.weights.iter().filter(|weight| weight.held > plane);
            holders.map(|weight| 4 * weight.plane_words() as u64).sum()
        })
    }

    fn with_advice(&self, error: DeviceError, read: usize) -> DeviceError {
        match error {
            DeviceError::Memory(memory) => {
                DeviceError::Memory(OutOfMemory { held: self.held(), read, ..memory })
            }
            other => other,
        }
    }
}

impl Weight {
    /// As it is on the host.
    pub fn source(&self) -> &NestedWeight {
        &self.source
    }

    /// Leading planes that are on the device.
    pub fn held(&self) -> usize {
        self.held
    }

    /// That the weight is of the mode and grouping that a kernel reads.
    pub(super) fn check(&self, form: Form, kernel: &str) -> Result<(), CudaError> {
        let (mode, grouping) = (self.source.mode(), self.source.grouping());
        if (form.mode, form.grouping) == (mode, grouping) {
            return Ok(());
        }
        Err(CudaError::Description { kernel: kernel.to_owned(), found: format!("{mode} and {grouping:?}") })
    }

    /// Where the planes, the scales and the zeros lie that a width reads.
    pub(super) fn addresses(&self, device: &Device, form: Form) -> Result<[u64; 3], CudaError> {
        let Some((planes, scale, zero)) = self.parts(form.width) else {
            return Err(TooFewPlanes { read: form.mode.planes_read(form.width), stored: self.held }.into());
        };
        let stream = device.stream();
        Ok([planes.device_ptr(stream).0, scale.device_ptr(stream).0, zero.device_ptr(stream).0])
    }

    /// The planes, and the scales and zeros that a width uses.
    fn parts(&self, width: Width) -> Option<(&CudaSlice<u32>, &CudaSlice<f32>, &CudaSlice<f32>)> {
        // From wide to narrow: the last that is wide enough is the nearest.
        let map = self.maps.iter().rev().find(|map| map.widest >= width)?;
        let held = self.held >= self.source.mode().planes_read(width);
        Some((self.planes.as_ref().filter(|_| held)?, &map.scale, &map.zero))
    }

    fn plane_words(&self) -> usize {
        plane_words(self.source.rows(), self.source.cols())
    }

    /// The planes to upload before `read` are there.
    fn missing(&self, read: usize) -> Result<Range<usize>, CudaError> {
        let stored = self.source.planes().len();
        if read > stored {
            return Err(TooFewPlanes { read, stored }.into());
        }
        Ok(self.held.min(read)..read)
    }

    /// A buffer of `count` planes: those that are there copied on the device, the others uploaded. They must lie at equal
    /// distances, so a buffer does not grow in its place.
    fn grown(&self, device: &Device, count: usize) -> Result<CudaSlice<u32>, DeviceError> {
        let (rows, cols, words) = (self.source.rows(), self.source.cols(), self.plane_words());
        let mut grown = device.zeros("the planes of a weight", count * words)?;
        let stream = device.stream();
        if let Some(planes) = &self.planes {
            let mut there = grown.slice_mut(0..self.held * words);
            stream.memcpy_dtod(planes, &mut there).map_err(DeviceError::driver("copy planes"))?;
        }
        for plane in self.held..count {
            let words_of_plane = permute(&self.source.planes()[plane], plane, rows, cols)?;
            let mut place = grown.slice_mut(plane * words..(plane + 1) * words);
            stream.memcpy_htod(&words_of_plane, &mut place).map_err(DeviceError::driver("upload a plane"))?;
        }
        Ok(grown)
    }
}

/// No room on the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutOfMemory {
    /// What is to be stored.
    pub what: String,
    /// Bytes that it needs.
    pub needed: u64,
    /// Bytes that are free.
    pub free: u64,
    /// Bytes that the device has.
    pub total: u64,
    /// Bytes that are held of each plane of all weights.
    pub held: [u64; 8],
    /// Leading planes that the width reads which is wanted.
    pub read: usize,
}

impl OutOfMemory {
    /// The planes whose loss would make room: as few as do, else all that the width does not read.
    fn droppable(&self) -> Option<(Range<usize>, u64)> {
        let end = self.held.iter().rposition(|bytes| *bytes > 0)? + 1;
        let freed = |from: usize| self.held[from..end].iter().sum::<u64>();
        let enough = (self.read..end).rev().find(|from| self.free + freed(*from) >= self.needed);
        let from = enough.unwrap_or(self.read);
        (from < end).then(|| (from..end, freed(from)))
    }
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let OutOfMemory { what, needed, free, total, .. } = self;
        write!(
            f,
            "out of device memory: {:.1} MiB for {what}, {:.1} of {:.1} MiB are free; ",
            mib(*needed),
            mib(*free),
            mib(*total)
        )?;
        match self.droppable() {
            Some((planes, freed)) => {
                match planes.len() {
                    1 => write!(f, "dropping bit plane {}", planes.start)?,
                    _ => write!(f, "dropping bit planes {} to {}", planes.start, planes.end - 1)?,
                }
                write!(f, " of all weights frees {:.1} MiB", mib(freed))
            }
            None => f.write_str("no bit plane is held that is not read: a lower width needs fewer"),
        }
    }
}

impl std::error::Error for OutOfMemory {}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(needed: u64, free: u64, held: [u64; 8], read: usize) -> OutOfMemory {
        OutOfMemory { what: "the planes of a weight".to_owned(), needed, free, total: 1 << 30, held, read }
    }

    #[test]
    fn says_how_much_was_needed_and_which_planes_could_be_dropped() {
        let full = memory(12 << 20, 1 << 20, [8 << 20; 8], 2);
        assert_eq!(
            full.to_string(),
            "out of device memory: 12.0 MiB for the planes of a weight, 1.0 of 1024.0 MiB are free; dropping bit planes 6 to \
             7 of all weights frees 16.0 MiB"
        );
        // Planes that are read are never named, even where dropping the others is not enough.
        assert_eq!(memory(12 << 20, 0, [8 << 20; 8], 7).droppable(), Some((7..8, 8 << 20)));
        let mut four = [0; 8];
        four[..4].fill(8 << 20);
        assert_eq!(memory(12 << 20, 0, four, 3).droppable(), Some((3..4, 8 << 20)));
        for nothing in [memory(1, 0, four, 4), memory(1, 0, [0; 8], 0)] {
            assert!(nothing.to_string().ends_with("a lower width needs fewer"), "{nothing}");
        }
    }
}
