//! One product: its data, what the definition says of it, and how far a kernel may be from that.

use half::{bf16, f16};
use mqc_cuda::{Activation, Element, Kernel, Problem};
use mqc_ir::quant::{SliceMode, Width};
use mqc_kernels::nested;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The kind of numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Data {
    /// Small multiples of powers of two: every sum is exact in f32, so that a kernel must agree to the last bit.
    Exact,
    /// Of the sizes that models have.
    Random,
    /// Tokens of very different sizes.
    Wide,
}

/// A product.
pub struct Case {
    pub kernel: Kernel,
    pub problem: Problem,
    pub data: Data,
    pub codes: Vec<u8>,
    /// [rows, groups]
    pub scale: Vec<f32>,
    pub zero: Vec<f32>,
    /// [tokens, cols]; exact in the kernel's type, as all others.
    pub x: Vec<f64>,
    pub bias: Vec<f32>,
    /// [tokens, rows]
    pub gate: Vec<f64>,
    pub residual: Vec<f64>,
}

impl Case {
    pub fn new(kernel: Kernel, problem: Problem, data: Data, seed: u64) -> Case {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let Problem { rows, cols, tokens, .. } = problem;
        let groups = rows * kernel.grouping.groups(cols);
        let mut codes: Vec<u8> = (0..rows * cols).map(|_| rng.random()).collect();
        // Every code appears wherever there is room for all.
        codes.iter_mut().zip(0..=255).for_each(|(code, q)| *code = q);
        let mut quarters = |count: usize, most: i32| -> Vec<f64> {
            (0..count).map(|_| f64::from(rng.random_range(-most..=most)) / 4.0).collect()
        };
        let (x, bias) = (quarters(tokens * cols, 8), quarters(rows, 40));
        let (gate, residual) = (quarters(tokens * rows, 8), quarters(tokens * rows, 40));
        let mut case = Case {
            kernel,
            problem,
            data,
            codes,
            scale: (0..groups).map(|_| [0.25, 0.5, 1.0][rng.random_range(0..3)]).collect(),
            zero: (0..groups).map(|_| rng.random_range(200..312) as f32 / 2.0).collect(),
            x,
            bias: bias.iter().map(|v| *v as f32).collect(),
            gate,
            residual,
        };
        if data != Data::Exact {
            case.scale.iter_mut().for_each(|v| *v = rng.random_range(0.0005..0.005));
            case.zero.iter_mut().for_each(|v| *v = rng.random_range(90.0..160.0));
            for values in [&mut case.x, &mut case.gate, &mut case.residual] {
                values.iter_mut().for_each(|v| *v = kernel.element.round(rng.random_range(-2.0..2.0)));
            }
        }
        if data == Data::Wide {
            for (token, x) in case.x.chunks_mut(cols).enumerate() {
                let range =
                    if kernel.element == Element::F16 { [0, 4, -4, 6, -8] } else { [0, 60, -60, 90, -100] };
                let size = 2f64.powi(range[token % 5]);
                x.iter_mut().for_each(|v| *v = kernel.element.round(*v * size));
            }
        }
        case
    }

    /// The outputs by the definition, [tokens, rows], with the distance that a kernel may have: the sum of what is added
    /// up, times the error of sums in f32.
    pub fn expected(&self) -> Vec<(f64, f64)> {
        let Problem { rows, cols, tokens, .. } = self.problem;
        let Kernel { width, mode, grouping, epilogue, .. } = self.kernel;
        let (size, groups) = (grouping.size(cols), grouping.groups(cols));
        let mut out = vec![];
        for token in 0..tokens {
            for row in 0..rows {
                let (mut sum, mut weight) = (0.0, 0.0);
                for k in 0..cols {
                    let (scale, zero) =
                        (self.scale[row * groups + k / size], self.zero[row * groups + k / size]);
                    let x = self.x[token * cols + k];
                    sum += self.weight(self.codes[row * cols + k], width, mode, scale, zero) * x;
                    weight += 256.0 * f64::from(scale) * x.abs();
                }
                let at = token * rows + row;
                let mut error = if self.data == Data::Exact { 0.0 } else { weight * 2f64.powi(-20) };
                if epilogue.bias {
                    sum += f64::from(self.bias[row]);
                }
                sum = activate(epilogue.activation, sum);
                if !matches!(epilogue.activation, Activation::Identity | Activation::Relu) {
                    // No activation is steeper than 1.13; erf, tanh and exp themselves are within some units in the last place.
                    error = 1.2 * error + 4e-6 * (1.0 + sum.abs());
                }
                if epilogue.gate {
                    sum *= self.gate[at];
                    error *= self.gate[at].abs();
                }
                if epilogue.residual {
                    sum += self.residual[at];
                }
                out.push((sum, error));
            }
        }
        out
    }

