//! Elements in device memory: the arguments of a kernel by name, and the place of an element that strides say.

use std::fmt::Write as _;

use super::kernel::Slot;
use crate::Kind;
use crate::fuse::instructions::{Load, Pattern};

/// The buffers of a kernel, in the order of its arguments.
#[derive(Debug, Default)]
pub(super) struct Memory {
    used: Vec<(Slot, Kind, bool)>,
}

impl Memory {
    fn name(&mut self, slot: Slot, kind: Kind, written: bool) -> String {
        let found = self.used.iter().position(|used| *used == (slot, kind, written));
        let number = found.unwrap_or_else(|| {
            self.used.push((slot, kind, written));
            self.used.len() - 1
        });
        format!("p{number}")
    }

    /// A buffer that is written.
    pub fn written(&mut self, slot: Slot, kind: Kind) -> String {
        self.name(slot, kind, true)
    }

    /// The element of a load for the element `at` of the pass, as it is held.
    pub fn element(&mut self, load: &Load, at: &str) -> String {
        let name = self.name(Slot::Root(load.root), load.kind, false);
        let (start, zero) = (load.start, if load.kind == Kind::Real { "0.f" } else { "0" });
        match &load.pattern {
            Pattern::Splat => format!("{name}[{start}]"),
            Pattern::Dense => format!("{name}[{start} + {at}]"),
            Pattern::Repeat(len) => format!("{name}[{start} + {at} % {len}u]"),
            Pattern::Strided(shape, strides) => format!("{name}[{start} + {}]", strided(shape, strides, at)),
            Pattern::Window { width, low, high } => {
                let column = format!("{at} % {width}u");
                let place = format!("{start} + {at} / {width}u * {} + {column} - {low}", high - low);
                format!("({column} >= {low}u && {column} < {high}u ? {name}[{place}] : {zero})")
            }
        }
    }

    /// The same as a float.
    pub fn real(&mut self, load: &Load, at: &str) -> String {
        let element = self.element(load, at);
        match load.kind {
            Kind::Real => element,
            Kind::Int | Kind::Bool => format!("(float)({element})"),
        }
    }

    /// Lines that give the arguments names.
    pub fn declarations(&self) -> String {
        let mut text = String::new();
        for (number, (_, kind, written)) in self.used.iter().enumerate() {
            let (constant, element) = (if *written { "" } else { "const " }, name_of(*kind));
            let _ = writeln!(
                text,
                "    {constant}{element}* const p{number} = ({constant}{element}*)a.at[{number}];"
            );
        }
        text
    }

    /// The buffers in the order of the arguments.
    pub fn slots(&self) -> Vec<Slot> {
        self.used.iter().map(|(slot, _, _)| *slot).collect()
    }
}

/// What elements are called in CUDA C++.
pub(super) fn name_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Real => "float",
        Kind::Int => "i64",
        Kind::Bool => "u8",
    }
}

/// A float as it is held.
pub(super) fn converted(kind: Kind, value: &str) -> String {
    match kind {
        Kind::Real => value.to_owned(),
        Kind::Int => format!("(i64)({value})"),
        Kind::Bool => format!("(u8)(({value}) != 0.f)"),
    }
}

/// The distance of element `at` of a shape from the first, an expression.
pub(super) fn strided(shape: &[usize], strides: &[isize], at: &str) -> String {
    let mut inner = 1;
    let mut terms = vec![];
    for (axis, (size, stride)) in shape.iter().zip(strides).enumerate().rev() {
        let mut index = at.to_owned();
        if inner > 1 {
            index = format!("{index} / {inner}u");
        }
        if axis > 0 {
            index = format!("{index} % {size}u");
        }
        if *stride != 0 {
            terms.push(format!("(i64)({index}) * ({stride})"));
        }
        inner *= size;
    }
    if terms.is_empty() { "0".to_owned() } else { terms.join(" + ") }
}
