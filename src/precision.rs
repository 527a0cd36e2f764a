//! Which width each layer runs at: one for all, or a map from globs to widths.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use globset::Glob;
use mqc_ir::quant::Width;
use serde::Deserialize;

use crate::usage::UsageError;

/// `--bits` of a command that runs a model: a width, or the path of a TOML file.
///
/// ```toml
/// default = 4
/// [layers]
/// "encoder.layer.0.*" = 8
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Precision {
    /// For layers that no glob matches; 8 when absent.
    #[serde(default = "widest")]
    pub default: Width,
    /// Globs over layer and node names.
    #[serde(default)]
    pub layers: BTreeMap<String, Width>,
}

fn widest() -> Width {
    Width::MAX
}

/// What a layer can be called: its own name and those of the nodes that use it.
pub struct LayerNames<'a> {
    /// Name of the layer.
    pub layer: &'a str,
    /// Names of its nodes.
    pub nodes: &'a [String],
}

impl Precision {
    /// One width for all layers.
    pub fn uniform(width: Width) -> Precision {
        Precision { default: width, layers: BTreeMap::new() }
    }

    /// Reads `--bits`.
    pub fn parse(text: &str) -> Result<Precision> {
        if !text.ends_with(".toml") {
            let width = text
                .parse()
                .with_context(|| format!("--bits {text} (a width, or a path ending in .toml)"))?;
            return Ok(Precision::uniform(width));
        }
        let source =
            std::fs::read_to_string(Path::new(text)).with_context(|| format!("cannot read {text}"))?;
        toml::from_str(&source).with_context(|| format!("{text} is not a map of widths"))
    }

    /// The width of every layer. A glob that matches nothing, or two that give a layer different widths, are errors;
    /// a glob that is a layer's exact name goes before patterns.
    pub fn resolve<'a>(
        &self,
        layers: impl IntoIterator<Item = LayerNames<'a>>,
    ) -> Result<BTreeMap<String, Width>> {
        let mut globs = vec![];
        for (text, width) in &self.layers {
            let glob = Glob::new(text).with_context(|| format!("{text:?} is not a glob"))?.compile_matcher();
            globs.push((text, glob, *width, false));
        }
        let mut widths = BTreeMap::new();
        for names in layers {
            let all: Vec<&str> =
                std::iter::once(names.layer).chain(names.nodes.iter().map(String::as_str)).collect();
            let mut chosen: Option<(bool, &str, Width)> = None;
            for (text, glob, width, used) in &mut globs {
                let exact = all.contains(&text.as_str());
                if !exact && !all.iter().any(|n| glob.is_match(n)) {
                    continue;
                }
                *used = true;
                match chosen {
                    Some((was_exact, _, _)) if was_exact && !exact => {}
                    Some((was_exact, other, before)) if was_exact == exact && before != *width => {
                        let layer = names.layer;
                        bail!(UsageError(format!(
                            "layer {layer} matches {other:?} ({before} bits) and {text:?} ({width} bits); \
                             make the globs disjoint"
                        )));
                    }
                    _ => chosen = Some((exact, text, *width)),
                }
            }
            widths.insert(names.layer.to_owned(), chosen.map_or(self.default, |(_, _, w)| w));
        }
        if let Some((text, ..)) = globs.iter().find(|(.., used)| !used) {
            let known: Vec<_> = widths.keys().take(4).cloned().collect();
            let known = known.join(", ");
            bail!(UsageError(format!("{text:?} matches no layer; layers are called, for example, {known}")));
        }
        Ok(widths)
    }
}
