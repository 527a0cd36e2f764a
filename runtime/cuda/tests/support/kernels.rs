//! Descriptions for tests.

use mqc_cuda::{Element, Epilogue, Kernel, Target, Tokens};
use mqc_ir::quant::{Grouping, SliceMode, Width};

pub const MODES: [SliceMode; 3] = [SliceMode::Midpoint, SliceMode::Round, SliceMode::Extra];
pub const ELEMENTS: [Element; 3] = [Element::F16, Element::Bf16, Element::F32];

/// A product without an epilogue. `group` 0 is one scale a channel.
pub fn kernel(bits: u8, mode: SliceMode, group: u32, element: Element, tokens: Tokens) -> Kernel {
    Kernel {
        width: Width::new(bits).unwrap(),
        mode,
        grouping: Grouping::group(group).unwrap(),
        element,
        epilogue: Epilogue::default(),
        tokens,
        target: Target::Sm80,
    }
}
