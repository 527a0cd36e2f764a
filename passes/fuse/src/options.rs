//! What the optimizer can be told.

use std::collections::BTreeMap;

use mqc_ir::quant::Width;

use crate::cost::Device;
use crate::rules::Needs;
use crate::{Error, StoredPlanes, rules};

/// Where growth of an e-graph ends, whatever the machine. What was found until then is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rounds in which all rules are tried.
    pub iterations: usize,
    /// e-nodes of one region.
    pub nodes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { iterations: 16, nodes: 20_000 }
    }
}

/// Options of [`crate::fuse`].
#[derive(Clone, Debug)]
pub struct FuseOptions {
    /// What the graph will run on.
    pub device: Device,
    /// When an e-graph is large enough.
    pub limits: Limits,
    /// The ONNX operator set that the result may need; the graph's own when not given. Rules that make newer
    /// operations are left out.
    pub opset: Option<i64>,
    /// Sizes of symbolic dimensions that costs are computed with.
    pub symbols: BTreeMap<String, u64>,
    /// Size of dimensions that `symbols` has not.
    pub unknown_size: u64,
    /// The width at which nested weights are read, for costs.
    pub width: Width,
    /// Only these rules; all when empty.
    pub only: Vec<String>,
    /// Not these rules.
    pub without: Vec<String>,
    /// Whether the result may have operators of the CPU session, [`rules::DOMAIN`].
    pub session: bool,
    /// The bit planes of nested weights, by layer.
    pub stored: BTreeMap<String, StoredPlanes>,
    /// Make no more than so many rewrites, to find the one that does harm.
    pub stop_after: Option<u64>,
}

impl FuseOptions {
    /// All rules, for a device.
    pub fn new(device: Device) -> FuseOptions {
        FuseOptions {
            device,
            limits: Limits::default(),
            opset: None,
            symbols: BTreeMap::new(),
            unknown_size: 16,
            width: Width::MAX,
            only: vec![],
            without: vec![],
            session: false,
            stored: BTreeMap::new(),
            stop_after: None,
        }
    }

    /// The rules that are asked for and that make nothing newer than `opset`.
    ///
    /// # Errors
    /// A name that no rule has.
    pub(crate) fn rules(&self, opset: i64) -> Result<Vec<&'static rules::Rule>, Error> {
        let known = |name: &&String| rules::RULES.iter().any(|rule| rule.name == name.as_str());
        if let Some(name) = self.only.iter().chain(&self.without).find(|name| !known(name)) {
            return Err(Error::UnknownRule(name.clone()));
        }
        let opset = self.opset.unwrap_or(opset);
        let lists = |names: &[String], rule: &rules::Rule| names.iter().any(|name| name == rule.name);
        let wanted = |rule: &&&rules::Rule| {
            (self.only.is_empty() || lists(&self.only, rule))
                && !lists(&self.without, rule)
                && match rule.needs {
                    Needs::Opset(least) => least <= opset,
                    Needs::Session => self.session,
                }
        };
        Ok(rules::RULES.iter().filter(wanted).copied().collect())
    }
}
