//! The command line: one file a subcommand, wiring only.

mod bench;
mod compile;
mod device;
mod engine;
mod eval;
mod export;
mod generate;
mod inspect;
mod ir;
mod passes;
mod run;
mod slice;
mod train;
pub mod ui;
mod verify;

use anyhow::Result;
use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::artifact;
use crate::usage::UsageError;

/// Nested-integer (Matryoshka) quantization for ONNX: one artifact, any precision from 1 to 8 bits at run time.
#[derive(Parser)]
#[command(version, about, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Log what is done, and how long each pass takes, to standard error (twice for more).
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// No progress, no summary: errors only.
    #[arg(long, short, global = true)]
    quiet: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Turn a float ONNX model into a nested artifact.
    Compile(compile::Args),
    /// Run an artifact or an ONNX model on the CPU.
    Run(run::Args),
    /// Generate text with a decoder on the CPU, at widths that may change on the way.
    Generate(generate::Args),
    /// Write an ONNX file for other runtimes.
    Export(export::Args),
    /// Show layers, shapes, bytes and signal-to-noise ratio per width.
    Inspect(inspect::Args),
    /// Compare an artifact with its float model.
    Verify(verify::Args),
    /// Measure how good a model is at every width: perplexity, multiple-choice questions, classification.
    Eval(eval::Args),
    /// Measure a model at every width: per layer, against the machine's limits, against onnxruntime.
    Bench(bench::Args),
    /// Train a model whose every width is good, and write its artifact.
    Train(Box<train::Args>),
    /// Make a smaller artifact by dropping bit planes.
    Slice(slice::Args),
    /// Print, parse and transform the textual IR.
    Ir(ir::Args),
    /// List the passes.
    Passes(passes::Args),
}

/// How a command that did its work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Exit code 0.
    Passed,
    /// A check failed: exit code 1.
    Failed,
}

impl Cli {
    /// Runs the command.
    pub fn run(self) -> Result<Outcome> {
        let ui = ui::Ui::new(self.quiet);
        match self.command {
            Command::Compile(args) => args.run(&ui),
            Command::Run(args) => args.run(&ui),
            Command::Generate(args) => args.run(&ui),
            Command::Export(args) => args.run(&ui),
            Command::Inspect(args) => args.run(&ui),
            Command::Verify(args) => args.run(&ui),
            Command::Eval(args) => args.run(&ui),
            Command::Bench(args) => args.run(&ui),
            Command::Train(args) => args.run(&ui),
            Command::Slice(args) => args.run(&ui),
            Command::Ir(args) => args.run(&ui),
            Command::Passes(args) => args.run(&ui),
        }
    }
}

/// Starts logging to standard error; `RUST_LOG` refines it.
pub fn trace(cli: &Cli) {
    let level = match cli.verbose {
        // tract warns of every operator set beyond 18, which the conformance tests run.
        0 => "warn,tract_onnx=error",
        1 => "mqc=info,mqc_ir=info,mqc_onnx=info,mqc_runtime=info,mqc_passes=info",
        _ => "mqc=debug,mqc_ir=debug,mqc_onnx=debug,mqc_runtime=debug,mqc_passes=debug",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_span_events(FmtSpan::CLOSE)
        .with_writer(std::io::stderr)
        .init();
}

/// 2 for usage and I/O, 1 for everything that is wrong with a model.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    let is_usage = |cause: &(dyn std::error::Error + 'static)| {
        use mqc_passes::Error::{BadPattern, Fuse, UnknownPass, UnmatchedPattern};
        use mqc_passes::mqc_fuse;
        let artifact = cause.downcast_ref::<artifact::Error>();
        let passes = cause.downcast_ref::<mqc_passes::Error>();
        cause.is::<std::io::Error>()
            || cause.is::<UsageError>()
            || cause.is::<mqc_ir::quant::ParseError>()
            || cause.is::<toml::de::Error>()
            || cause.is::<mqc_cuda::device::DeviceError>()
            || matches!(artifact, Some(artifact::Error::Exists { .. } | artifact::Error::NotReplaced { .. }))
            || matches!(
                passes,
                Some(
                    UnknownPass(_)
                        | UnmatchedPattern { .. }
                        | BadPattern { .. }
                        | Fuse(mqc_fuse::Error::UnknownRule(_))
                )
            )
            || cause.is::<mqc_fuse::Error>()
    };
    if error.chain().any(is_usage) { 2 } else { 1 }
}
