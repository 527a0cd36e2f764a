//! The text of the kernel that reads rows of a weight as floats: tables, and whole weights.

use super::{LEVEL, PRELUDE, constants, form_name};
use crate::Form;

/// The text of a kernel that takes [`crate::Arguments`]: `x` i64 `[tokens]` or 0, `y` f32 [tokens, cols], `tickets` a word
/// that becomes 1 when an element of `x` names no row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmittedRows {
    /// What it reads.
    pub form: Form,
    /// The name of the `extern "C"` function.
    pub name: String,
    /// CUDA C++ without headers.
    pub text: String,
}

/// The kernel that reads rows of weights of a form.
pub fn emit_rows(form: Form) -> EmittedRows {
    let name = format!("{}_rows", form_name(form));
    let constants = format!("{}{}", constants::common(form), constants::general(form));
    let body = include_str!("text/rows.cu").replace("NAME", &name);
    let text = format!("// {name}\n{PRELUDE}\n{constants}\n{LEVEL}\n{body}");
    EmittedRows { form, name, text }
}
