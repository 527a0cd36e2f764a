//! Tables as people read them, in Markdown.

use comfy_table::{CellAlignment, Table, presets};
use mqc_kernels::roofline::Limits;

use crate::Case;
use crate::bars::{Bar, By};
use crate::peer::Kind;
use crate::row::Row;

const KINDS: [Kind; 4] = [Kind::MatMulNBits, Kind::MatMulInteger, Kind::Ggml, Kind::Tract];

/// Prints the rows of a case. A bar that is missed stands behind the ratio.
pub fn print(case: Case, limits: &Limits, rows: &[Row]) {
    println!("\n### {case}\n");
    println!(
        "Read bandwidth {:.1} GB/s, int8 {:.0} GOP/s ({}), f32 {:.0} GFLOP/s. Microseconds: median (least-greatest).\n",
        limits.read_bytes / 1e9,
        limits.int8_ops / 1e9,
        limits.int8_instruction,
        limits.f32_ops / 1e9,
    );
    let kinds = KINDS.map(|kind| (kind, rows.iter().any(|row| row.rivals.iter().any(|r| r.kind == kind))));
    let kinds: Vec<Kind> = kinds.into_iter().filter_map(|(kind, there)| there.then_some(kind)).collect();
    let mut header = vec!["M".to_owned(), "bits".into(), "activations".into(), "isa".into(), "ours".into()];
    header.extend(["/ floor".to_owned(), "/ wider".into()]);
    for kind in &kinds {
        header.extend([format!("{kind:?}"), "ours / theirs".to_owned()]);
    }
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(header);
    for row in rows {
        table.add_row(cells(row, &kinds));
    }
    for column in table.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}");
}

fn cells(row: &Row, kinds: &[Kind]) -> Vec<String> {
    let micros = |s: &mqc::bench::Spread| format!("{:.0} ({:.0}-{:.0})", s.median, s.min, s.max);
    let bar = |by: By| row.bars.iter().find(|bar| bar.by == by);
    let floor = row.floor.as_ref().map(|floor| ratio(floor.ratio, bar(By::Floor)));
    let wider = bar(By::Wider).map(|bar| ratio(bar.ratio, Some(bar)));
    let mut cells = vec![
        row.tokens.to_string(),
        row.bits.to_string(),
        row.activations.to_string(),
        row.isa.clone(),
        micros(&row.micros),
        floor.unwrap_or_default(),
        wider.unwrap_or_default(),
    ];
    for &kind in kinds {
        match row.rivals.iter().find(|rival| rival.kind == kind) {
            Some(rival) => {
                cells.push(format!("{}: {}", rival.name, micros(&rival.micros)));
                cells.push(ratio(rival.ratio, bar(By::Peer(kind))));
            }
            None => cells.extend([String::new(), String::new()]),
        }
    }
    cells
}

fn ratio(ratio: f64, bar: Option<&Bar>) -> String {
    match bar {
        None => format!("{ratio:.2}"),
        Some(bar) if bar.met() => format!("{ratio:.2} <= {}", bar.at_most),
        Some(bar) => format!("**{ratio:.2} > {}**", bar.at_most),
    }
}

/// Prints how many bars are met, and those that are missed.
pub fn print_bars(rows: &[Row]) {
    let bars: Vec<(&Row, &Bar)> =
        rows.iter().flat_map(|row| row.bars.iter().map(move |bar| (row, bar))).collect();
    let missed: Vec<&(&Row, &Bar)> = bars.iter().filter(|(_, bar)| !bar.met()).collect();
    println!("\n{} of {} bars are met.", bars.len() - missed.len(), bars.len());
    for (row, bar) in missed {
        let Row { case, tokens, bits, activations, isa, .. } = row;
        let by = match bar.by {
            By::Floor => "the memory floor".to_owned(),
            By::Peer(kind) => format!("{kind:?}"),
            By::Wider => "our time at the next of 4 and 8 bits".to_owned(),
        };
        println!(
            "- {case}, {tokens} tokens, {bits} bits, {activations}, {isa}: {:.2} of {by}, not {}",
            bar.ratio, bar.at_most
        );
    }
}
