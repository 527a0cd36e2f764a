//! Writes an untrained decoder language model (pre-norm transformer) as ONNX, for experiments with training:
//! `cargo run --release --example decoder -- --layers 3 --width 128 --vocabulary 256 -o decoder.onnx`.
//!
//! Input `input_ids` i64 [batch, sequence], output `logits` f32 [batch, sequence, vocabulary].

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Parser;
use mqc_ir::op::{Binary, Compare, GeluKind};
use mqc_ir::{DType, Dim, F32, Graph, Op, Output, Tensor, Type, Value};
use mqc_onnx::Model;
use mqc_onnx::export::{self, ExportOptions};
use mqc_training::Builder;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Shape of the model.
#[derive(Parser)]
struct Args {
    /// Blocks of attention and feed-forward network.
    #[arg(long, default_value_t = 3)]
    layers: usize,
    /// Size of the hidden state.
    #[arg(long, default_value_t = 128)]
    width: usize,
    /// Heads of attention; they divide the width.
    #[arg(long, default_value_t = 4)]
    heads: usize,
    /// Tokens; 256 for bytes.
    #[arg(long, default_value_t = 256)]
    vocabulary: usize,
    /// The longest sequence.
    #[arg(long, default_value_t = 256)]
    context: usize,
    /// Seed of the weights.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where to write the model.
    #[arg(long, short)]
    output: PathBuf,
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.heads > 0 && args.width.is_multiple_of(args.heads), "--heads must divide --width");
    let mut graph = Graph::new("decoder");
    graph.opsets.insert(String::new(), 20);
    let dims = ["batch", "sequence"].map(|s| Dim::Symbol(s.into()));
    let ids = graph.add_input("input_ids", Type::tensor(DType::I64, dims.to_vec()));
    let mut net = Net {
        b: Builder::new(&mut graph, "embed"),
        random: ChaCha8Rng::seed_from_u64(args.seed),
        args: &args,
    };
    let logits = net.decoder(ids)?;
    graph.set_outputs(vec![Output {
        value: logits,
        name: "logits".into(),
        declared: graph.ty(logits).clone(),
    }]);
    export::write(&Model::from_graph(graph), &args.output, &ExportOptions::default())?;
    Ok(())
}

struct Net<'a> {
    b: Builder<'a>,
    random: ChaCha8Rng,
    args: &'a Args,
}

impl Net<'_> {
    /// A weight of normal numbers (sums of twelve uniform ones) of the given deviation.
    fn weight(&mut self, name: &str, shape: &[usize], deviation: f32) -> Result<Value> {
        let count = shape.iter().product();
        let mut normal = || (0..12).map(|_| self.random.random::<f32>()).sum::<f32>() - 6.0;
        let values: Vec<f32> = (0..count).map(|_| normal() * deviation).collect();
        Ok(self.b.graph.add_weight(name, Tensor::from_f32(shape.to_vec(), &values)?))
    }

    fn linear(&mut self, x: Value, name: &str, from: usize, to: usize) -> Result<Value> {
        let weight = self.weight(&format!("{name}.weight"), &[from, to], (from as f32).powf(-0.5))?;
        Ok(self.b.matmul(x, weight)?)
    }

    fn norm(&mut self, x: Value, name: &str) -> Result<Value> {
        let width = self.args.width;
        let gain = Tensor::from_f32(vec![width], &vec![1.0; width])?;
        let bias = Tensor::from_f32(vec![width], &vec![0.0; width])?;
        let gain = self.b.graph.add_weight(format!("{name}.weight"), gain);
        let bias = self.b.graph.add_weight(format!("{name}.bias"), bias);
        let op = Op::LayerNormalization { axis: -1, epsilon: F32(1e-5), stash_type: 1 };
        Ok(self.b.op(op, &[x, gain, bias])?)
    }

    fn decoder(&mut self, ids: Value) -> Result<Value> {
        let Args { width, vocabulary, context, layers, .. } = *self.args;
        let tokens = self.weight("embed.tokens", &[vocabulary, width], 0.05)?;
        let places = self.weight("embed.positions", &[context, width], 0.05)?;
        let shape = self.b.op(Op::Shape { start: 1, end: Some(2) }, &[ids])?;
        let one = self.b.constant(Tensor::i64_scalar(1));
        let zero = self.b.constant(Tensor::i64_scalar(0));
        let length = self.b.op(Op::Squeeze { axes: None }, &[shape])?;
        let positions = self.b.op(Op::Range, &[zero, length, one])?;
        let rows = self.unsqueeze(positions, 1)?;
        let columns = self.unsqueeze(positions, 0)?;
        let seen = self.b.compare(Compare::GreaterOrEqual, rows, columns)?;
        let words = self.b.op(Op::Gather { axis: 0 }, &[tokens, ids])?;
        let places = self.b.op(Op::Gather { axis: 0 }, &[places, positions])?;
        let mut x = self.b.add(words, places)?;
        for layer in 0..layers {
            let name = format!("layers.{layer}");
            self.b.set_scope(&name);
            let y = self.norm(x, &format!("{name}.norm1"))?;
            let y = self.attention(y, seen, &name)?;
            x = self.b.add(x, y)?;
            let y = self.norm(x, &format!("{name}.norm2"))?;
            let y = self.linear(y, &format!("{name}.up"), width, 4 * width)?;
            let y = self.b.op(Op::Gelu { approximate: GeluKind::Tanh }, &[y])?;
            let y = self.linear(y, &format!("{name}.down"), 4 * width, width)?;
            x = self.b.add(x, y)?;
        }
        self.b.set_scope("head");
        let x = self.norm(x, "norm")?;
        self.linear(x, "head", width, vocabulary)
    }

    fn unsqueeze(&mut self, x: Value, axis: i64) -> Result<Value> {
        let axis = self.b.ints(&[axis]);
        Ok(self.b.op(Op::Unsqueeze { axes: None }, &[x, axis])?)
    }

    fn attention(&mut self, x: Value, seen: Value, name: &str) -> Result<Value> {
        let (width, heads) = (self.args.width, self.args.heads);
        let size = width / heads;
        let joined = self.linear(x, &format!("{name}.qkv"), width, 3 * width)?;
        let split = Op::Split { axis: -1, sizes: None, num_outputs: Some(3) };
        let parts = self.b.node(split, &[Some(joined)], 3)?;
        let mut by_head = vec![];
        for part in parts {
            let shape = self.b.ints(&[0, 0, heads as i64, size as i64]);
            let part = self.b.op(Op::Reshape { allowzero: false }, &[part, shape])?;
            by_head.push(self.b.transpose(part, &[0, 2, 1, 3])?);
        }
        let keys = self.b.op(Op::Transpose { perm: Some(vec![0, 1, 3, 2]) }, &[by_head[1]])?;
        let scores = self.b.matmul(by_head[0], keys)?;
        let root = self.b.scalar((size as f32).sqrt());
        let scores = self.b.binary(Binary::Div, scores, root)?;
        let never = self.b.scalar(-1e9);
        let scores = self.b.select(seen, scores, never)?;
        let weights = self.b.op(Op::Softmax { axis: -1, flatten: false }, &[scores])?;
        let mixed = self.b.matmul(weights, by_head[2])?;
        let mixed = self.b.transpose(mixed, &[0, 2, 1, 3])?;
        let shape = self.b.ints(&[0, 0, width as i64]);
        let mixed = self.b.op(Op::Reshape { allowzero: false }, &[mixed, shape])?;
        self.linear(mixed, &format!("{name}.out"), width, width)
    }
}
