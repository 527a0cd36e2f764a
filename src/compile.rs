//! From a float model to an artifact: import, passes, quantization, emission.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use mqc_cuda::Target;
use mqc_ir::op::{NestedQuantize, WeightLayout};
use mqc_ir::quant::{Affine, Width};
use mqc_ir::{Activations, Tensor};
use mqc_passes::lower_nested::NestedTensors;
use mqc_passes::{Context, Debug, Layer, Options, Pipeline, Report};
use mqc_runtime::nested::{AffineMap, NestedWeight, QuantizeSpec, WeightView};

use crate::artifact::folder::Builder;
use crate::artifact::manifest::{self, LayerOp, Manifest, decibels};
use crate::artifact::store::{self, Layout, ResidentTensor, Store, Writer};
use crate::artifact::{self, GRAPH, digest};
use crate::cuda;
use crate::emit::{self, Weights};
use crate::trained::{Trained, TrainedLayer};
use crate::{load, report};

/// Constants below so many bytes stay inside `graph.onnx`.
const INLINE: usize = 1 << 10;

/// What to compile and where to.
pub struct Request<'a> {
    /// The ONNX model.
    pub model: &'a Path,
    /// The artifact to write.
    pub output: &'a Path,
    /// Whether an artifact that is there may be replaced.
    pub force: bool,
    /// How to quantize.
    pub options: &'a Options,
    /// Whether each width that counts gets an affine map of its own, fitted to the codes by least squares.
    pub affine: Affine,
    /// What training learned; what it does not have is quantized.
    pub trained: Option<&'a Trained>,
    /// How runs round activations unless they say otherwise.
    pub activations: Activations,
    /// The CUDA device that kernels are written for, if any.
    pub target: Option<Target>,
    /// Dumps and limits for finding defects.
    pub debug: &'a Debug,
}

/// What was done.
pub struct Compiled {
    /// Where the artifact is.
    pub artifact: PathBuf,
    /// Its manifest.
    pub manifest: Manifest,
    /// Size of the model with its external data, in bytes.
    pub source_bytes: u64,
    /// The CUDA kernels, if they were asked for.
    pub kernels: Option<cuda::Written>,
}