    fn weight(&self, code: u8, width: Width, mode: SliceMode, scale: f32, zero: f32) -> f64 {
        f64::from(nested::dequantize(code, width, mode, scale, zero))
    }

    /// Says what differs, if anything does more than it may.
    pub fn check(&self, found: &[u8]) -> Result<(), String> {
        let element = self.kernel.element;
        let found = element.read(found);
        let expected = self.expected();
        if found.len() != expected.len() {
            return Err(format!("{} outputs, expected {}", found.len(), expected.len()));
        }
        for (i, (&found, (expected, error))) in found.iter().zip(expected).enumerate() {
            // An output between the two ends of what is allowed, rounded to its type.
            let (low, high) = (element.round(expected - error), element.round(expected + error));
            let inside = low <= found && found <= high;
            if !inside {
                let (token, row) = (i / self.problem.rows, i % self.problem.rows);
                return Err(format!(
                    "token {token} row {row}: {found}, expected {expected} ({low} to {high})"
                ));
            }
        }
        Ok(())
    }
}

fn activate(activation: Activation, v: f64) -> f64 {
    match activation {
        Activation::Identity => v,
        Activation::Relu => v.max(0.0),
        Activation::Gelu => v / 2.0 * (1.0 + erf(v / 2f64.sqrt())),
        Activation::GeluTanh => {
            v / 2.0 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (v + 0.044715 * v.powi(3))).tanh())
        }
        Activation::Silu => v / (1.0 + (-v).exp()),
    }
}

/// The error function by its series, and where that cancels by the continued fraction of its complement.
fn erf(x: f64) -> f64 {
    let root_pi = std::f64::consts::PI.sqrt();
    if x.abs() > 2.5 {
        let fraction = (1..=80).rev().fold(x.abs(), |below, n| x.abs() + f64::from(n) / 2.0 / below);
        return x.signum() * (1.0 - (-x * x).exp() / (root_pi * fraction));
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..100 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    2.0 / root_pi * sum
}

/// Values of a type of activations.
pub trait Values {
    fn round(self, value: f64) -> f64;
    fn bytes_of(self, values: &[f64]) -> Vec<u8>;
    fn read(self, bytes: &[u8]) -> Vec<f64>;
}

impl Values for Element {
    fn round(self, value: f64) -> f64 {
        match self {
            Element::F16 => f16::from_f64(value).to_f64(),
            Element::Bf16 => bf16::from_f32(value as f32).to_f64(),
            Element::F32 => f64::from(value as f32),
        }
    }

    fn bytes_of(self, values: &[f64]) -> Vec<u8> {
        let bytes = |v: &f64| match self {
            Element::F16 => f16::from_f64(*v).to_le_bytes().to_vec(),
            Element::Bf16 => bf16::from_f64(*v).to_le_bytes().to_vec(),
            Element::F32 => (*v as f32).to_le_bytes().to_vec(),
        };
        values.iter().flat_map(bytes).collect()
    }

    fn read(self, bytes: &[u8]) -> Vec<f64> {
        let read = |b: &[u8]| match self {
            Element::F16 => f16::from_le_bytes([b[0], b[1]]).to_f64(),
            Element::Bf16 => bf16::from_le_bytes([b[0], b[1]]).to_f64(),
            Element::F32 => f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        };
        bytes.chunks_exact(self.bytes()).map(read).collect()
    }
}
