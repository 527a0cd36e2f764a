//! A device: probed, its kernels compiled and kept, weights held in its memory plane by plane, products launched.
//!
//! The driver and the compiler are opened when they are first needed. That they are missing is an error with the reason,
//! so one program runs with and without a device.

#![allow(unsafe_code, reason = "the driver and the compiler are C libraries")]

mod blas;
mod cache;
mod error;
mod graph;
mod memory;
mod module;
mod nvrtc;
mod product;
mod rows;

use std::sync::Arc;

pub use blas::{Blas, Gemm, Side};
pub use cache::Cache;
use cudarc::driver::sys::{CUdevice_attribute, CUresult};
use cudarc::driver::{
    CudaContext, CudaModule, CudaSlice, CudaStream, DeviceRepr, LaunchConfig, ValidAsZeroBits, result, sys,
};
use cudarc::nvrtc::Ptx;
pub use error::DeviceError;
pub use graph::Graph;
pub use memory::{OutOfMemory, Weight, Weights};
pub use module::{ADDRESSES, Buffer, Module};
pub use nvrtc::{CompileError, Compiler, Image};
pub use product::{Operands, Program, Workspace};
pub use rows::RowsProgram;

use crate::{CudaError, Launch, Target};

/// A device that is open, and the stream on which all work is done in its order.
#[derive(Debug)]
pub struct Device {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    name: String,
    capability: (u32, u32),
    multiprocessors: usize,
    shared_limit: usize,
}

impl Device {
    /// Opens the device of a number, counted from 0.
    ///
    /// # Errors
    /// No driver, no such device, a device that no kernel is written for, or a driver that is older than the kernels.
    pub fn open(ordinal: usize) -> Result<Device, DeviceError> {
        // SAFETY: it loads the driver's library, whose initialisers have no conditions, and closes it again.
        if !unsafe { sys::is_culib_present() } {
            return Err(DeviceError::NoDriver);
        }
        let found = count()?;
        if ordinal >= found {
            return Err(DeviceError::Ordinal { asked: ordinal, found });
        }
        let context = CudaContext::new(ordinal).map_err(DeviceError::driver("open the device"))?;
        let name = context.name().map_err(DeviceError::driver("name the device"))?;
        let attribute = |attribute| -> Result<u32, DeviceError> {
            let value = context.attribute(attribute).map_err(DeviceError::driver("describe the device"))?;
            Ok(value.unsigned_abs())
        };
        let major = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        if major < 8 {
            return Err(DeviceError::Architecture { name, major, minor });
        }
        check_driver()?;
        let multiprocessors = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let shared = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        // SAFETY: all slices are made, used and freed on the one stream below, which keeps the order.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(DeviceError::driver("make a stream"))?;
        Ok(Device {
            context,
            stream,
            name,
            capability: (major, minor),
            multiprocessors: multiprocessors as usize,
            shared_limit: shared as usize,
        })
    }

    /// What the driver calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The features that kernels may use on it.
    pub fn target(&self) -> Target {
        // The features of 9.0a are those of no other device, later ones included.
        if self.capability == (9, 0) { Target::Sm90a } else { Target::Sm80 }
    }

    /// What kernels for it are compiled for.
    pub fn architecture(&self) -> String {
        match self.target() {
            Target::Sm90a => Target::Sm90a.to_string(),
            Target::Sm80 => format!("sm_{}{}", self.capability.0, self.capability.1),
        }
    }

    /// Its multiprocessors.
    pub fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    /// Bytes of shared memory that a block may ask for.
    pub fn shared_limit(&self) -> usize {
        self.shared_limit
    }