/// Compiles a model. `progress` hears of every layer's weights once they are stored: done so far, of all.
///
/// # Errors
/// Whatever is wrong with the model, the options or the disk; nothing is left behind then.
pub fn compile(request: &Request, progress: &mut dyn FnMut(u64, u64)) -> Result<Compiled> {
    // First of all, so that an output that may not be written costs no time.
    let folder = Builder::new(request.output, request.force)?;
    let mut model = load::for_compiling(request.model)?;
    let mut context = Context::new(request.options, request.debug.stop_after);
    Pipeline::compile().run(&mut model.graph, &mut context, request.debug)?;
    let Report { layers, skipped } = context.report;
    mqc_onnx::raise::raise_opset(&mut model.graph, mqc_onnx::nested_functions::LEAST_OPSET)
        .context("the model's operator set is too old for graph.onnx")?;

    if let Some(trained) = request.trained {
        trained.replace_tensors(&mut model.graph)?;
        trained.check_names(&layers)?;
    }
    let sources = emit::quantized_sources(&model.graph)?;
    let resident = Weights::collect(&model.graph, INLINE)?;
    let layout =
        Layout::new(resident.descriptions(), layers.iter().map(|l| geometry(l, request)).collect(), 8)?;
    let writer = Writer::create(&folder.path(store::FILE), layout)?;
    for (name, tensor) in resident.iter() {
        writer.write_resident(name, tensor.bytes())?;
    }
    let total = layers.iter().map(|l| (l.rows * l.cols) as u64).sum();
    let mut done = 0;
    let mut ratios = BTreeMap::new();
    for layer in &layers {
        let source =
            sources.get(&layer.name).with_context(|| format!("layer {} has no weight", layer.name))?;
        ratios.insert(layer.name.clone(), store_layer(layer, source, request, &writer)?);
        done += (layer.rows * layer.cols) as u64;
        progress(done, total);
    }
    let tensors = writer.finish()?;

    let stored = Store::open(&folder.path(store::FILE))?;
    resident.share(&mut model.graph, &stored)?;
    let nested = layers.iter().map(|l| Ok((l.name.clone(), stored_layer(&stored, l, request)?)));
    let nested = nested.collect::<Result<BTreeMap<_, _>>>()?;
    mqc_passes::lower_nested::lower_nested(&mut model.graph, &layers, &nested)?;
    mqc_ir::infer::infer(&mut model.graph).map_err(mqc_passes::Error::InvalidInput)?;
    emit::write_graph(&model, &folder.path(GRAPH), &stored)?;

    let kernels = request.target.map(|target| -> Result<cuda::Written> {
        let kernels = cuda::kernels(&model.graph, request.options.quantize.widths, target)?;
        cuda::write(&kernels, &folder.path(cuda::FOLDER), target)
    });
    let kernels = kernels.transpose()?;

    let mut manifest = Manifest {
        format: manifest::FORMAT.to_owned(),
        version: manifest::VERSION,
        created_by: manifest::CREATED_BY.to_owned(),
        source: source(request.model)?,
        bits: request.options.quantize.widths,
        mode: request.options.quantize.slice,
        scheme: request.options.quantize.scheme,
        range: request.options.quantize.range,
        group_size: request.options.quantize.grouping,
        activations: request.activations,
        planes: 8,
        layers: layers.iter().map(|l| describe(l, request, &ratios)).collect(),
        skipped: skipped.iter().map(skipped_row).collect(),
        files: BTreeMap::new(),
        tensors,
        checksum: String::new(),
    };
    let source_bytes = load::bytes_with_external_data(request.model)?;
    report::write(&folder.path(report::FILE), &manifest, &stored, source_bytes)?;
    manifest.files = manifest::hash_files(folder.dir())?;
    manifest.write(folder.dir())?;
    drop(stored);
    Ok(Compiled { artifact: folder.commit()?, manifest, source_bytes, kernels })
}

/// The widths that have an affine map of their own in the store, wide first. That of 8 bits, the widest, is the first map.
fn map_widths(layer: &Layer, request: &Request) -> Vec<Width> {
    let own: Vec<Width> = match (trained(layer, request), request.affine) {
        (Some(trained), _) => trained.per_width.keys().rev().copied().collect(),
        (None, Affine::PerWidth) => layer.spec.widths.into(),
        (None, Affine::Shared) => vec![],
    };
    own.into_iter().filter(|width| *width < Width::MAX).collect()
}

fn trained<'a>(layer: &Layer, request: &Request<'a>) -> Option<&'a TrainedLayer> {
    request.trained.and_then(|trained| trained.layers.get(&layer.name))
}

fn geometry(layer: &Layer, request: &Request) -> store::LayerGeometry {
    let (groups, maps) = (layer.spec.grouping.groups(layer.cols), 1 + map_widths(layer, request).len());
    store::LayerGeometry { name: layer.name.clone(), rows: layer.rows, cols: layer.cols, groups, maps }
}

/// Quantizes one weight, or takes the trained one, into the store. Returns its signal-to-noise ratio in dB at every width.
fn store_layer(
    layer: &Layer,
    source: &Tensor,
    request: &Request,
    writer: &Writer,
) -> Result<BTreeMap<Width, Option<f64>>> {
    let named = || format!("layer {} (weight {})", layer.name, layer.weight);
    let values = load::f32_values(source).with_context(named)?;
    let view = match layer.spec.layout {
        WeightLayout::RowsFirst => WeightView::row_major(&values, layer.rows, layer.cols),
        WeightLayout::RowsLast => WeightView::transposed(&values, layer.cols, layer.rows),
    }
    .with_context(named)?;
    let weight = match trained(layer, request) {
        Some(trained) => trained.weight(layer).with_context(|| format!("trained {}", named()))?,
        None => {
            let quantized = NestedWeight::quantize(&view, &spec(&layer.spec)).with_context(named)?;
            match request.affine {
                Affine::Shared => quantized,
                Affine::PerWidth => quantized.with_fitted_maps(&view, layer.spec.widths.iter())?,
            }
        }
    };
    let maps = weight.maps();
    let all = |of: fn(&AffineMap) -> &[f32]| -> Vec<f32> {
        maps.iter().flat_map(|(_, map)| of(map)).copied().collect()
    };
    let (scale, zero) = (all(|map| map.scale.as_slice()), all(|map| map.zero.as_slice()));
    writer.write_layer(&layer.name, weight.planes(), &scale, &zero)?;
    Width::all().map(|w| Ok((w, decibels(weight.sqnr_db(&view, w)?)))).collect()
}

