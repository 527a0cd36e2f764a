//! The two models: the same sizes, initial distributions and optimizer as the peers' scripts have.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use mqc_ir::op::{GeluKind, NestedQuantize, Unary, WeightLayout};
use mqc_ir::quant::{Affine, Grouping, RangeMethod, Scheme, SliceMode, Width, Widths};
use mqc_ir::{DType, F32, Graph, Node, Op, Output, Tensor, Type, Value, ValueInfo};
use mqc_training::options::{Balance, Latent, Loss, LossKind, Optimizer, Range, Rates, Trainable};
use mqc_training::{Builder, Options, Training};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Which model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Model {
    /// 784-512-512-10, ReLU, batch 128.
    Mlp,
    /// Pre-norm transformer decoder: 4 layers, width 256, 4 heads, inner width 1024, vocabulary 256, sequence 128, batch 16.
    Decoder,
}

impl Model {
    /// What results and peers call it.
    pub fn name(self) -> &'static str {
        match self {
            Model::Mlp => "mlp",
            Model::Decoder => "decoder",
        }
    }

    /// Sizes of the input, number of classes, sizes of the labels.
    pub fn data(self) -> (Vec<usize>, usize, Vec<usize>) {
        match self {
            Model::Mlp => (vec![128, 784], 10, vec![128]),
            Model::Decoder => (vec![16, 128], 256, vec![16, 128]),
        }
    }

    /// The training of these widths; of none, float training.
    pub fn training(self, widths: &[Width]) -> Result<Training> {
        let options = Options {
            lambda: vec![1.0; widths.len()],
            lambda_ramp: None,
            balance: Balance::None,
            widths: widths.to_vec(),
            loss: Loss {
                kind: LossKind::CrossEntropy { ignore: None, smoothing: 0.0, shift: false },
                output: "logits".to_owned(),
            },
            codistill: vec![],
            range: Range::Learned,
            affine: Affine::PerWidth,
            frozen_maps: vec![],
            trainable: Trainable {
                latent: Latent::Weights,
                floats: true,
                equivalent: false,
                include: vec![],
                exclude: vec![],
            },
            rates: Rates::default(),
            optimizer: Optimizer { clip: 0.0, ..Optimizer::default() },
        };
        Ok(Training::new(self.graph()?, options, &BTreeMap::new())?)
    }

    fn graph(self) -> Result<Graph> {
        let mut graph = Graph::new(self.name());
        graph.opsets.insert(String::new(), 23);
        let mut random = ChaCha8Rng::seed_from_u64(0);
        let mut maker = Maker { b: Builder::new(&mut graph, "model"), random: &mut random };
        let logits = match self {
            Model::Mlp => maker.mlp(self)?,
            Model::Decoder => maker.decoder(self)?,
        };
        let declared = graph.ty(logits).clone();
        graph.set_outputs(vec![Output { value: logits, name: "logits".to_owned(), declared }]);
        Ok(graph)
    }
}

struct Maker<'g, 'r> {
    b: Builder<'g>,
    random: &'r mut ChaCha8Rng,
}

impl Maker<'_, '_> {
    fn weight(&mut self, name: &str, shape: &[usize], deviation: f32) -> Result<Value> {
        // Of the same variance as the peers' normal distribution.
        let reach = deviation * 3f32.sqrt();
        let values: Vec<f32> =
            (0..shape.iter().product()).map(|_| self.random.random_range(-1.0..1.0) * reach).collect();
        Ok(self.b.graph.add_weight(name, Tensor::from_f32(shape.to_vec(), &values)?))
    }

    fn filled(&mut self, name: &str, size: usize, value: f32) -> Result<Value> {
        Ok(self.b.graph.add_weight(name, Tensor::from_f32(vec![size], &vec![value; size])?))
    }

    fn linear(&mut self, name: &str, x: Value, inner: usize, outer: usize) -> Result<Value> {
        let w = self.weight(&format!("{name}.w"), &[inner, outer], 1.0 / (inner as f32).sqrt())?;
        let bias = self.filled(&format!("{name}.b"), outer, 0.0)?;
        let w = self.nested(name, w, &[inner, outer])?;
        let product = self.b.matmul(x, w)?;
        Ok(self.b.add(product, bias)?)
    }

