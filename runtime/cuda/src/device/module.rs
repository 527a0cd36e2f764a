//! Kernels whose only arguments are addresses of device memory, loaded together.

use cudarc::driver::{CudaFunction, CudaSlice, DevicePtr, DeviceRepr, PushKernelArg};

use super::{Cache, Compiler, Device, DeviceError, config};
use crate::{CudaError, Launch};

/// Bytes of device memory.
pub type Buffer = CudaSlice<u8>;

/// What a kernel takes: `struct Arguments { void* at[SIZE]; }`, of one of these sizes.
pub const ADDRESSES: [usize; 3] = [16, 64, 480];

/// Kernels of one text.
#[derive(Debug)]
pub struct Module {
    functions: Vec<(CudaFunction, usize)>,
}

#[repr(C)]
struct Addresses<const N: usize>([u64; N]);

// SAFETY: so many addresses, in C's layout: what the kernels' structure `Arguments` is.
unsafe impl<const N: usize> DeviceRepr for Addresses<N> {}

impl Module {
    /// Compiles a text, or takes it from the cache, and loads its kernels: their names, and how many addresses each takes, one
    /// of [`ADDRESSES`]. `name` is that of the text in errors.
    ///
    /// # Errors
    /// It does not compile, or the driver does not load it.
    pub fn compile(
        device: &Device,
        (compiler, cache): (&Compiler, &Cache),
        name: &str,
        text: &str,
        kernels: &[(String, usize)],
    ) -> Result<Module, DeviceError> {
        let cubin = cache.cubin(compiler, name, text, &device.architecture())?;
        let module = device.load(cubin)?;
        let function = |(name, addresses): &(String, usize)| -> Result<(CudaFunction, usize), DeviceError> {
            let function = module.load_function(name).map_err(DeviceError::driver("find a kernel"))?;
            Ok((function, *addresses))
        };
        Ok(Module { functions: kernels.iter().map(function).collect::<Result<_, _>>()? })
    }

    /// Puts a kernel onto the device's stream, by its number in the list that the module was made with.
    ///
    /// # Errors
    /// A number that no kernel has, more addresses than it takes, a launch that the driver refuses. Errors of the work itself
    /// come with [`Device::finish`].
    ///
    /// # Safety
    /// Every address must be that of memory which is as large as the kernel reads or writes there, and lives until the work
    /// is done.
    pub unsafe fn launch(
        &self,
        device: &Device,
        kernel: usize,
        launch: Launch,
        addresses: &[u64],
    ) -> Result<(), DeviceError> {
        let (function, takes) = self.functions.get(kernel).ok_or(CudaError::NoKernel { number: kernel })?;
        let (found, most) = (addresses.len(), *takes);
        if found > most {
            return Err(CudaError::TooLarge { what: "the number of buffers of a kernel", found, most }.into());
        }
        // SAFETY: the caller's; the structure is of the size that the kernel takes.
        unsafe {
            match takes {
                16 => put::<16>(device, function, launch, addresses),
                64 => put::<64>(device, function, launch, addresses),
                _ => put::<480>(device, function, launch, addresses),
            }
        }
    }
}

/// # Safety
/// As [`Module::launch`], and the kernel takes so many addresses.
unsafe fn put<const N: usize>(
    device: &Device,
    function: &CudaFunction,
    launch: Launch,
    addresses: &[u64],
) -> Result<(), DeviceError> {
    let mut arguments = Addresses([0; N]);
    arguments.0[..addresses.len()].copy_from_slice(addresses);
    let mut builder = device.stream().launch_builder(function);
    builder.arg(&arguments);
    // SAFETY: the caller's.
    unsafe { builder.launch(config(launch)) }.map_err(DeviceError::driver("launch a kernel"))?;
    Ok(())
}

impl Device {
    /// Where a buffer lies.
    pub fn address(&self, buffer: &Buffer) -> u64 {
        buffer.device_ptr(self.stream()).0
    }

    /// Writes over the beginning of a buffer.
    ///
    /// # Errors
    /// More bytes than the buffer has, and a device that is lost.
    pub fn write(&self, from: &[u8], to: &mut Buffer) -> Result<(), DeviceError> {
        at_most(from.len(), to.len())?;
        if from.is_empty() {
            return Ok(());
        }
        self.stream().memcpy_htod(from, to).map_err(DeviceError::driver("copy to the device"))
    }

    /// The first bytes of a buffer, when all work before is done.
    ///
    /// # Errors
    /// More bytes than the buffer has, errors of the work before, and a device that is lost.
    pub fn read(&self, from: &Buffer, bytes: usize) -> Result<Vec<u8>, DeviceError> {
        at_most(bytes, from.len())?;
        if bytes == 0 {
            return Ok(vec![]);
        }
        let copied = self
            .stream()
            .clone_dtoh(&from.slice(0..bytes))
            .map_err(DeviceError::driver("copy from the device"))?;
        self.finish()?;
        Ok(copied)
    }

    /// Copies the first bytes of a buffer to those of another.
    ///
    /// # Errors
    /// More bytes than one of them has, and a device that is lost.
    pub fn copy_bytes(&self, from: &Buffer, to: &mut Buffer, bytes: usize) -> Result<(), DeviceError> {
        at_most(bytes, from.len().min(to.len()))?;
        if bytes == 0 {
            return Ok(());
        }
        let mut place = to.slice_mut(0..bytes);
        let copied = self.stream().memcpy_dtod(&from.slice(0..bytes), &mut place);
        copied.map_err(DeviceError::driver("copy on the device"))
    }
}

fn at_most(found: usize, most: usize) -> Result<(), CudaError> {
    if found <= most { Ok(()) } else { Err(CudaError::TooLarge { what: "the bytes to copy", found, most }) }
}