/// As the numeric definition takes it.
pub(crate) fn spec(spec: &NestedQuantize) -> QuantizeSpec {
    QuantizeSpec {
        scheme: spec.scheme,
        mode: spec.mode,
        grouping: spec.grouping,
        range: spec.range,
        widths: spec.widths,
        lambda: spec.lambda.iter().map(|l| l.0).collect(),
        allow_nonfinite: spec.allow_nonfinite,
    }
}

/// The tensors of a layer as they lie in the mapped store.
fn stored_layer(stored: &Store, layer: &Layer, request: &Request) -> Result<NestedTensors> {
    let tensor = |name: String| -> Result<Tensor> {
        let (dtype, shape, bytes) = stored.tensor(&name)?;
        Ok(Tensor::new(dtype, shape, bytes)?)
    };
    let planes = (0..stored.planes_available()).map(|p| tensor(store::plane_name(&layer.name, p)));
    Ok(NestedTensors {
        scale: tensor(store::scale_name(&layer.name))?,
        zero: tensor(store::zero_name(&layer.name))?,
        map_widths: map_widths(layer, request),
        planes: planes.collect::<Result<_>>()?,
    })
}

fn describe(
    layer: &Layer,
    request: &Request,
    ratios: &BTreeMap<String, BTreeMap<Width, Option<f64>>>,
) -> artifact::Layer {
    let op = layer.kinds.first().copied().unwrap_or(mqc_passes::Kind::MatMul);
    let geometry = geometry(layer, request);
    artifact::Layer {
        name: layer.name.clone(),
        nodes: layer.nodes.clone(),
        op: match op {
            mqc_passes::Kind::Conv => LayerOp::Conv,
            mqc_passes::Kind::Gather => LayerOp::Gather,
            mqc_passes::Kind::Gemm => LayerOp::Gemm,
            mqc_passes::Kind::MatMul | mqc_passes::Kind::ConvTranspose | mqc_passes::Kind::Recurrent => {
                LayerOp::MatMul
            }
        },
        shape: layer.shape.iter().map(|&d| d as usize).collect(),
        layout: layer.spec.layout,
        rows: layer.rows,
        cols: layer.cols,
        group_size: layer.spec.grouping,
        mode: layer.spec.mode,
        scheme: layer.spec.scheme,
        range: layer.spec.range,
        trained: trained(layer, request).is_some(),
        map_widths: map_widths(layer, request),
        parameters: (layer.rows * layer.cols) as u64,
        bytes_per_plane: (layer.rows * layer.cols.div_ceil(8)) as u64,
        scale_bytes: 8 * geometry.map_shape().into_iter().product::<usize>() as u64,
        sqnr_db: ratios.get(&layer.name).cloned().unwrap_or_default(),
    }
}

fn skipped_row(skipped: &mqc_passes::Skipped) -> manifest::Skipped {
    manifest::Skipped {
        node: skipped.node.clone(),
        op: skipped.kind.name().to_owned(),
        weight: skipped.weight.clone(),
        reason: skipped.reason.clone(),
    }
}

fn source(model: &Path) -> Result<manifest::Source> {
    let (sha256, bytes) = digest::of_file(model)?;
    let file = model.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(manifest::Source { file, sha256, bytes })
}

/// The row descriptions of resident tensors.
impl Weights {
    fn descriptions(&self) -> Vec<ResidentTensor> {
        self.iter()
            .map(|(name, t)| ResidentTensor {
                name: name.to_owned(),
                dtype: t.dtype(),
                shape: t.shape().to_vec(),
            })
            .collect()
    }
}