    /// The stream of all work.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Memory of zeros; `what` names it in errors.
    ///
    /// # Errors
    /// No room, or a device that is lost.
    pub fn zeros<T: DeviceRepr + ValidAsZeroBits>(
        &self,
        what: &str,
        len: usize,
    ) -> Result<CudaSlice<T>, DeviceError> {
        let needed = (len.max(1) * size_of::<T>()) as u64;
        self.stream.alloc_zeros(len.max(1)).map_err(|error| match error.0 {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                let (free, total) = self.context.mem_get_info().unwrap_or_default();
                let (free, total) = (free as u64, total as u64);
                DeviceError::Memory(OutOfMemory {
                    what: what.to_owned(),
                    needed,
                    free,
                    total,
                    held: [0; 8],
                    read: 8,
                })
            }
            _ => DeviceError::driver("allocate memory")(error),
        })
    }

    /// A copy of host memory.
    ///
    /// # Errors
    /// As `zeros`.
    pub fn upload<T: DeviceRepr + ValidAsZeroBits>(
        &self,
        what: &str,
        from: &[T],
    ) -> Result<CudaSlice<T>, DeviceError> {
        let mut to = self.zeros(what, from.len())?;
        if !from.is_empty() {
            self.stream.memcpy_htod(from, &mut to).map_err(DeviceError::driver("copy to the device"))?;
        }
        Ok(to)
    }

    /// A copy of device memory, when all work before is done.
    ///
    /// # Errors
    /// Those of the work before, and a device that is lost.
    pub fn download<T: DeviceRepr>(&self, from: &CudaSlice<T>) -> Result<Vec<T>, DeviceError> {
        let copied = self.stream.clone_dtoh(from).map_err(DeviceError::driver("copy from the device"))?;
        self.finish()?;
        Ok(copied)
    }

    /// Copies device memory to device memory of the same length.
    ///
    /// # Errors
    /// Another length, and a device that is lost.
    pub fn copy<T: DeviceRepr>(&self, from: &CudaSlice<T>, to: &mut CudaSlice<T>) -> Result<(), DeviceError> {
        let (expected, found) = (from.len(), to.len());
        if expected != found {
            return Err(CudaError::Length { what: "a copy", unit: "values", expected, found }.into());
        }
        self.stream.memcpy_dtod(from, to).map_err(DeviceError::driver("copy on the device"))
    }

    /// Waits until all work is done.
    ///
    /// # Errors
    /// Those of the work, and a device that is lost.
    pub fn finish(&self) -> Result<(), DeviceError> {
        self.stream.synchronize().map_err(DeviceError::driver("finish"))
    }

    /// Loads machine code.
    fn load(&self, cubin: Vec<u8>) -> Result<Arc<CudaModule>, DeviceError> {
        self.context.load_module(Ptx::from_binary(cubin)).map_err(DeviceError::driver("load a kernel"))
    }
}

/// A launch as the driver takes it.
fn config(Launch { grid, threads, shared_bytes }: Launch) -> LaunchConfig {
    LaunchConfig {
        grid_dim: (grid[0], grid[1], 1),
        block_dim: (threads, 1, 1),
        shared_mem_bytes: shared_bytes,
    }
}

/// Devices that the driver shows.
fn count() -> Result<usize, DeviceError> {
    let counted = result::init().and_then(|()| result::device::get_count());
    match counted {
        Ok(0) => Err(DeviceError::NoDevice(None)),
        Ok(found) => Ok(found.unsigned_abs() as usize),
        Err(error) if error.0 == CUresult::CUDA_ERROR_NO_DEVICE => Err(DeviceError::NoDevice(None)),
        Err(error) => Err(DeviceError::NoDevice(Some(error.to_string()))),
    }
}

/// Whether the driver runs what the compiler makes.
fn check_driver() -> Result<(), DeviceError> {
    let mut version = 0;
    // SAFETY: the pointer is to an integer that lives on.
    unsafe { sys::cuDriverGetVersion(&mut version) }
        .result()
        .map_err(DeviceError::driver("say its version"))?;
    // 1000 major + 10 minor.
    let (major, minor) = (version / 1000, version % 1000 / 10);
    if i64::from(major) >= i64::from(nvrtc::MAJOR) {
        Ok(())
    } else {
        Err(DeviceError::OldDriver { found: format!("{major}.{minor}") })
    }
}
