//! What the programs of a device share: its compiler, the resident nested weights, the kernels of their products.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use mqc_cuda::device::{
    Blas, Buffer, Cache, Compiler, Device, Gemm, Operands, RowsProgram, Weights, Workspace,
};
use mqc_cuda::{Element, Epilogue, Form, Kernel, Tokens, emit, emit_rows};
use mqc_ir::quant::Width;
use mqc_kernels::nested::NestedWeight;

use super::DeviceProgramError as Error;
use super::build::{Product, Rows};

/// An open device with the weights of a model.
#[derive(Debug)]
pub struct Engine {
    pub(super) device: Arc<Device>,
    pub(super) compiler: Compiler,
    pub(super) cache: Cache,
    blas: Option<Blas>,
    weights: Weights,
    numbers: BTreeMap<String, usize>,
    products: Vec<(Kernel, mqc_cuda::device::Program)>,
    rows: Vec<RowsProgram>,
    workspace: Workspace,
    notes: Vec<String>,
}

/// All on which the addresses of recorded launches depend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    held: [u64; 8],
    workspace: [usize; 3],
}

impl Engine {
    /// Opens the first device and uploads scales and zeros of the weights. Planes follow when a width reads them.
    ///
    /// # Errors
    /// No device, driver or compiler, each with its reason; a cuBLAS that does not open; no room.
    pub fn open(weights: BTreeMap<String, NestedWeight>) -> Result<Engine, Error> {
        let device = Arc::new(Device::open(0)?);
        let compiler = Compiler::find()?;
        let mut engine = Engine {
            weights: Weights::new(device.clone()),
            blas: Blas::open(&device)?,
            device,
            compiler,
            cache: Cache::of_user(),
            numbers: BTreeMap::new(),
            products: vec![],
            rows: vec![],
            workspace: Workspace::default(),
            notes: vec![],
        };
        for (layer, weight) in weights {
            let added = engine.weights.add(weight);
            let number = added.map_err(Error::layer(&layer))?;
            engine.numbers.insert(layer, number);
        }
        Ok(engine)
    }

