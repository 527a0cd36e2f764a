//! A kernel before it is compiled: its text, its launch, and what memory its arguments are.

use std::fmt::Write as _;

use mqc_cuda::Launch;
use mqc_cuda::device::ADDRESSES;

use crate::view::Root;

/// Threads of a block in every kernel.
pub(super) const THREADS: usize = 256;

/// Device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Slot {
    /// That of a value.
    Root(Root),
    /// f32 that live until the next kernels have read them, by the number of their workspace.
    Workspace(usize),
    /// A table of the program.
    Table(usize),
    /// The word that is 1 when an index was out of range, by the number of the step.
    Fault(usize),
}

/// A kernel whose name is still `NAME`.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    pub body: String,
    /// What its arguments point to.
    pub slots: Vec<Slot>,
    pub launch: Launch,
}

impl Kernel {
    pub fn new(body: String, slots: Vec<Slot>, grid: [usize; 2], shared_bytes: u32) -> Kernel {
        let grid = grid.map(|blocks| u32::try_from(blocks.max(1)).unwrap_or(u32::MAX));
        Kernel { body, slots, launch: Launch { grid, threads: THREADS as u32, shared_bytes } }
    }

    /// How many addresses its structure of arguments has; `None` when it has more than any.
    pub fn addresses(&self) -> Option<usize> {
        ADDRESSES.into_iter().find(|size| *size >= self.slots.len())
    }
}

/// One text of many kernels: those with the same body, of the layers of a model say, are one.
#[derive(Debug, Default)]
pub(super) struct Text {
    bodies: Vec<(String, usize)>,
}

impl Text {
    /// The number of a kernel.
    pub fn add(&mut self, body: &str, addresses: usize) -> usize {
        let key = (body.to_owned(), addresses);
        self.bodies.iter().position(|known| *known == key).unwrap_or_else(|| {
            self.bodies.push(key);
            self.bodies.len() - 1
        })
    }

    /// Names and sizes of arguments, in the order of the numbers.
    pub fn kernels(&self) -> Vec<(String, usize)> {
        self.bodies.iter().enumerate().map(|(i, (_, addresses))| (format!("k{i}"), *addresses)).collect()
    }

    /// The whole text.
    pub fn text(&self) -> String {
        let mut text = include_str!("text/prelude.cu").to_owned();
        for (i, (body, addresses)) in self.bodies.iter().enumerate() {
            let body = body.replace("NAME", &format!("k{i}"));
            let _ =
                writeln!(text, "namespace n{i} {{\nstruct Arguments {{ void* at[{addresses}]; }};\n{body}}}");
        }
        text
    }
}
