//! A fused pass as a kernel. Where rows matter 32 or 256 threads share a row and go over it as often as reductions ask for:
//! what is computed between two reductions is computed again after the next, which costs less than to keep it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::function::{combining, comparison, expression, literal};
use super::kernel::{Kernel, Slot, THREADS};
use super::place::{self, Memory};
use crate::fuse::instructions::{Code, Fused, Operand, Register};

/// Rows longer than this have a block of their own.
const SHORT_ROW: usize = 512;

/// Where an operand comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum From {
    Constant(usize),
    Splat(usize),
    Load(usize),
    Node(usize),
}

/// An instruction whose operands are values, not registers that are used again.
struct Node<'a> {
    code: &'a Code,
    from: Vec<From>,
    row: bool,
    /// Reductions of the row that must be known before.
    phase: usize,
}

struct Pass<'a> {
    fused: &'a Fused,
    nodes: Vec<Node<'a>>,
    stores: Vec<From>,
    totals: Vec<(From, Option<From>)>,
    memory: Memory,
    text: String,
}

/// The kernel of a pass; what it adds up after the pass it writes to the given memory, element by element.
pub(super) fn emit(fused: &Fused, totals: &[Slot]) -> Kernel {
    let mut pass = Pass {
        fused,
        nodes: vec![],
        stores: vec![],
        totals: vec![],
        memory: Memory::default(),
        text: String::new(),
    };
    pass.resolve();
    let rows = fused.n / fused.d;
    let by_rows = fused.loads.iter().any(|l| l.row)
        || fused.stores.iter().any(|s| s.row)
        || fused.totals.iter().any(|t| t.row)
        || pass.nodes.iter().any(|n| n.row || matches!(n.code, Code::Combine(_)));
    let blocks;
    let shared_bytes;
    if by_rows {
        let lanes = if fused.d > SHORT_ROW { THREADS } else { 32 };
        pass.by_rows(rows, lanes, totals);
        blocks = rows.div_ceil(THREADS / lanes);
        shared_bytes = 32;
    } else {
        pass.by_elements(totals);
        blocks = fused.n.div_ceil(THREADS);
        shared_bytes = 0;
    }
    let Pass { memory, text, .. } = pass;
    let body = format!("KERNEL(NAME, 256, 1) {{\n{}{text}}}\n", memory.declarations());
    Kernel::new(body, memory.slots(), [blocks, 1], shared_bytes)
}

impl<'a> Pass<'a> {
    /// Operands of every instruction, store and total.
    fn resolve(&mut self) {
        let fused = self.fused;
        let mut holds: BTreeMap<Register, From> = BTreeMap::new();
        holds.extend(
            fused.constants.iter().enumerate().map(|(i, (register, _))| (*register, From::Constant(i))),
        );
        holds.extend(fused.splats.iter().enumerate().map(|(i, splat)| (splat.register, From::Splat(i))));
        let find = |holds: &BTreeMap<Register, From>, operand: Operand| match operand {
            Operand::Memory(load) => Some(From::Load(load)),
            Operand::Register(register) => holds.get(&register).copied(),
        };
        for instruction in &fused.instructions {
            let from: Vec<From> = match &instruction.code {
                Code::Load(load) => vec![From::Load(*load)],
                code => {
                    let read = instruction.from.iter().take(code.operands());
                    read.filter_map(|operand| find(&holds, *operand)).collect()
                }
            };
            let before = from.iter().map(|from| self.phase(*from)).max().unwrap_or(0);
            let phase = before + usize::from(matches!(instruction.code, Code::Combine(_)));
            let row = instruction.row;
            holds.insert(instruction.to, From::Node(self.nodes.len()));
            self.nodes.push(Node { code: &instruction.code, from, row, phase });
        }
        let nothing = From::Constant(usize::MAX);
        let end = |operand| find(&holds, operand).unwrap_or(nothing);
        self.stores = fused.stores.iter().map(|store| end(store.from)).collect();
        self.totals = fused.totals.iter().map(|total| (end(total.from), total.times.map(end))).collect();
    }

    fn phase(&self, from: From) -> usize {
        match from {
            From::Node(node) => self.nodes[node].phase,
            From::Constant(_) | From::Splat(_) | From::Load(_) => 0,
        }
    }