    /// Kernels whose machine code lies in a folder as `NAME.cubin`, beside their text `NAME.cu`, are not compiled.
    pub fn take_kernels_from(&mut self, folder: &Path) {
        self.cache = self.cache.clone().before(folder);
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Bytes of bit planes on the device.
    pub fn resident_bytes(&self) -> u64 {
        self.weights.held().iter().sum()
    }

    /// Layers that no fast kernel serves, with the reason, each once.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// A weight as it is on the host.
    pub fn weight(&self, layer: &str) -> Option<&NestedWeight> {
        Some(self.weights.get(*self.numbers.get(layer)?)?.source())
    }

    /// Whether cuBLAS multiplies floats.
    pub fn has_blas(&self) -> bool {
        self.blas.is_some()
    }

    /// Puts a product of floats onto the stream.
    ///
    /// # Safety
    /// As [`Blas::launch`].
    pub(super) unsafe fn multiply(&mut self, gemm: &Gemm, addresses: [u64; 3]) -> Result<(), Error> {
        match &mut self.blas {
            // SAFETY: the caller's.
            Some(blas) => Ok(unsafe { blas.launch(gemm, addresses) }?),
            None => {
                Err(crate::Error::Setup("the program was compiled for an engine with cuBLAS".to_owned())
                    .into())
            }
        }
    }

    /// Uploads the planes that a width reads of a layer, and makes the kernel of a product.
    pub(super) fn prepare(&mut self, product: &Product, width: Width) -> Result<(), Error> {
        let fail = Error::layer(&product.layer);
        let number = self.number(&product.layer)?;
        let kernel = self.kernel(number, product, width);
        self.weights.load(number, width).map_err(fail)?;
        if !self.products.iter().any(|(known, _)| Some(*known) == kernel)
            && let Some(kernel) = kernel
        {
            let emitted = emit(&kernel);
            self.notes.extend(emitted.note.clone().filter(|note| !self.notes.contains(note)));
            let compiled =
                mqc_cuda::device::Program::compile(&self.device, emitted, &self.compiler, &self.cache);
            self.products.push((kernel, compiled.map_err(fail)?));
        }
        Ok(())
    }

    /// Puts a product onto the stream: `read` are its activations and what the epilogue reads.
    pub(super) fn product(
        &mut self,
        product: &Product,
        width: Width,
        read: &[&Buffer],
        y: &mut Buffer,
    ) -> Result<(), Error> {
        let fail = Error::layer(&product.layer);
        let number = self.number(&product.layer)?;
        let kernel = self.kernel(number, product, width);
        let program = self.products.iter().find(|(known, _)| Some(*known) == kernel);
        let mut read = read.iter().copied();
        let (Some((_, program)), Some(weight), Some(x)) = (program, self.weights.get(number), read.next())
        else {
            return Err(Error::NoWidth { layer: product.layer.clone() });
        };
        let mut next = |wanted: bool| if wanted { read.next() } else { None };
        let wanted = &product.epilogue;
        let (bias, gate, residual) = (next(wanted.bias), next(wanted.gate), next(wanted.residual));
        let operands = Operands { x, bias, gate, residual };
        program.launch(&self.device, weight, &operands, product.tokens, y, &mut self.workspace).map_err(fail)
    }

    /// Uploads the planes that a width reads of a layer, and makes the kernel that reads its rows.
    pub(super) fn prepare_rows(&mut self, layer: &str, width: Width) -> Result<(), Error> {
        let fail = Error::layer(layer);
        let number = self.number(layer)?;
        let form = self.form(number, width);
        self.weights.load(number, width).map_err(fail)?;
        if let Some(form) = form
            && !self.rows.iter().any(|program| program.emitted().form == form)
        {
            let compiled = RowsProgram::compile(&self.device, emit_rows(form), &self.compiler, &self.cache);
            self.rows.push(compiled.map_err(fail)?);
        }
        Ok(())
    }

    /// Puts rows of a weight onto the stream. The word at `fault` becomes 1 where an index is out of range.
    pub(super) fn rows(
        &mut self,
        rows: &Rows,
        width: Width,
        indices: Option<&Buffer>,
        y: &mut Buffer,
        fault: u64,
    ) -> Result<(), Error> {
        let fail = Error::layer(&rows.layer);
        let number = self.number(&rows.layer)?;
        let form = self.form(number, width);
        let program = self.rows.iter().find(|program| Some(program.emitted().form) == form);
        let (Some(program), Some(weight)) = (program, self.weights.get(number)) else {
            return Err(Error::NoWidth { layer: rows.layer.clone() });
        };
        let count = rows.picked.map_or(weight.source().rows(), |(_, count)| count);
        // SAFETY: the word is that of the program's own step, which lives as long as the program.
        unsafe { program.launch(&self.device, weight, indices, count, y, fault) }.map_err(fail)
    }

    pub(super) fn state(&self) -> State {
        State { held: self.weights.held(), workspace: self.workspace.lengths() }
    }

    fn number(&self, layer: &str) -> Result<usize, Error> {
        self.numbers.get(layer).copied().ok_or_else(|| Error::NoWidth { layer: layer.to_owned() })
    }

    fn form(&self, number: usize, width: Width) -> Option<Form> {
        let source = self.weights.get(number)?.source();
        Some(Form { width, mode: source.mode(), grouping: source.grouping() })
    }

    fn kernel(&self, number: usize, product: &Product, width: Width) -> Option<Kernel> {
        let source = self.weights.get(number)?.source();
        let crate::lower::task::Epilogue { bias, activation, gate, residual } = product.epilogue;
        Some(Kernel {
            width,
            mode: source.mode(),
            grouping: source.grouping(),
            element: Element::F32,
            epilogue: Epilogue { bias, activation, gate, residual },
            tokens: Tokens::of(product.tokens),
            target: self.device.target(),
        })
    }
}
