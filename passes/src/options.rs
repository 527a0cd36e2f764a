//! What passes can be told.

use mqc_ir::quant::{Grouping, RangeMethod, Scheme, SliceMode, Widths};
use serde::{Deserialize, Serialize};

/// Options of all passes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// Options of `matquant`.
    pub quantize: QuantizeOptions,
}

/// Which weights become nested integers, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizeOptions {
    /// The widths that count.
    pub widths: Widths,
    /// The weight of each width's error, in the order of `widths`.
    pub lambda: Vec<f32>,
    /// Symmetric or asymmetric.
    pub scheme: Scheme,
    /// How codes are cut.
    pub slice: SliceMode,
    /// How ranges are chosen.
    pub range: RangeMethod,
    /// Which weights share a scale.
    pub grouping: Grouping,
    /// Whether tables behind a Gather are quantized.
    pub embeddings: bool,
    /// Only layers whose name, weight or node matches one of these globs; empty means all.
    pub include: Vec<String>,
    /// No layers that match one of these.
    pub exclude: Vec<String>,
    /// Options for some layers; of several that match, the last one wins.
    pub layers: Vec<LayerOverride>,
    /// Whether NaN and infinity in weights are accepted.
    pub allow_nonfinite: bool,
}

impl Default for QuantizeOptions {
    fn default() -> QuantizeOptions {
        let widths = Widths::default();
        QuantizeOptions {
            lambda: vec![1.0; widths.iter().count()],
            widths,
            scheme: Scheme::default(),
            slice: SliceMode::default(),
            range: RangeMethod::default(),
            grouping: Grouping::default(),
            embeddings: false,
            include: vec![],
            exclude: vec![],
            layers: vec![],
            allow_nonfinite: false,
        }
    }
}

/// Options for the layers that match a glob: `[[layer]]` in `mqc.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct LayerOverride {
    /// A glob over layer, weight and node names.
    pub name: String,
    /// Leave these layers in float.
    #[serde(default)]
    pub skip: bool,
    /// See [`QuantizeOptions::grouping`].
    pub group_size: Option<Grouping>,
    /// See [`QuantizeOptions::scheme`].
    pub scheme: Option<Scheme>,
    /// See [`QuantizeOptions::slice`].
    pub slice: Option<SliceMode>,
    /// See [`QuantizeOptions::range`].
    pub range: Option<RangeMethod>,
}
