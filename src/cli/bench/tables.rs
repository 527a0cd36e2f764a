//! What `mqc bench` prints.

use anyhow::Result;

use crate::bench::{Case, Layer, OpKind, Report, Work, share};
use crate::cli::ui::{Ui, table};

/// Kinds of operators, and layers, shown unless all are asked for.
const SLOWEST: usize = 10;

/// The machine, a line a case, then kinds of operators and layers for each set of inputs and threads.
pub fn print(ui: &Ui, report: &Report, all: bool) -> Result<()> {
    machine(ui, report)?;
    cases(ui, report)?;
    for group in report.groups() {
        let Some(first) = group.first() else { continue };
        let inputs: Vec<String> = first.inputs.iter().map(|(name, ty)| format!("{name} {ty}")).collect();
        let threads =
            if first.threads == 1 { "1 thread".to_owned() } else { format!("{} threads", first.threads) };
        ui.print(format_args!("\n{threads}; {}", inputs.join(", ")))?;
        kinds(ui, group, all)?;
        layers(ui, group, all)?;
    }
    for note in &report.notes {
        ui.print(note)?;
    }
    Ok(())
}

fn machine(ui: &Ui, report: &Report) -> Result<()> {
    let machine = &report.machine;
    let cpu = machine.cpu.as_deref().unwrap_or("unknown processor");
    ui.print(format_args!("{}: {cpu}, {} cores", report.model, machine.cores))?;
    let mut t = table(["limits: threads", "memory read, GB/s", "int8, GOP/s", "f32, GFLOP/s"], 0);
    for l in &machine.limits {
        t.add_row([
            l.threads.to_string(),
            format!("{:.1}", l.read_gb_per_s),
            format!("{:.0} ({})", l.int8_gop_per_s, l.int8_instruction),
            format!("{:.0}", l.f32_gop_per_s),
        ]);
    }
    ui.print(t)
}

fn cases(ui: &Ui, report: &Report) -> Result<()> {
    let mut peers: Vec<&str> = report.cases.iter().flat_map(|c| &c.peers).map(|p| p.model).collect();
    peers.sort_unstable();
    peers.dedup();
    let own = ["bits", "batch", "threads", "ms", "min", "max"].map(str::to_owned).into_iter();
    let nested = ["nested", "GB/s", "GOP/s", "roofline"].map(str::to_owned);
    let theirs = peers.iter().flat_map(|p| [format!("ORT {p}, ms"), "ours / theirs".to_owned()]);
    let mut t = table(own.chain(nested).chain(theirs), 1);
    for case in &report.cases {
        let mut row = vec![
            case.bits.clone(),
            case.batch.map_or_else(|| "-".to_owned(), |b| b.to_string()),
            case.threads.to_string(),
            millis(case.micros.median),
            millis(case.micros.min),
            millis(case.micros.max),
        ];
        row.extend(match &case.breakdown.nested {
            Some(work) => {
                let [gb, gop, roofline] = rates(work);
                [percent(work.share), gb, gop, roofline]
            }
            None => ["-"; 4].map(str::to_owned),
        });
        for name in &peers {
            row.extend(match case.peers.iter().find(|p| p.model == *name) {
                Some(peer) => [millis(peer.micros.median), format!("{:.2}", peer.ratio)],
                None => ["-"; 2].map(str::to_owned),
            });
        }
        t.add_row(row);
    }
    ui.print(t)?;
    if let Some(version) = &report.onnxruntime {
        ui.print(format_args!("ORT: onnxruntime {version}; medians of {} rounds", report.rounds))?;
    }
    Ok(())
}

/// A row a kind of operator, slow first, two columns a width.
fn kinds(ui: &Ui, group: &[Case], all: bool) -> Result<()> {
    let Some(first) = group.first() else { return Ok(()) };
    let columns = group.iter().flat_map(|case| [format!("us at {}", case.bits), "share".to_owned()]);
    let mut t = table(["operator", "count"].map(str::to_owned).into_iter().chain(columns), 1);
    let shown = if all { usize::MAX } else { SLOWEST };
    for kind in first.breakdown.ops.iter().take(shown) {
        let mut row = vec![kind.op.clone(), kind.count.to_string()];
        for case in group {
            let found = case.breakdown.ops.iter().find(|op| op.op == kind.op);
            row.extend(
                found
                    .map_or_else(|| ["-"; 2].map(str::to_owned), |op| [micros(op.micros), percent(op.share)]),
            );
        }
        t.add_row(row);
    }
    let rest: Vec<&OpKind> = first.breakdown.ops.iter().skip(shown).collect();
    if !rest.is_empty() {
        let mut row = vec![
            format!("{} other kinds", rest.len()),
            rest.iter().map(|k| k.count).sum::<usize>().to_string(),
        ];
        for case in group {
            let left = case.breakdown.ops.iter().filter(|op| rest.iter().any(|k| k.op == op.op));
            let sum: f64 = left.map(|op| op.micros).sum();
            row.extend([micros(sum), percent(share(sum, case.breakdown.micros))]);
        }
        t.add_row(row);
    }
    let sums = group.iter().flat_map(|case| [micros(case.breakdown.micros), percent(1.0)]);
    t.add_row(["all".to_owned(), String::new()].into_iter().chain(sums));
    ui.print(t)
}

/// The slowest layers at the first width, each at every width.
fn layers(ui: &Ui, group: &[Case], all: bool) -> Result<()> {
    let Some(first) = group.first().filter(|case| !case.breakdown.layers.is_empty()) else { return Ok(()) };
    let count = first.breakdown.layers.len();
    let shown = if all { count } else { count.min(SLOWEST) };
    let mut t = table(["layer", "rows x cols", "bits", "us", "share", "GB/s", "GOP/s", "roofline"], 1);
    for layer in first.breakdown.layers.iter().take(shown) {
        for (index, case) in group.iter().enumerate() {
            let found: Option<&Layer> = case.breakdown.layers.iter().find(|l| l.layer == layer.layer);
            let Some(found) = found else { continue };
            let name = if index == 0 { layer.layer.clone() } else { String::new() };
            let shape =
                if index == 0 { format!("{} x {}", layer.shape[0], layer.shape[1]) } else { String::new() };
            let [gb, gop, roofline] = rates(&found.work);
            let (time, share) = (micros(found.work.micros), percent(found.work.share));
            t.add_row([name, shape, found.bits.to_string(), time, share, gb, gop, roofline]);
        }
    }
    ui.print(t)?;
    match count - shown {
        0 => Ok(()),
        rest => ui.print(format_args!("{rest} faster layers; --all lists them")),
    }
}

fn rates(work: &Work) -> [String; 3] {
    [format!("{:.2}", work.gb_per_s), format!("{:.1}", work.gop_per_s), percent(work.roofline_share)]
}

fn millis(micros: f64) -> String {
    format!("{:.3}", micros / 1e3)
}

fn micros(micros: f64) -> String {
    format!("{micros:.1}")
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}