    /// Whether a value is one for each row.
    fn is_row(&self, node: usize) -> bool {
        let node = &self.nodes[node];
        node.row || matches!(node.code, Code::Combine(_))
    }

    /// How an operand is read.
    fn operand(&mut self, from: From) -> String {
        match from {
            From::Constant(i) => self.fused.constants.get(i).map_or("0.f".to_owned(), |(_, v)| literal(*v)),
            From::Splat(i) => format!("s{i}"),
            From::Load(load) => {
                let load = &self.fused.loads[load];
                let at = if load.row { "row" } else { "i" };
                self.memory.real(load, at)
            }
            From::Node(node) => format!("v{node}"),
        }
    }

    fn value(&mut self, node: usize) -> String {
        let code = self.nodes[node].code;
        let operands: Vec<String> =
            self.nodes[node].from.clone().into_iter().map(|from| self.operand(from)).collect();
        let get = |i: usize| operands.get(i).map_or("0.f", String::as_str);
        match code {
            // A reduction is written where the row has been gone over.
            Code::Load(_) | Code::Spread | Code::Combine(_) => get(0).to_owned(),
            Code::Apply(func) => expression(func, [get(0), get(1), get(2)]),
            Code::CompareInts(kind, a, b) => {
                let at = if self.nodes[node].row { "row" } else { "i" };
                let (a, b) = (&self.fused.loads[*a], &self.fused.loads[*b]);
                let (a, b) = (self.memory.element(a, at), self.memory.element(b, at));
                format!("flag({a} {} {b})", comparison(*kind))
            }
        }
    }

    fn declare(&mut self, node: usize, indent: &str) {
        let value = self.value(node);
        let _ = writeln!(self.text, "{indent}const float v{node} = {value};");
    }

    /// Registers that one element of memory fills.
    fn splats(&mut self) {
        for (i, splat) in self.fused.splats.iter().enumerate() {
            let value = self.memory.real(&self.fused.loads[splat.load], "0");
            let value = if splat.inverse { format!("1.f / {value}") } else { value };
            let _ = writeln!(self.text, "    const float s{i} = {value};");
        }
    }

    /// Stores and totals of rows, or of elements.
    fn ends(&mut self, rows: bool, totals: &[Slot], indent: &str) {
        let at = if rows { "row" } else { "i" };
        let mut lines = vec![];
        for (i, store) in self.fused.stores.iter().enumerate().filter(|(_, store)| store.row == rows) {
            let value = self.operand(self.stores[i]);
            let place = self.memory.written(Slot::Root(store.root), store.kind);
            lines.push(format!("{place}[{at}] = {}", place::converted(store.kind, &value)));
        }
        for (i, slot) in totals.iter().enumerate().filter(|(i, _)| self.fused.totals[*i].row == rows) {
            let (from, times) = self.totals[i];
            let mut value = self.operand(from);
            if let Some(times) = times {
                value = format!("{value} * {}", self.operand(times));
            }
            let place = self.memory.written(*slot, crate::Kind::Real);
            lines.push(format!("{place}[{at}] = {value}"));
        }
        // All is read before anything is written: a store may take the place of a load.
        for (i, line) in lines.iter().enumerate() {
            if let Some((_, value)) = line.split_once(" = ") {
                let _ = writeln!(self.text, "{indent}const auto {at}_{i} = {value};");
            }
        }
        for (i, line) in lines.iter().enumerate() {
            if let Some((place, _)) = line.split_once(" = ") {
                let _ = writeln!(self.text, "{indent}{place} = {at}_{i};");
            }
        }
    }

    fn by_elements(&mut self, totals: &[Slot]) {
        let _ = writeln!(self.text, "    const u64 i = (u64)blockIdx.x * 256 + threadIdx.x;");
        let _ = writeln!(self.text, "    if (i >= {}u) return;", self.fused.n);
        self.splats();
        (0..self.nodes.len()).for_each(|node| self.declare(node, "    "));
        self.ends(false, totals, "    ");
    }

