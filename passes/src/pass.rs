//! What a pass is.

use std::collections::BTreeMap;

use mqc_ir::Graph;

use crate::matquant::Report;
use crate::{Error, FuseSettings, Options};

/// A transformation of graphs.
pub struct Pass {
    /// Name on the command line, in dumps and traces.
    pub name: &'static str,
    /// One line for `mqc passes`.
    pub about: &'static str,
    /// The transformation. Every rewrite first asks [`Context::rewrite`].
    pub run: fn(&mut Graph, &mut Context) -> Result<(), Error>,
}

/// What passes are given and what they leave behind.
pub struct Context<'a> {
    /// What the user wants.
    pub options: &'a Options,
    /// What `matquant` did and did not quantize.
    pub report: Report,
    /// Options of `fuse`; all rules for the CPU that keep to ONNX when not given.
    pub fuse: Option<FuseSettings>,
    /// What `fuse` did, the last time that it ran.
    pub fused: Option<mqc_fuse::Report>,
    /// Rewrites made by each pass so far.
    pub rewrites: BTreeMap<&'static str, u64>,
    pass: &'static str,
    fuel: Option<u64>,
}

impl<'a> Context<'a> {
    /// A context that allows `fuel` rewrites, or any number.
    pub fn new(options: &'a Options, fuel: Option<u64>) -> Context<'a> {
        Context {
            options,
            report: Report::default(),
            fuse: None,
            fused: None,
            rewrites: BTreeMap::new(),
            pass: "",
            fuel,
        }
    }

    /// Whether one more rewrite may be made (`--stop-after`); counts it.
    pub fn rewrite(&mut self) -> bool {
        if self.fuel == Some(0) {
            return false;
        }
        self.fuel = self.fuel.map(|f| f - 1);
        *self.rewrites.entry(self.pass).or_default() += 1;
        true
    }

    /// How many rewrites may still be made, when there is a limit.
    pub(crate) fn fuel(&self) -> Option<u64> {
        self.fuel
    }

    pub(crate) fn enter(&mut self, pass: &'static str) {
        self.pass = pass;
    }
}
