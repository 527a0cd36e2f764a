//! The command `mqc`: parse, trace, run, print the error chain, exit code.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use mqc::cli::{Cli, Outcome};

fn main() -> ExitCode {
    let cli = Cli::parse();
    mqc::cli::trace(&cli);
    match cli.run() {
        Ok(Outcome::Passed) => ExitCode::SUCCESS,
        Ok(Outcome::Failed) => ExitCode::from(1),
        Err(error) => {
            let mut stderr = std::io::stderr().lock();
            // A closed standard error leaves nobody to tell.
            let _ = writeln!(stderr, "error: {error}");
            for cause in error.chain().skip(1) {
                let _ = writeln!(stderr, "caused by: {cause}");
            }
            ExitCode::from(mqc::cli::exit_code(&error))
        }
    }
}
