//! A product on the device: a kernel that is loaded, and its launch.

use cudarc::driver::sys::CUfunction_attribute;
use cudarc::driver::{
    CudaFunction, CudaSlice, DevicePtr, DevicePtrMut, DeviceRepr, PushKernelArg, ValidAsZeroBits,
};

use super::{Cache, Compiler, Device, DeviceError, Weight, config};
use crate::{Arguments, CudaError, Emitted, Plan, Problem};

// SAFETY: 11 addresses, an i64 and 4 i32, in C's layout: what the kernels' structure of the same name is.
unsafe impl DeviceRepr for Arguments {}

/// A kernel in the device's memory.
#[derive(Debug)]
pub struct Program {
    emitted: Emitted,
    main: CudaFunction,
    prepare: Option<CudaFunction>,
}

/// What a product reads besides its weight: bytes of the kernel's type of activations.
#[derive(Debug, Clone, Copy)]
pub struct Operands<'a> {
    /// [tokens, cols]
    pub x: &'a CudaSlice<u8>,
    /// `[rows]` in f32, whatever the type of activations, where the epilogue has it.
    pub bias: Option<&'a CudaSlice<u8>>,
    /// [tokens, rows], where the epilogue has it.
    pub gate: Option<&'a CudaSlice<u8>>,
    /// [tokens, rows], where the epilogue has it.
    pub residual: Option<&'a CudaSlice<u8>>,
}

/// Memory that launches use and leave to the next. Of one stream.
#[derive(Debug, Default)]
pub struct Workspace {
    partial: Option<CudaSlice<f32>>,
    tickets: Option<CudaSlice<u32>>,
    prepared: Option<CudaSlice<u8>>,
}

impl Workspace {
    /// Elements of its parts. As long as they stay, launches that were recorded stay right.
    pub fn lengths(&self) -> [usize; 3] {
        let Workspace { partial, tickets, prepared } = self;
        let words = |part: &Option<CudaSlice<u32>>| part.as_ref().map_or(0, CudaSlice::len);
        [
            partial.as_ref().map_or(0, CudaSlice::len),
            words(tickets),
            prepared.as_ref().map_or(0, CudaSlice::len),
        ]
    }
}

impl Program {
    /// Compiles a kernel, or takes it from the cache, and loads it.
    ///
    /// # Errors
    /// It does not compile, or the driver does not load it.
    pub fn compile(
        device: &Device,
        emitted: Emitted,
        compiler: &Compiler,
        cache: &Cache,
    ) -> Result<Program, DeviceError> {
        let cubin = cache.cubin(compiler, &emitted.name, &emitted.text, &device.architecture())?;
        Program::load(device, emitted, cubin)
    }

    /// Loads the machine code of a kernel.
    ///
    /// # Errors
    /// The driver does not load it.
    pub fn load(device: &Device, emitted: Emitted, cubin: Vec<u8>) -> Result<Program, DeviceError> {
        let module = device.load(cubin)?;
        let function = |name: &str| -> Result<CudaFunction, DeviceError> {
            let function = module.load_function(name).map_err(DeviceError::driver("find a kernel"))?;
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let most = i32::try_from(device.shared_limit()).unwrap_or(i32::MAX);
            function.set_attribute(attribute, most).map_err(DeviceError::driver("allow shared memory"))?;
            Ok(function)
        };
        let main = function(&emitted.name)?;
        let prepare = emitted.prepare.as_deref().map(function).transpose()?;
        Ok(Program { emitted, main, prepare })
    }

    /// The kernel.
    pub fn emitted(&self) -> &Emitted {
        &self.emitted
    }

