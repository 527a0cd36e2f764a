//! `mqc passes`: what the compiler does, in order.

use anyhow::Result;
use mqc_passes::PASSES;
use serde::Serialize;

use super::Outcome;
use super::ui::{Ui, table};

#[derive(clap::Args)]
pub struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    about: &'static str,
}

impl Args {
    pub fn run(self, ui: &Ui) -> Result<Outcome> {
        let rows: Vec<Row> = PASSES.iter().map(|p| Row { name: p.name, about: p.about }).collect();
        ui.table_or_json(self.json, &rows, || {
            let mut t = table(["pass", "what it does"], 2);
            for row in &rows {
                t.add_row([row.name, row.about]);
            }
            t
        })?;
        Ok(Outcome::Passed)
    }
}