    /// As the matquant pass leaves it: training takes the weight itself, or slices of it.
    fn nested(&mut self, name: &str, weight: Value, shape: &[usize]) -> Result<Value> {
        let (mode, layout) = (SliceMode::default(), WeightLayout::RowsLast);
        let quantize = Op::NestedQuantize(NestedQuantize {
            scheme: Scheme::default(),
            mode,
            grouping: Grouping::default(),
            range: RangeMethod::Minmax,
            widths: Widths::default(),
            lambda: vec![F32(1.0); Widths::default().count()],
            layout,
            allow_nonfinite: false,
        });
        let outputs = (0..3).map(|i| ValueInfo { name: format!("{name}/{i}"), ty: Type::Unknown }).collect();
        let node = self.b.graph.insert(Node::new(quantize, name, outputs), &[Some(weight)])?;
        let [codes, scale, zero] = [0, 1, 2].map(|slot| Value { node, slot });
        mqc_ir::infer::infer_node(self.b.graph, node)?;
        let width = Width::MAX;
        let slice = self.b.op(Op::SliceBits { width, mode }, &[codes])?;
        let shape = shape.iter().map(|d| *d as u64).collect();
        let op = Op::Dequantize { width, mode, grouping: Grouping::default(), layout, shape };
        Ok(self.b.op(op, &[slice, scale, zero])?)
    }

    fn norm(&mut self, name: &str, x: Value, size: usize) -> Result<Value> {
        let (gain, bias) =
            (self.filled(&format!("{name}.g"), size, 1.0)?, self.filled(&format!("{name}.b"), size, 0.0)?);
        let op = Op::LayerNormalization { axis: -1, epsilon: F32(1e-5), stash_type: 1 };
        Ok(self.b.op(op, &[x, gain, bias])?)
    }

    fn mlp(&mut self, model: Model) -> Result<Value> {
        let mut x = self.b.input("x", DType::F32, &model.data().0);
        for (i, (inner, outer)) in [(784, 512), (512, 512), (512, 10)].into_iter().enumerate() {
            x = self.linear(&format!("layer{i}"), x, inner, outer)?;
            if i < 2 {
                x = self.b.unary(Unary::Relu, x)?;
            }
        }
        Ok(x)
    }

    fn decoder(&mut self, model: Model) -> Result<Value> {
        let (shape, vocabulary, _) = model.data();
        let [batch, length]: [usize; 2] = shape.try_into().ok().context("two sizes")?;
        let (width, heads, inner, layers) = (256, 4, 1024, 4);
        let size = width / heads;
        let tokens = self.b.input("x", DType::I64, &[batch, length]);
        let table = self.weight("embedding", &[vocabulary, width], 0.02)?;
        let positions = self.weight("positions", &[length, width], 0.02)?;
        let x = self.b.op(Op::Gather { axis: 0 }, &[table, tokens])?;
        let mut x = self.b.add(x, positions)?;
        let mask: Vec<f32> =
            (0..length * length).map(|i| if i % length > i / length { -1e9 } else { 0.0 }).collect();
        let mask = self.b.constant(Tensor::from_f32(vec![length, length], &mask)?);
        for layer in 0..layers {
            let name = |part: &str| format!("layer{layer}.{part}");
            let normal = self.norm(&name("n1"), x, width)?;
            let all = self.linear(&name("qkv"), normal, width, 3 * width)?;
            let mut head = |part: usize| -> Result<Value> {
                let one = self.b.slice(all, 2, part * width, width)?;
                let one = self.b.reshape(one, &[batch, length, heads, size])?;
                Ok(self.b.transpose(one, &[0, 2, 1, 3])?)
            };
            let (q, k, v) = (head(0)?, head(1)?, head(2)?);
            let k = self.b.transpose_last(k)?;
            let scores = self.b.matmul(q, k)?;
            let scores = self.b.scale(scores, 1.0 / (size as f32).sqrt())?;
            let scores = self.b.add(scores, mask)?;
            let weights = self.b.op(Op::Softmax { axis: -1, flatten: false }, &[scores])?;
            let mixed = self.b.matmul(weights, v)?;
            let mixed = self.b.transpose(mixed, &[0, 2, 1, 3])?;
            let mixed = self.b.reshape(mixed, &[batch, length, width])?;
            let out = self.linear(&name("o"), mixed, width, width)?;
            x = self.b.add(x, out)?;
            let normal = self.norm(&name("n2"), x, width)?;
            let bent = self.linear(&name("f1"), normal, width, inner)?;
            let bent = self.b.op(Op::Gelu { approximate: GeluKind::Tanh }, &[bent])?;
            let out = self.linear(&name("f2"), bent, inner, width)?;
            x = self.b.add(x, out)?;
        }
        let x = self.norm("last", x, width)?;
        self.linear("head", x, width, vocabulary)
    }
}
