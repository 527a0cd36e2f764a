//! What training can be told.

use mqc_ir::quant::{Affine, Width, Widths};
use serde::{Deserialize, Serialize};

/// Everything that decides what a training graph computes, besides the model and the shapes of its batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// R: the widths that are trained, wide first; none trains the float model.
    pub widths: Vec<Width>,
    /// The weight of each width's loss, in the order of `widths`.
    pub lambda: Vec<f32>,
    /// Where the weights go while the training runs; they stay if not given.
    pub lambda_ramp: Option<Ramp>,
    /// How the gradients of widths are weighed against each other, besides `lambda`.
    pub balance: Balance,
    /// What is minimised.
    pub loss: Loss,
    /// Slices whose output is another slice's target.
    pub codistill: Vec<Codistill>,
    /// Whether ranges are learned (gamma and beta of OmniQuant).
    pub range: Range,
    /// Whether widths have scales and shifts of their own.
    pub affine: Affine,
    /// Widths that keep the maps that an earlier stage gave them.
    pub frozen_maps: Vec<Width>,
    /// What is trained.
    pub trainable: Trainable,
    /// Learning rates of what is no weight.
    pub rates: Rates,
    /// The update rule.
    pub optimizer: Optimizer,
}

/// A line from `lambda` to other weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ramp {
    /// The weights that it ends at, in the order of `widths`.
    pub to: Vec<f32>,
    /// Step 1 has `lambda`, this step and all behind it have `to`.
    pub steps: u64,
}

/// How the gradients of widths are weighed against each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// As `lambda` says.
    #[default]
    None,
    /// Each width's loss is scaled so that the norms of the gradients by the shared codes agree, and then weighed by
    /// `lambda`. The norms are moving averages of the steps before, kept in the state.
    Norms,
}

/// Learning rates as multiples of that of the weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// Of the ends of ranges and of equivalent transformations.
    pub range: f32,
    /// Of scales: those of widths, which are about 1, and those of frozen codes.
    pub scale: f32,
    /// Of shifts and zero points, which are in codes.
    pub shift: f32,
    /// Of float parameters: norms, biases, tables.
    pub float: f32,
}

impl Default for Rates {
    fn default() -> Rates {
        Rates { range: 1.0, scale: 1.0, shift: 1.0, float: 1.0 }
    }
}

/// Whether the range of codes is learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Range {
    /// From the least to the greatest weight of the channel; the gradient passes the quantizer as if it were the identity
    /// (the paper's QAT).
    MinMax,
    /// As `MinMax`, but the outermost levels of the narrowest trained width stand on the least and the greatest weight:
    /// the quantizer of a model that is trained for that width alone.
    Levels,
    /// A factor on either end of it is learned, and the gradient flows through scale and zero point.
    Learned,
}

/// Weight matrices, their codes, or neither.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trainable {
    /// What happens to the nested weights themselves.
    pub latent: Latent,
    /// Whether biases, norms, embeddings and other float parameters are trained.
    pub floats: bool,
    /// Whether OmniQuant's equivalent transformations are learned, which needs `Latent::Given`.
    pub equivalent: bool,
    /// Only parameters whose name matches one of these globs; empty means all.
    pub include: Vec<String>,
    /// No parameters that match one of these.
    pub exclude: Vec<String>,
}

/// How a nested weight is held while it is trained.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Latent {
    /// A float weight, quantized anew at each step.
    Weights,
    /// The float weight stays as it is; the range of its codes is learned (OmniQuant).
    Given,
    /// A position on the scale of codes that stays within the bucket of its leading `prefix` bits: planes in turn.
    Codes {
        /// How many leading planes are frozen.
        prefix: Width,
        /// Steps of the optimizer are so much larger than for weights, which are smaller than codes.
        rate: f32,
    },
    /// Codes stay as they are; only their maps are trained.
    Frozen,
}

/// The loss of one width.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Loss {
    /// What it measures.
    pub kind: LossKind,
    /// Name of the output that it looks at.
    pub output: String,
}

