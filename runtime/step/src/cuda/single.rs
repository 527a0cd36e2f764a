//! Kernels of what is not fused: products, gathers, concatenations, copies, and the reductions that end after a pass.

use std::fmt::Write as _;

use super::function::{combining, literal};
use super::kernel::{Kernel, Slot, THREADS};
use super::place::{name_of, strided};
use crate::Kind;
use crate::lower::task::{Arg, Combine, Factor, Product};
use crate::view::{Root, View};

/// Rows of a column that one thread combines.
const COLUMN_CHUNK: usize = 64;
/// Elements that one block combines.
const CHUNK: usize = 16 * THREADS;
/// Rows of a table that one thread adds to.
const ROWS_CHUNK: usize = 64;
/// The greatest second dimension of a grid.
const GRID_Y: usize = 65_535;
/// Products with at most so many rows are made by flat tiles.
pub(super) const FLAT: usize = 8;

/// Constants before a body.
fn with(constants: &[(&str, String)], body: &str) -> String {
    let mut text = String::new();
    for (name, value) in constants {
        let _ = writeln!(text, "#define {name} {value}");
    }
    text.push_str(body);
    for (name, _) in constants {
        let _ = writeln!(text, "#undef {name}");
    }
    text
}

fn blocks(elements: usize) -> [usize; 2] {
    [elements.div_ceil(THREADS), 1]
}

/// Offsets of a factor's batches: an expression, and a table where that is needed.
fn offset(factor: &Factor, argument: usize) -> (String, Option<Vec<u64>>) {
    let step = factor.offsets.get(1).copied().unwrap_or(0);
    if factor.offsets.iter().enumerate().all(|(batch, offset)| *offset == batch * step) {
        return (format!("batch * {step}LL"), None);
    }
    let table = factor.offsets.iter().map(|offset| *offset as u64).collect();
    (format!("((const i64*)a.at[{argument}])[batch]"), Some(table))
}

/// A product of floats. `table` takes offsets of batches and returns where they will be.
pub(super) fn product(plan: &Product, to: Root, mut table: impl FnMut(Vec<u64>) -> Slot) -> Kernel {
    let Product { m, k, n, a, b } = plan;
    let [bm, bn, tm, tn] = if *m <= FLAT { [8, 128, 1, 4] } else { [64, 64, 4, 4] };
    let depth = 16;
    let batches = a.offsets.len();
    let mut slots = vec![Slot::Root(to), Slot::Root(a.view.root), Slot::Root(b.view.root)];
    let mut offset_of = |factor: &Factor, slots: &mut Vec<Slot>| {
        let (text, offsets) = offset(factor, slots.len());
        slots.extend(offsets.map(&mut table));
        text
    };
    let (a_offset, b_offset) = (offset_of(a, &mut slots), offset_of(b, &mut slots));
    let long = |v: usize| format!("{v}LL");
    let stride = |v: isize| format!("({v}LL)");
    let constants = [
        ("BM", bm.to_string()),
        ("BN", bn.to_string()),
        ("TM", tm.to_string()),
        ("TN", tn.to_string()),
        ("BK", depth.to_string()),
        ("M", long(*m)),
        ("N", long(*n)),
        ("K", long(*k)),
        ("BATCH", long(batches)),
        ("A_START", long(a.view.start)),
        ("B_START", long(b.view.start)),
        ("A_OFFSET", a_offset),
        ("B_OFFSET", b_offset),
        ("A_ROW", stride(a.row_stride)),
        ("A_COL", stride(a.col_stride)),
        ("B_ROW", stride(b.row_stride)),
        ("B_COL", stride(b.col_stride)),
        // Neighbours in memory are read by neighbouring threads.
        ("A_ALONG_K", (a.col_stride == 1).to_string()),
        ("B_ALONG_K", (b.row_stride == 1 && b.col_stride != 1).to_string()),
    ];
    let tiles = m.div_ceil(bm) * n.div_ceil(bn);
    let shared = depth * (bm + bn + 8) * size_of::<f32>();
    let body = with(&constants, include_str!("text/product.cu"));
    Kernel::new(body, slots, [tiles, batches.min(GRID_Y)], shared as u32)
}

/// Rows of a table.
pub(super) fn gather(
    (table, rows, inner): (&View, usize, usize),
    indices: &View,
    to: Root,
    fault: Slot,
) -> Kernel {
    let count = indices.len() * inner;
    let constants =
        [("ROWS", format!("{rows}LL")), ("INNER", format!("{inner}LL")), ("COUNT", format!("{count}LL"))];
    let slots = vec![Slot::Root(to), Slot::Root(table.root), Slot::Root(indices.root), fault];
    Kernel::new(with(&constants, include_str!("text/gather.cu")), slots, blocks(count), 0)
}

