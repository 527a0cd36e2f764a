//! The CUDA kernels of an artifact: its folder `kernels`, and what a device needs that runs them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use mqc_cuda::device::{CompileError, Compiler, Device, DeviceError};
use mqc_cuda::{Element, Emitted, Epilogue, Kernel, Target, Tokens, emit};
use mqc_ir::quant::Widths;
use mqc_ir::{DType, Graph, Op, Type};
use mqc_passes::{Context, Debug, FuseSettings, Options, Pipeline};
use rayon::prelude::*;

use crate::device::activation_of;

/// The name of the folder in an artifact's folder.
pub const FOLDER: &str = "kernels";

/// What was written.
#[derive(Debug)]
pub struct Written {
    /// Kernels.
    pub kernels: usize,
    /// What was compiled, or why nothing was.
    pub compiled: String,
    /// What no fast kernel serves.
    pub notes: Vec<String>,
}

/// Kernels by name: of every nested product's mode, grouping, type of activations and epilogue, at every width, for every
/// number of tokens.
///
/// # Errors
/// A graph with a cycle, and what `fuse` finds.
pub fn kernels(graph: &Graph, widths: Widths, target: Target) -> Result<BTreeMap<String, Emitted>> {
    let mut fused = graph.clone();
    let options = Options::default();
    let mut context = Context::new(&options, None);
    context.fuse = Some(FuseSettings::program(&format!("cuda:{target}"))?);
    Pipeline::fuse().run(&mut fused, &mut context, &Debug::default())?;
    let mut found = BTreeMap::new();
    // Sizes that the graph leaves open may join less than those of a run.
    for graph in [graph, &fused] {
        collect(graph, widths, target, &mut found)?;
    }
    Ok(found)
}

fn collect(
    graph: &Graph,
    widths: Widths,
    target: Target,
    found: &mut BTreeMap<String, Emitted>,
) -> Result<()> {
    for id in graph.order()? {
        let Some(node) = graph.node(id) else { continue };
        for subgraph in &node.subgraphs {
            collect(&subgraph.graph, widths, target, found)?;
        }
        let operands = graph.operands(id);
        let given = |slot: usize| operands.get(slot).is_some_and(Option::is_some);
        let (product, epilogue) = match activation_of(&node.op) {
            Some(activation) => {
                let epilogue = Epilogue { bias: given(1), activation, gate: given(2), residual: given(3) };
                (operands.first().copied().flatten().map(|value| value.node), epilogue)
            }
            None => (Some(id), Epilogue::default()),
        };
        let Some(product) = product else { continue };
        let Some(Op::NestedMatMul(nested)) = graph.node(product).map(|node| &node.op) else { continue };
        let activations = graph.operand(product, 0);
        let element = match activations.map(|value| graph.ty(value)) {
            Some(Type::Tensor(ty)) if ty.dtype == Some(DType::F16) => Element::F16,
            Some(Type::Tensor(ty)) if ty.dtype == Some(DType::Bf16) => Element::Bf16,
            _ => Element::F32,
        };
        for width in widths.iter() {
            for tokens in [Tokens::Four, Tokens::Eight, Tokens::Sixteen, Tokens::Many] {
                let (mode, grouping) = (nested.mode, nested.grouping);
                let emitted = emit(&Kernel { width, mode, grouping, element, epilogue, tokens, target });
                found.insert(emitted.name.clone(), emitted);
            }
        }
    }
    Ok(())
}

/// Writes the text of every kernel into a new folder, and beside it what the compiler makes of it, if there is one.
///
/// # Errors
/// A kernel that does not compile, or a disk that is full.
pub fn write(kernels: &BTreeMap<String, Emitted>, folder: &Path, target: Target) -> Result<Written> {
    let failed = |path: &Path| format!("cannot write {}", path.display());
    fs::create_dir(folder).with_context(|| failed(folder))?;
    for (name, emitted) in kernels {
        let path = folder.join(format!("{name}.cu"));
        fs::write(&path, &emitted.text).with_context(|| failed(&path))?;
    }
    let compiled = match Compiler::find() {
        Ok(compiler) => {
            kernels.par_iter().try_for_each(|(name, emitted)| -> Result<()> {
                let image = compiler.compile(&emitted.text, &target.to_string());
                let image = image.map_err(|error| rejected(error, emitted, target))?;
                for (ending, bytes) in [("ptx", image.ptx), ("cubin", image.cubin)] {
                    let path = folder.join(format!("{name}.{ending}"));
                    fs::write(&path, bytes).with_context(|| failed(&path))?;
                }
                Ok(())
            })?;
            let (major, minor) = compiler.version();
            format!("compiled by NVRTC {major}.{minor}")
        }
        Err(reason) => format!("not compiled: {reason}"),
    };
    let mut notes: Vec<String> = kernels.values().filter_map(|emitted| emitted.note.clone()).collect();
    notes.dedup();
    Ok(Written { kernels: kernels.len(), compiled, notes })
}

/// The artifact is not kept, so the text is put where it can be found.
fn rejected(error: CompileError, emitted: &Emitted, target: Target) -> DeviceError {
    match error {
        CompileError::Failed(error) => error,
        CompileError::Rejected(log) => {
            let (name, architecture) = (emitted.name.clone(), target.to_string());
            let text = std::env::temp_dir().join(format!("rejected-{name}.{architecture}.cu"));
            match fs::write(&text, &emitted.text) {
                Ok(()) => DeviceError::Compile { name, architecture, text, log },
                Err(source) => DeviceError::Io { what: "write", path: text, source },
            }
        }
    }
}

/// Why no CUDA device can be used here; `None` where one can.
pub fn unavailable() -> Option<DeviceError> {
    Device::open(0).and_then(|_| Compiler::find()).err()
}
