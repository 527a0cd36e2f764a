//! The text of a kernel: a prelude, its constants, the functions made for it, and the body of its family.

mod constants;
mod epilogue;
mod rows;
mod select;

pub(crate) use constants::prefill_block_columns;
use mqc_ir::quant::Grouping;
pub use rows::{EmittedRows, emit_rows};

use crate::{Element, Form, Kernel, Target, Tokens};

/// The text of a kernel and what a launch must know of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Emitted {
    /// What it is for.
    pub kernel: Kernel,
    /// The name of the `extern "C"` function.
    pub name: String,
    /// The name of the kernel in the same text that lays out activations, if one must be launched before.
    pub prepare: Option<String>,
    /// CUDA C++ without headers.
    pub text: String,
    /// How it works.
    pub family: Family,
    /// Why no fast kernel serves the description, if none does.
    pub note: Option<String>,
}

/// A way to multiply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Tensor cores, a few tokens: every weight is read once.
    Decode,
    /// Tensor cores, many tokens, after a launch that lays out activations.
    Prefill,
    /// Plain arithmetic: whatever the others do not serve.
    General,
}

const PRELUDE: &str = include_str!("text/prelude.cu");
const LOAD: &str = include_str!("text/load.cu");
const DECODE: &str = include_str!("text/decode.cu");
const PREPARE: &str = include_str!("text/prepare.cu");
const PREFILL: &str = include_str!("text/prefill.cu");
const PRELUDE_SM90A: &str = include_str!("text/prelude_sm90a.cu");
const PREFILL_SM90A: &str = include_str!("text/prefill_sm90a.cu");
const LEVEL: &str = include_str!("text/level.cu");
const GENERAL: &str = include_str!("text/general.cu");

/// The kernel for a description: a fast one where one serves it, else the general one with a note that says why.
pub fn emit(kernel: &Kernel) -> Emitted {
    if let Some(note) = unserved(kernel.grouping) {
        return Emitted { note: Some(note), ..emit_general(kernel) };
    }
    match kernel.tokens {
        Tokens::Four | Tokens::Eight | Tokens::Sixteen => decode(kernel),
        Tokens::Many => prefill(kernel),
    }
}

/// The general kernel for a description, whether or not a faster one serves it.
pub fn emit_general(kernel: &Kernel) -> Emitted {
    let name = format!("{}_general", name(kernel));
    let parts =
        [element(kernel.element).to_owned(), LEVEL.to_owned(), epilogue::store_output(&kernel.epilogue)];
    assemble(kernel, Family::General, name, constants::general(kernel.form()), parts, GENERAL)
}

fn decode(kernel: &Kernel) -> Emitted {
    let name = format!("{}_m{}", name(kernel), kernel.tokens.most().unwrap_or_default());
    assemble(kernel, Family::Decode, name, constants::decode(kernel), fast_parts(kernel), DECODE)
}

fn prefill(kernel: &Kernel) -> Emitted {
    let (suffix, body) = match kernel.target {
        Target::Sm80 => ("many", format!("{PREPARE}\n{PREFILL}")),
        Target::Sm90a => ("many_sm90a", format!("{PRELUDE_SM90A}\n{PREPARE}\n{PREFILL_SM90A}")),
    };
    let name = format!("{}_{suffix}", name(kernel));
    assemble(kernel, Family::Prefill, name, constants::prefill(kernel), fast_parts(kernel), &body)
}

fn fast_parts(kernel: &Kernel) -> [String; 4] {
    [
        element(kernel.element).to_owned(),
        LOAD.to_owned(),
        select_pairs(kernel),
        epilogue::store_output(&kernel.epilogue),
    ]
}

/// Why no fast kernel serves a grouping, if none does: tiles are 256 columns, and a step of the tensor cores 16 columns of
/// a run of 32.
fn unserved(grouping: Grouping) -> Option<String> {
    match grouping {
        Grouping::PerChannel => None,
        Grouping::Group(size) if [32, 64, 128].contains(&size) || (size > 0 && size.is_multiple_of(256)) => {
            None
        }
        Grouping::Group(size) => Some(format!(
            "no fast CUDA kernel serves groups of {size}; it takes 32, 64, 128, multiples of 256 or one scale a channel. \
             The general kernel is used"
        )),
    }
}

fn assemble<const N: usize>(
    kernel: &Kernel,
    family: Family,
    name: String,
    constants: String,
    parts: [String; N],
    body: &str,
) -> Emitted {
    let mut text = format!("// {name}\n{PRELUDE}\n{}{constants}", constants::common(kernel.form()));
    for part in parts.into_iter().chain([body.replace("NAME", &name)]) {
        text.push('\n');
        text.push_str(&part);
    }
    let prepare = match family {
        Family::Prefill => Some(format!("{name}_prepare")),
        Family::Decode | Family::General => None,
    };
    Emitted { kernel: *kernel, name, prepare, text, family, note: None }
}

fn element(element: Element) -> &'static str {
    match element {
        Element::F16 => include_str!("text/f16.cu"),
        Element::Bf16 => include_str!("text/bf16.cu"),
        Element::F32 => include_str!("text/f32.cu"),
    }
}

fn select_pairs(kernel: &Kernel) -> String {
    format!(
        "// From one word of each plane the 32 indices less {}, as pairs of f16.\n\
         DEVICE void select_pairs(const u32 (&P)[PLANES], u32 (&out)[16]) {{\n{}}}\n",
        select::centre_index(kernel.width),
        select::statements(kernel.width, kernel.mode)
    )
}

/// `nested_r4_midpoint_g128_f16_bias_silu`
fn name(kernel: &Kernel) -> String {
    let Kernel { element, epilogue, .. } = kernel;
    format!("{}_{}{}", form_name(kernel.form()), element.name(), epilogue::suffix(epilogue))
}

/// `nested_r4_midpoint_g128`
fn form_name(Form { width, mode, grouping }: Form) -> String {
    let group = match grouping {
        Grouping::PerChannel => "channel".to_owned(),
        Grouping::Group(size) => format!("g{size}"),
    };
    format!("nested_r{width}_{mode}_{group}")
}
