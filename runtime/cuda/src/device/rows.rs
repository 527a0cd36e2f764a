//! Rows of a weight as floats: a kernel that is loaded, and its launch.

use cudarc::driver::{CudaFunction, CudaSlice, DevicePtr, DevicePtrMut, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

use super::product::length;
use super::{Cache, Compiler, Device, DeviceError, Weight};
use crate::layout::{groups, plane_words};
use crate::{Arguments, CudaError, EmittedRows};

/// Threads of a block.
const THREADS: usize = 256;

/// A kernel in the device's memory.
#[derive(Debug)]
pub struct RowsProgram {
    emitted: EmittedRows,
    function: CudaFunction,
}

impl RowsProgram {
    /// Compiles a kernel, or takes it from the cache, and loads it.
    ///
    /// # Errors
    /// It does not compile, or the driver does not load it.
    pub fn compile(
        device: &Device,
        emitted: EmittedRows,
        compiler: &Compiler,
        cache: &Cache,
    ) -> Result<RowsProgram, DeviceError> {
        let cubin = cache.cubin(compiler, &emitted.name, &emitted.text, &device.architecture())?;
        let module = device.context().load_module(Ptx::from_binary(cubin));
        let module = module.map_err(DeviceError::driver("load a kernel"))?;
        let function = module.load_function(&emitted.name).map_err(DeviceError::driver("find a kernel"))?;
        Ok(RowsProgram { emitted, function })
    }

    /// The kernel.
    pub fn emitted(&self) -> &EmittedRows {
        &self.emitted
    }

    /// Puts `y [count, cols]`, f32, onto the device's stream: the rows that `indices`, i64 `[count]`, name (from the end where
    /// they are negative), or the first `count`. Where one names no row, the word at `fault` becomes 1 and that part of y
    /// stays what it was.
    ///
    /// # Errors
    /// Buffers that are too small, more rows than there are, planes that are not loaded, a launch that the driver refuses.
    ///
    /// # Safety
    /// `fault` is 0 or the address of a word of device memory that lives until the work is done.
    pub unsafe fn launch(
        &self,
        device: &Device,
        weight: &Weight,
        indices: Option<&CudaSlice<u8>>,
        count: usize,
        y: &mut CudaSlice<u8>,
        fault: u64,
    ) -> Result<(), DeviceError> {
        let (source, form) = (weight.source(), self.emitted.form);
        let (rows, cols) = (source.rows(), source.cols());
        weight.check(form, &self.emitted.name)?;
        let of_y = 4 * count * cols;
        length("y", "bytes", of_y, y.len().min(of_y))?;
        if let Some(indices) = indices {
            length("indices", "bytes", 8 * count, indices.len().min(8 * count))?;
        }
        let most = if indices.is_some() { i32::MAX as usize } else { rows };
        let blocks = (count * cols).div_ceil(THREADS);
        for (what, found, most) in [
            ("the number of rows", count, most),
            ("the number of columns", cols, i32::MAX as usize),
            ("the number of blocks", blocks, i32::MAX as usize),
        ] {
            if found > most {
                return Err(CudaError::TooLarge { what, found, most }.into());
            }
        }
        if blocks == 0 {
            return Ok(());
        }
        let [planes, scale, zero] = weight.addresses(device, form)?;
        let stream = device.stream();
        let arguments = Arguments {
            planes,
            scale,
            zero,
            x: indices.map_or(0, |indices| indices.device_ptr(stream).0),
            y: y.device_ptr_mut(stream).0,
            tickets: fault,
            plane_stride: (plane_words(rows, cols) / 4) as i64,
            rows: rows as i32,
            cols: cols as i32,
            tokens: count as i32,
            groups: groups(form.grouping, cols) as i32,
            ..Arguments::default()
        };
        let config = LaunchConfig {
            grid_dim: (blocks as u32, 1, 1),
            block_dim: (THREADS as u32, 1, 1),
            shared_mem_bytes: 0,
        };
        let mut launch = stream.launch_builder(&self.function);
        launch.arg(&arguments);
        // SAFETY: the kernel takes `Arguments` alone; every buffer is as large as the sizes ask for, `fault` is the caller's.
        unsafe { launch.launch(config) }.map_err(DeviceError::driver("launch a kernel"))?;
        Ok(())
    }
}