    fn by_rows(&mut self, rows: usize, lanes: usize, totals: &[Slot]) {
        let d = self.fused.d;
        let _ = writeln!(self.text, "    DYNAMIC_SHARED(memory);");
        let _ = writeln!(self.text, "    float* const shared = (float*)memory;");
        let _ = writeln!(
            self.text,
            "    const u64 own = (u64)blockIdx.x * {} + threadIdx.x / {lanes};",
            THREADS / lanes
        );
        // All threads take part in reductions; those beyond the last row have no elements.
        let _ = writeln!(self.text, "    const bool there = own < {rows}u;");
        let _ = writeln!(self.text, "    const u64 row = there ? own : {}u;", rows - 1);
        let _ = writeln!(self.text, "    const u32 count = there ? {d}u : 0, lane = threadIdx.x % {lanes};");
        self.splats();
        let last = self.nodes.iter().map(|node| node.phase).max().unwrap_or(0);
        for phase in 0..=last {
            for node in 0..self.nodes.len() {
                let combine = matches!(self.nodes[node].code, Code::Combine(_));
                if self.nodes[node].phase == phase && self.nodes[node].row && !combine {
                    self.declare(node, "    ");
                }
            }
            self.over_row(phase, phase == last, lanes, totals);
        }
        let row_ends = self.fused.stores.iter().any(|s| s.row) || self.fused.totals.iter().any(|t| t.row);
        if row_ends {
            // Others of the row may not have read yet what is written over.
            let _ = writeln!(self.text, "    __syncthreads();");
            let _ = writeln!(self.text, "    if (there && lane == 0) {{");
            self.ends(true, totals, "        ");
            let _ = writeln!(self.text, "    }}");
        }
    }

    /// Goes over the elements of a row: for the reductions of a phase, and in the end for stores and totals.
    fn over_row(&mut self, phase: usize, last: bool, lanes: usize, totals: &[Slot]) {
        let combines: Vec<usize> = (0..self.nodes.len())
            .filter(|i| matches!(self.nodes[*i].code, Code::Combine(_)) && self.nodes[*i].phase == phase + 1)
            .collect();
        let mut wanted: Vec<From> =
            combines.iter().filter_map(|i| self.nodes[*i].from.first().copied()).collect();
        if last {
            wanted.extend(
                self.stores.iter().zip(&self.fused.stores).filter(|(_, s)| !s.row).map(|(from, _)| *from),
            );
            let full = self.totals.iter().zip(&self.fused.totals).filter(|(_, total)| !total.row);
            wanted.extend(full.flat_map(|((from, times), _)| std::iter::once(*from).chain(*times)));
        }
        if wanted.is_empty() {
            return;
        }
        for node in &combines {
            if let Code::Combine(combine) = self.nodes[*node].code {
                let [_, _, first] = combining(*combine);
                let _ = writeln!(self.text, "    float t{node} = {first};");
            }
        }
        let needed = self.needed(&wanted);
        let _ = writeln!(self.text, "    for (u32 j = lane; j < count; j += {lanes}) {{");
        let _ = writeln!(self.text, "        const u64 i = row * {} + j;", self.fused.d);
        needed.into_iter().for_each(|node| self.declare(node, "        "));
        for node in &combines {
            if let (Code::Combine(combine), Some(from)) =
                (self.nodes[*node].code, self.nodes[*node].from.first().copied())
            {
                let ([pair, _, _], value) = (combining(*combine), self.operand(from));
                let _ = writeln!(self.text, "        t{node} = {pair}(t{node}, {value});");
            }
        }
        if last {
            self.ends(false, totals, "        ");
        }
        let _ = writeln!(self.text, "    }}");
        for node in &combines {
            if let Code::Combine(combine) = self.nodes[*node].code {
                let [_, threads, _] = combining(*combine);
                let whole = lanes == THREADS;
                let _ = writeln!(self.text, "    const float v{node} = {threads}(t{node}, shared, {whole});");
            }
        }
    }

    /// The nodes of single elements that some values need, in their order.
    fn needed(&self, wanted: &[From]) -> BTreeSet<usize> {
        let mut needed = BTreeSet::new();
        let mut open: Vec<From> = wanted.to_vec();
        while let Some(from) = open.pop() {
            if let From::Node(node) = from
                && !self.is_row(node)
                && needed.insert(node)
            {
                open.extend(&self.nodes[node].from);
            }
        }
        needed
    }
}
