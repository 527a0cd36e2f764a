//! Rows of a weight as floats: a kernel that is loaded, and its launch.

use cudarc::driver::{CudaFunction, CudaSlice, DevicePtr, DevicePtrMut, PushKernelArg};

use super::product::length;
use super::{Cache, Compiler, Device, DeviceError, Weight, config};
use crate::layout::{groups, plane_words};
use crate::{Arguments, CudaError, EmittedRows, Launch};

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
        let module = device.load(cubin)?;
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
        // All sizes of the kernel's arguments are i32.
        let any = i32::MAX as usize;
        let most = if indices.is_some() { any } else { rows };
        let blocks = (count * cols).div_ceil(THREADS);
        for (what, found, most) in [
            ("the number of rows", rows, any),
            ("the number of rows that are read", count, most),
            ("the number of columns", cols, any),
            ("the number of blocks", blocks, any),
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
        let planned = Launch { grid: [blocks as u32, 1], threads: THREADS as u32, shared_bytes: 0 };
        let mut launch = stream.launch_builder(&self.function);
        launch.arg(&arguments);
        // SAFETY: the kernel takes `Arguments` alone; every buffer is as large as the sizes ask for, `fault` is the caller's.
        unsafe { launch.launch(config(planned)) }.map_err(DeviceError::driver("launch a kernel"))?;
        Ok(())
    }
}