    /// Puts `y = epilogue(x w^T)` for so many tokens onto the device's stream.
    ///
    /// # Errors
    /// Operands of other sizes than the weight and the number of tokens ask for, planes that are not loaded, no room for the
    /// workspace, a launch that the driver refuses. Errors of the work itself come with [`Device::finish`].
    pub fn launch(
        &self,
        device: &Device,
        weight: &Weight,
        operands: &Operands<'_>,
        tokens: usize,
        y: &mut CudaSlice<u8>,
        workspace: &mut Workspace,
    ) -> Result<(), DeviceError> {
        let (rows, cols) = (weight.source().rows(), weight.source().cols());
        self.check(weight, operands, tokens, y)?;
        let (multiprocessors, shared_limit) = (device.multiprocessors(), device.shared_limit());
        let problem = Problem { rows, cols, tokens, multiprocessors, shared_limit };
        let plan = Plan::new(&self.emitted, &problem)?;
        let kernel = &self.emitted.kernel;
        let [planes, scale, zero] = weight.addresses(device, kernel.form())?;
        let stream = device.stream();
        let arguments = Arguments {
            planes,
            scale,
            zero,
            x: operands.x.device_ptr(stream).0,
            y: y.device_ptr_mut(stream).0,
            bias: operands.bias.map_or(0, |bias| bias.device_ptr(stream).0),
            gate: operands.gate.map_or(0, |gate| gate.device_ptr(stream).0),
            residual: operands.residual.map_or(0, |residual| residual.device_ptr(stream).0),
            partial: room(device, &mut workspace.partial, plan.partial)?,
            tickets: room(device, &mut workspace.tickets, plan.tickets)?,
            prepared: room(device, &mut workspace.prepared, plan.prepared)?,
            ..Arguments::sizes(kernel, &problem)
        };
        let launches = self.prepare.iter().zip(plan.prepare).chain([(&self.main, plan.main)]);
        for (function, planned) in launches {
            let mut launch = stream.launch_builder(function);
            launch.arg(&arguments);
            // SAFETY: the kernel takes `Arguments` alone; every buffer has the size that the plan and the shapes ask for.
            unsafe { launch.launch(config(planned)) }.map_err(DeviceError::driver("launch a kernel"))?;
        }
        Ok(())
    }

    fn check(
        &self,
        weight: &Weight,
        operands: &Operands<'_>,
        tokens: usize,
        y: &CudaSlice<u8>,
    ) -> Result<(), CudaError> {
        let Emitted { kernel, name, .. } = &self.emitted;
        let source = weight.source();
        weight.check(kernel.form(), name)?;
        let bytes = kernel.element.bytes();
        let (of_x, of_y) = (tokens * source.cols() * bytes, tokens * source.rows() * bytes);
        let epilogue = &kernel.epilogue;
        // Buffers of activations may be greater than what is in them.
        length("x", "bytes", of_x, operands.x.len().min(of_x))?;
        length("y", "bytes", of_y, y.len().min(of_y))?;
        let part = |wanted, size| if wanted { size } else { 0 };
        let of_bias = 4 * source.rows();
        let bias = operands.bias.map_or(0, |bias| bias.len().min(of_bias));
        length("bias", "bytes", part(epilogue.bias, of_bias), bias)?;
        let found = |part: Option<&CudaSlice<u8>>| part.map_or(0, |part| part.len().min(of_y));
        length("gate", "bytes", part(epilogue.gate, of_y), found(operands.gate))?;
        length("residual", "bytes", part(epilogue.residual, of_y), found(operands.residual))
    }
}

/// The address of a workspace of so many elements, made greater where that is needed; 0 where nothing is.
fn room<T: DeviceRepr + ValidAsZeroBits>(
    device: &Device,
    place: &mut Option<CudaSlice<T>>,
    len: usize,
) -> Result<u64, DeviceError> {
    if len == 0 {
        return Ok(0);
    }
    if place.as_ref().is_none_or(|there| there.len() < len) {
        // The old one is freed in the stream's order: launches before may still use it.
        *place = Some(device.zeros("the workspace of a product", len)?);
    }
    Ok(place.as_ref().map_or(0, |there| there.device_ptr(device.stream()).0))
}

pub(super) fn length(
    what: &'static str,
    unit: &'static str,
    expected: usize,
    found: usize,
) -> Result<(), CudaError> {
    if expected == found { Ok(()) } else { Err(CudaError::Length { what, unit, expected, found }) }
}
