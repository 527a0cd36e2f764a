//! Composites that are in a model but that the IR has no operation for yet: they are found and reported, not rewritten.
//!
//! Each file says what the operation would be. With it, the finding becomes a rule of one line.

mod attention;
mod epilogue;
mod rotary;
mod silu;

use std::fmt;

use egg::Id;

pub use attention::Attention;
pub(crate) use attention::attention;
pub use epilogue::{Activation, Epilogue, epilogues};
pub use rotary::Rotary;
pub(crate) use rotary::rotary;
pub(crate) use silu::silu;

use crate::View;
use crate::saturate::Saturated;

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pattern {
    /// x sigmoid(x).
    Silu,
    /// Rotary embedding.
    Rotary,
    /// softmax(scale q k^T + mask) v.
    Attention {
        /// Whether something is added to the scores.
        mask: bool,
    },
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Pattern::Silu => "silu",
            Pattern::Rotary => "rotary",
            Pattern::Attention { mask: true } => "attention with a mask",
            Pattern::Attention { mask: false } => "attention",
        })
    }
}

/// The pattern that ends in a class.
fn pattern(view: View, id: Id) -> Option<Pattern> {
    let attention = || attention(view, id).map(|a| Pattern::Attention { mask: a.mask.is_some() });
    let silu = || silu(view, id).map(|_| Pattern::Silu);
    let rotary = || rotary(view, id).map(|_| Pattern::Rotary);
    attention().or_else(silu).or_else(rotary)
}

/// Every pattern of a region, with the node that ends it.
pub(crate) fn find(saturated: &Saturated) -> Vec<(Pattern, usize)> {
    let view = View(&saturated.egraph);
    let values = saturated.values.iter().enumerate();
    let single = values.filter_map(|(node, ids)| Some((node, *ids.first()?)).filter(|_| ids.len() == 1));
    single.filter_map(|(node, id)| Some((pattern(view, id)?, node))).collect()
}