/// See [`Loss`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossKind {
    /// Cross-entropy with class indices: the output `[.., classes]`, labels `[..]`.
    CrossEntropy {
        /// Labels of this value do not count.
        ignore: Option<i64>,
        /// Label smoothing: so much of the target is spread over all classes.
        smoothing: f32,
        /// The label of position t stands at t + 1: the labels are the inputs of a language model.
        shift: bool,
    },
    /// Cross-entropy with a distribution for each position, `[.., classes]`.
    SoftLabels,
    /// Mean squared error against targets of the output's shape.
    Mse,
    /// Kullback-Leibler divergence from the float model's distribution over the last axis.
    DistillKl,
    /// Mean squared error against the float model's output.
    DistillMse,
}

impl LossKind {
    /// Whether the float model's output is the target.
    pub const fn has_teacher(self) -> bool {
        match self {
            LossKind::DistillKl | LossKind::DistillMse => true,
            LossKind::CrossEntropy { .. } | LossKind::SoftLabels | LossKind::Mse => false,
        }
    }
}

/// Co-distillation: the output of a wide slice is a target of a narrow one (section 3.3 of arXiv 2502.06786).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Codistill {
    /// The slice whose output is the target.
    pub teacher: Width,
    /// The slice that learns from it.
    pub student: Width,
    /// Whether the student's own loss counts too, as much.
    pub with_truth: bool,
}

/// The update rule.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Optimizer {
    /// See there.
    pub rule: Rule,
    /// Decoupled decay of weights of two and more dimensions; never of norms, biases, scales and codes.
    pub weight_decay: f32,
    /// The greatest global norm of the gradient; 0 does not clip.
    pub clip: f32,
}

/// See [`Optimizer`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are those of the papers")]
pub enum Rule {
    /// arXiv 1711.05101.
    AdamW { beta1: f32, beta2: f32, epsilon: f32 },
    /// With heavy-ball momentum; 0 for none.
    Sgd { momentum: f32 },
}

impl Default for Optimizer {
    fn default() -> Optimizer {
        Optimizer {
            rule: Rule::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 },
            weight_decay: 0.01,
            clip: 1.0,
        }
    }
}

impl Options {
    /// The paper's recipe with our slicing: all weights and maps trained jointly at the given widths.
    pub fn new(widths: Widths, loss: Loss) -> Options {
        let widths: Vec<Width> = widths.iter().collect();
        Options {
            lambda: vec![1.0; widths.len()],
            lambda_ramp: None,
            balance: Balance::None,
            widths,
            loss,
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
            optimizer: Optimizer::default(),
        }
    }

    /// Whether gradients of widths are balanced: one alone is not.
    pub fn balances(&self) -> bool {
        self.balance == Balance::Norms && self.widths.len() > 1
    }

    /// Whether the gradient passes from weights at a width to the latent weights unchanged.
    pub fn is_straight(&self) -> bool {
        self.trainable.latent == Latent::Weights && self.range != Range::Learned
    }

    /// Codes between either end of their range and the least or greatest weight.
    pub fn inset(&self) -> f32 {
        match (self.range, self.widths.iter().min()) {
            (Range::Levels, Some(narrowest)) => ((1u32 << (8 - narrowest.bits())) - 1) as f32 / 2.0,
            (Range::MinMax | Range::Learned | Range::Levels, _) => 0.0,
        }
    }

    /// The widths that have maps of their own, wide first.
    pub fn maps(&self) -> Vec<Width> {
        let trained = match self.affine {
            Affine::PerWidth => self.widths.as_slice(),
            Affine::Shared => &[],
        };
        let mut maps = [trained, &self.frozen_maps].concat();
        maps.sort_unstable_by(|a, b| b.cmp(a));
        maps.dedup();
        maps
    }

    /// The width whose map serves `width`: its own or that of the nearest wider one that has a map. None is the map of
    /// the codes themselves.
    pub fn map_of(&self, width: Width) -> Option<Width> {
        self.maps().into_iter().filter(|w| *w >= width).min()
    }
}
