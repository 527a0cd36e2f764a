//! The table of passes and the manager that runs them.

use std::path::PathBuf;

use mqc_ir::{Graph, text, verify};

use crate::decoder::{cache_attention, last_logits};
use crate::{
    Context, Error, Pass, fold_constants, fuse, gemm_to_matmul, inline_if, matquant, merge_duplicates,
    simplify,
};

/// Every pass, in the order in which a compilation first runs them; those of decoders and `fuse` run when a model is loaded.
pub const PASSES: &[&Pass] = &[
    &fold_constants::FOLD_CONSTANTS,
    &simplify::SINK_CONSTANTS,
    &inline_if::INLINE_IF,
    &simplify::DROP_IDENTITIES,
    &gemm_to_matmul::GEMM_TO_MATMUL,
    &merge_duplicates::MERGE_DUPLICATES,
    &simplify::ERASE_DEAD,
    &matquant::MATQUANT,
    &cache_attention::CACHE_ATTENTION,
    &last_logits::LAST_LOGITS,
    &fuse::FUSE,
];

/// Constants are folded before they sink into bodies, and again where they arrived.
const NORMALIZE: &[&Pass] = &[
    &fold_constants::FOLD_CONSTANTS,
    &simplify::SINK_CONSTANTS,
    &inline_if::INLINE_IF,
    &simplify::DROP_IDENTITIES,
    &gemm_to_matmul::GEMM_TO_MATMUL,
    &fold_constants::FOLD_CONSTANTS,
    &merge_duplicates::MERGE_DUPLICATES,
    &simplify::ERASE_DEAD,
];

/// A list of passes to run.
pub struct Pipeline(Vec<&'static Pass>);

/// What to show of the way.
#[derive(Clone, Debug, Default)]
pub struct Debug {
    /// Write the graph after each pass into this folder.
    pub dump_ir: Option<PathBuf>,
    /// Only after the passes with these names; empty means all.
    pub dump_after: Vec<String>,
    /// Make no more than so many rewrites in all, to find the one that does harm.
    pub stop_after: Option<u64>,
}

impl Pipeline {
    /// Simplification without change of meaning.
    pub fn normalize() -> Pipeline {
        Pipeline(NORMALIZE.to_vec())
    }

    /// From a float model to nested weights.
    pub fn compile() -> Pipeline {
        Pipeline([NORMALIZE, &[&matquant::MATQUANT]].concat())
    }

    /// For generating text: caches stay in the session, and only the last position has logits.
    pub fn decode() -> Pipeline {
        Pipeline(vec![&cache_attention::CACHE_ATTENTION, &last_logits::LAST_LOGITS])
    }

    /// For the CPU session, before it plans the graph.
    pub fn fuse() -> Pipeline {
        Pipeline(vec![&fuse::FUSE])
    }

    /// The passes with these names; `normalize` stands for its passes.
    pub fn named<S: AsRef<str>>(names: &[S]) -> Result<Pipeline, Error> {
        let mut passes = vec![];
        for name in names.iter().map(AsRef::as_ref) {
            if name == "normalize" {
                passes.extend(Pipeline::normalize().0);
                continue;
            }
            let pass = PASSES.iter().find(|p| p.name == name);
            passes.push(*pass.ok_or_else(|| Error::UnknownPass(name.to_owned()))?);
        }
        Ok(Pipeline(passes))
    }

    /// The passes.
    pub fn passes(&self) -> &[&'static Pass] {
        &self.0
    }

    /// Runs the passes; infers types and verifies before the first and after each.
    pub fn run(&self, graph: &mut Graph, context: &mut Context, debug: &Debug) -> Result<(), Error> {
        for name in &debug.dump_after {
            Pipeline::named(&[name])?;
        }
        check(graph).map_err(Error::InvalidInput)?;
        dump(graph, 0, "input", debug)?;
        for (index, pass) in self.0.iter().enumerate() {
            let _span = tracing::info_span!("pass", name = pass.name).entered();
            context.enter(pass.name);
            (pass.run)(graph, context)?;
            check(graph).map_err(|errors| Error::Invalid { pass: pass.name, errors })?;
            tracing::debug!(
                nodes = graph.len(),
                rewrites = context.rewrites.get(pass.name).copied().unwrap_or(0),
                "done"
            );
            dump(graph, index + 1, pass.name, debug)?;
        }
        Ok(())
    }
}

fn check(graph: &mut Graph) -> Result<(), Vec<mqc_ir::Error>> {
    let errors = verify::verify(graph);
    if !errors.is_empty() {
        return Err(errors);
    }
    mqc_ir::infer::infer(graph)
}

fn dump(graph: &Graph, index: usize, name: &str, debug: &Debug) -> Result<(), Error> {
    let Some(folder) = &debug.dump_ir else { return Ok(()) };
    if !debug.dump_after.is_empty() && !debug.dump_after.iter().any(|n| n == name) {
        return Ok(());
    }
    let path = folder.join(format!("{index:02}-{name}.mqir"));
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&path, text::print(graph)))
        .map_err(|source| Error::Dump { path, source })
}