/// A table plus rows at some places.
pub(super) fn add_rows(
    (table, rows, inner): (&Arg, usize, usize),
    indices: &View,
    updates: &View,
    to: Root,
    fault: Slot,
) -> Kernel {
    let (value, source) = match table {
        Arg::Scalar(value) => (literal(*value), to),
        Arg::View(view) | Arg::Window { view, .. } => {
            ("((const float*)a.at[1])[row * INNER + column]".to_owned(), view.root)
        }
    };
    let constants = [
        ("ROWS", format!("{rows}LL")),
        ("INNER", format!("{inner}LL")),
        ("UPDATES", format!("{}LL", indices.len())),
        ("CHUNK", format!("{ROWS_CHUNK}LL")),
        ("TABLE", value),
    ];
    let roots = [to, source, indices.root, updates.root].map(Slot::Root);
    let slots = roots.into_iter().chain([fault]).collect();
    let threads = rows.div_ceil(ROWS_CHUNK) * inner;
    Kernel::new(with(&constants, include_str!("text/add_rows.cu")), slots, blocks(threads), 0)
}

/// For each of `outer` rows a run of every part.
pub(super) fn concat(outer: usize, parts: &[(View, usize)], to: Root) -> Kernel {
    let row: usize = parts.iter().map(|(_, len)| len).sum();
    let mut slots = vec![Slot::Root(to)];
    let mut text = format!(
        "KERNEL(NAME, 256, 1) {{\n    const u64 i = (u64)blockIdx.x * 256 + threadIdx.x;\n    if (i >= {}u) return;\n    \
         const u64 row = i / {row}u, column = i % {row}u;\n    float v = 0.f;\n",
        outer * row
    );
    let mut begin = 0;
    for (view, len) in parts {
        let argument = slots.len();
        slots.push(Slot::Root(view.root));
        let _ = writeln!(
            text,
            "    if (column >= {begin}u && column < {}u) v = ((const float*)a.at[{argument}])[row * {len}u + (column - {begin}u)];",
            begin + len
        );
        begin += len;
    }
    text.push_str("    ((float*)a.at[0])[i] = v;\n}\n");
    Kernel::new(text, slots, blocks(outer * row), 0)
}

/// Elements in the order of a view.
pub(super) fn copy(view: &View, kind: Kind, to: Root) -> Kernel {
    let (shape, strides) = view.collapsed();
    let (element, place) = (name_of(kind), strided(&shape, &strides, "i"));
    let text = format!(
        "KERNEL(NAME, 256, 1) {{\n    const u64 i = (u64)blockIdx.x * 256 + threadIdx.x;\n    if (i >= {}u) return;\n    \
         (({element}*)a.at[0])[i] = ((const {element}*)a.at[1])[{} + {place}];\n}}\n",
        view.len(),
        view.start
    );
    Kernel::new(text, vec![Slot::Root(to), Slot::Root(view.root)], blocks(view.len()), 0)
}

/// Combines every column of a matrix [rows, columns], or with `columns` = 1 all elements, step by step: in `from` and the two
/// workspaces, the last step in `to`.
pub(super) fn total(
    combine: Combine,
    (mut rows, columns): (usize, usize),
    mut from: Slot,
    [mut free, mut other]: [Slot; 2],
    to: Slot,
) -> Vec<Kernel> {
    let [pair, threads, neutral] = combining(combine);
    let mut kernels = vec![];
    loop {
        let chunk = if columns == 1 { CHUNK } else { COLUMN_CHUNK };
        let left = rows.div_ceil(chunk);
        let target = if left == 1 { to } else { free };
        let (body, grid, shared) = if columns == 1 {
            let constants = [
                ("COUNT", format!("{rows}ULL")),
                ("CHUNK", format!("{chunk}ULL")),
                ("PAIR", pair.clone()),
                ("REDUCE", threads.clone()),
                ("NEUTRAL", neutral.clone()),
            ];
            (with(&constants, include_str!("text/total.cu")), [left, 1], 32)
        } else {
            let constants = [
                ("ROWS", format!("{rows}ULL")),
                ("COLUMNS", format!("{columns}ULL")),
                ("CHUNK", format!("{chunk}ULL")),
                ("PAIR", pair.clone()),
            ];
            (with(&constants, include_str!("text/total_columns.cu")), blocks(left * columns), 0)
        };
        kernels.push(Kernel::new(body, vec![target, from], grid, shared));
        if left == 1 {
            return kernels;
        }
        // What was read is free again; the first is the pass's own and no workspace of ours.
        from = target;
        std::mem::swap(&mut free, &mut other);
        rows = left;
    }
}
