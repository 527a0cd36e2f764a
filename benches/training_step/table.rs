//! Results: times of every lane, ratios to ours, and the bars.

use serde::Serialize;

use crate::models::Model;

/// Who ran, and how long a step took in each round, in milliseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Lane {
    pub name: String,
    pub millis: Vec<f64>,
}

impl Lane {
    pub fn new(name: &str) -> Lane {
        Lane { name: name.to_owned(), millis: vec![] }
    }
}

/// One case.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub model: Model,
    pub threads: usize,
    /// Ours, ours at three widths, then the peers.
    pub lanes: Vec<Lane>,
    /// Of the float step, of one width, of three.
    pub peak_bytes: [usize; 3],
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

impl Row {
    /// The median over rounds of one lane's time divided by another's.
    fn ratio(&self, lane: usize, by: usize) -> f64 {
        median(self.lanes[lane].millis.iter().zip(&self.lanes[by].millis).map(|(a, b)| a / b).collect())
    }
}

pub fn print(row: &Row) {
    println!("{}, threads {}", row.model.name(), row.threads);
    for (i, lane) in row.lanes.iter().enumerate() {
        let ours = row.ratio(0, i);
        println!(
            "  {:28} {:9.2} ms   our float step is {ours:.2} times it",
            lane.name,
            median(lane.millis.clone())
        );
    }
    let [float, one, three] = row.peak_bytes.map(|bytes| bytes as f64 / 1e6);
    println!("  memory: float {float:.1} MB, one width {one:.1} MB, three widths {three:.1} MB");
}

pub fn print_bars(rows: &[Row]) {
    println!("bars");
    for row in rows {
        let case = format!("{}, threads {}", row.model.name(), row.threads);
        let at_most = match row.model {
            Model::Mlp => 1.2,
            Model::Decoder => 1.0,
        };
        for (i, lane) in row.lanes.iter().enumerate().filter(|(_, lane)| lane.name.starts_with("jax")) {
            bar(&case, &format!("time by that of {}", lane.name), row.ratio(0, i), at_most);
        }
        bar(&case, "time of three widths by that of float", row.ratio(1, 0), 3.2);
        let [_, one, three] = row.peak_bytes.map(|bytes| bytes as f64);
        bar(&case, "memory of three widths by that of one", three / one, 1.3);
    }
}

fn bar(case: &str, what: &str, ratio: f64, at_most: f64) {
    let met = if ratio <= at_most { "met" } else { "MISSED" };
    println!("  {case}: {what}: {ratio:.2}, at most {at_most:.2}: {met}");
}
