//! The constants at the top of a kernel's text.

use std::fmt::Write;

use mqc_ir::quant::{Grouping, SliceMode};
use mqc_kernels::nested::{centre, step};

use super::select::centre_index;
use crate::{Element, Form, Kernel, Target};

/// What all families use.
pub fn common(Form { width, mode, grouping }: Form) -> String {
    let group = match grouping {
        Grouping::PerChannel => 0,
        Grouping::Group(size) => size,
    };
    let mut text = String::new();
    let _ = writeln!(text, "constexpr int PLANES = {};", mode.planes_read(width));
    let _ = writeln!(text, "constexpr int GROUP = {group}; // columns that share a scale, 0: all");
    text
}

/// What the kernels on tensor cores use: a weight is `scale * (STEP * (index - centre index) + CENTRE - zero)`.
fn fast(kernel: &Kernel) -> String {
    let Kernel { width, mode, element, .. } = *kernel;
    let step = f32::from(step(width));
    let offset = step * centre_index(width) as f32 + centre(width, mode);
    let scaled = match element {
        Element::F16 => false,
        Element::Bf16 | Element::F32 => true,
    };
    format!(
        "constexpr float STEP = {step:?}f;\n\
         constexpr float CENTRE = {offset:?}f;\n\
         constexpr bool SCALED = {scaled}; // activations are brought into the range of f16\n"
    )
}

/// What decode uses besides.
pub fn decode(kernel: &Kernel) -> String {
    let token_tiles = (kernel.tokens.most().unwrap_or_default() * kernel.element.parts()).div_ceil(8);
    let demand = decode_demand(kernel, token_tiles);
    format!(
        "{}constexpr int TOKEN_TILES = {token_tiles};\n\
         constexpr int BLOCKS = {};\n\
         constexpr bool SCALES_AHEAD = {}; // scales are loaded with their planes, not when they are used\n",
        fast(kernel),
        decode_blocks(demand + decode_overhead(kernel, token_tiles)),
        demand <= MOST_AHEAD
    )
}

/// The demand above which there is no room for the scales of two tiles.
const MOST_AHEAD: usize = 152;

/// Registers that the main loop keeps values in, about.
fn decode_demand(kernel: &Kernel, token_tiles: usize) -> usize {
    let two_tiles_of_planes = 8 * kernel.mode.planes_read(kernel.width);
    let groups = match kernel.grouping {
        Grouping::PerChannel => 0,
        Grouping::Group(size) => 4 * (256 / size.max(1) as usize).max(1) + 4 * token_tiles + 8,
    };
    two_tiles_of_planes + groups + 12 * token_tiles + 8
}

/// Registers that the compiler was seen to need besides: indices of many scales, addresses of many columns, powers of two.
fn decode_overhead(kernel: &Kernel, token_tiles: usize) -> usize {
    let scales = match kernel.grouping {
        Grouping::Group(32) => 24,
        Grouping::Group(64) => 8 * token_tiles,
        Grouping::Group(_) | Grouping::PerChannel => 0,
    };
    let columns = if token_tiles > 2 { 16 } else { 0 };
    let powers = match (kernel.element, kernel.grouping) {
        (Element::Bf16 | Element::F32, Grouping::Group(_)) => 8,
        (Element::Bf16 | Element::F32, Grouping::PerChannel) | (Element::F16, _) => 0,
    };
    scales + columns + powers
}

/// Blocks that share a multiprocessor: as many as the registers let in. The limits are those at which the compiler neither
/// spills nor computes addresses anew.
fn decode_blocks(demand: usize) -> usize {
    match demand {
        0..=32 => 4,
        33..=52 => 3,
        53..=108 => 2,
        _ => 1,
    }
}

/// What prefill uses besides.
pub fn prefill(kernel: &Kernel) -> String {
    let (warps_side_by_side, tensor_order) = match kernel.target {
        Target::Sm80 => (2, false),
        Target::Sm90a => (1, true),
    };
    format!(
        "{}constexpr int TOKEN_TILES = {};\nconstexpr bool TENSOR_ORDER = {tensor_order};\n",
        fast(kernel),
        prefill_block_columns(kernel) / warps_side_by_side / 8
    )
}

/// Columns of activations of a block. On sm_80 half as many where the sums of a group are kept beside the whole sums: two
/// row tiles leave fewer registers than one.
pub fn prefill_block_columns(kernel: &Kernel) -> usize {
    match (kernel.target, kernel.grouping) {
        (Target::Sm80, Grouping::Group(_)) => 64,
        (Target::Sm80, Grouping::PerChannel) | (Target::Sm90a, _) => 128,
    }
}

/// What kernels without tensor cores use besides.
pub fn general(Form { width, mode, grouping: _ }: Form) -> String {
    let step = u32::from(step(width));
    let (half, top) = match mode {
        SliceMode::Midpoint => (0, 256 - step),
        SliceMode::Round => (step / 2, 256 - step),
        SliceMode::Extra => (step / 2, 256),
    };
    format!(
        "constexpr u32 STEP_CODES = {step}, HALF_STEP = {half}, TOP_SLICE = {top};\n\
         constexpr float MIDDLE = {:?}f;\n",
        centre(width, mode)
    )
}
