//! What the command line means to a training: its options, its stages, its loop.

use anyhow::{Context, Result, bail};
use mqc_ir::Graph;
use mqc_ir::quant::{Affine, Width, Widths};
use mqc_training::options::{
    Balance, Latent, Loss, LossKind, Optimizer, Options, Ramp, Range, Rates, Rule, Trainable,
};

use super::Args;
use super::args::{Balancing, Ends, LossName, Method};
use crate::cli::ui::UsageError;
use crate::method::stages;
use crate::method::trainee::width_name;
use crate::train::{self, BestBy};

impl Args {
    pub(super) fn options(
        &self,
        graph: &Graph,
        widths: &[Width],
        quantize: &mqc_passes::QuantizeOptions,
    ) -> Result<Options> {
        let what = &self.what;
        let output = match &what.loss_output {
            Some(name) => name.clone(),
            None => {
                let names: Vec<&str> = graph.outputs().iter().map(|o| o.name.as_str()).collect();
                let named = names.iter().find(|n| **n == "logits").or(names.first());
                named.context("the model has no output")?.to_string()
            }
        };
        let is_logits = output == "logits";
        let kind = match what.loss {
            LossName::Distill if is_logits => LossKind::DistillKl,
            LossName::Distill | LossName::DistillMse => LossKind::DistillMse,
            LossName::DistillKl => LossKind::DistillKl,
            LossName::Ce => LossKind::CrossEntropy {
                ignore: what.ignore_index,
                smoothing: what.label_smoothing,
                shift: what.shift_labels,
            },
            LossName::SoftCe => LossKind::SoftLabels,
            LossName::Mse => LossKind::Mse,
        };
        if what.method == Method::Omniquant && !kind.has_teacher() {
            let message =
                "--method omniquant compares blocks with those of the float model; leave --loss away";
            bail!(UsageError(message.to_owned()));
        }
        if what.method == Method::Float && kind.has_teacher() {
            bail!(UsageError(
                "--method float has no teacher to distill from; choose --loss ce or mse".to_owned()
            ));
        }
        let of_widths = |lambda: &[f32]| -> Vec<f32> {
            let place = |w: &Width| quantize.widths.iter().position(|q| q == *w);
            widths.iter().map(|w| place(w).and_then(|i| lambda.get(i).copied()).unwrap_or(1.0)).collect()
        };
        let count = quantize.widths.iter().count();
        if let Some(end) = self.how.lambda_end.as_ref().filter(|end| end.len() != count) {
            let found = end.len();
            bail!(UsageError(format!(
                "--lambda-end needs a number for each of the {count} widths, found {found}"
            )));
        }
        if !(self.how.lambda_until > 0.0 && self.how.lambda_until <= 1.0) {
            bail!(UsageError("--lambda-until is a share of the steps: above 0, at most 1".to_owned()));
        }
        let rule = match self.how.optimizer.as_str() {
            "sgd" => Rule::Sgd { momentum: self.how.momentum },
            _ => Rule::AdamW { beta1: self.how.betas[0], beta2: self.how.betas[1], epsilon: 1e-8 },
        };
        Ok(Options {
            lambda: of_widths(&quantize.lambda),
            lambda_ramp: self.how.lambda_end.as_ref().map(|end| Ramp { to: of_widths(end), steps: 0 }),
            balance: match self.how.balance {
                Balancing::None => Balance::None,
                Balancing::Norms => Balance::Norms,
            },
            widths: widths.to_vec(),
            loss: Loss { kind, output },
            codistill: what.codistill.clone(),
            range: match what.ends {
                Ends::Learned => Range::Learned,
                Ends::Minmax => Range::MinMax,
                Ends::Levels => Range::Levels,
            },
            affine: self.settings.affine().unwrap_or(Affine::PerWidth),
            frozen_maps: vec![],
            trainable: Trainable {
                latent: match what.method {
                    Method::Qat | Method::Float => Latent::Weights,
                    Method::Omniquant => Latent::Given,
                    Method::Scales => Latent::Frozen,
                },
                floats: what.method != Method::Omniquant,
                equivalent: what.method == Method::Omniquant,
                include: what.trainable.clone(),
                exclude: what.frozen.clone(),
            },
            rates: Rates {
                range: self.how.range_rate,
                scale: self.how.scale_rate,
                shift: self.how.shift_rate,
                float: self.how.float_rate,
            },
            optimizer: Optimizer { rule, weight_decay: self.how.weight_decay, clip: self.how.clip },
        })
    }

    pub(super) fn stages(&self, widths: &[Width]) -> Result<Vec<Vec<Width>>> {
        let stages = match &self.what.stages {
            Some(text) => text
                .split(';')
                .map(|stage| Ok(stage.parse::<Widths>()?.iter().collect()))
                .collect::<Result<Vec<Vec<Width>>>>()?,
            None if self.what.method == Method::Qat => self.what.schedule.stages(widths),
            None => vec![widths.to_vec()],
        };
        if stages.iter().flatten().any(|w| !widths.contains(w)) {
            bail!(UsageError("--stages has a width that is not trained".to_owned()));
        }
        stages::check(&stages)?;
        for pair in &self.what.codistill {
            if !stages.iter().any(|stage| stage.contains(&pair.teacher) && stage.contains(&pair.student)) {
                let (wide, narrow) = (pair.teacher, pair.student);
                bail!(UsageError(format!(
                    "--codistill {wide}:{narrow} needs a stage that trains both; --schedule joint has one, or --stages"
                )));
            }
        }
        let weighs = [
            ("--lambda-end", self.how.lambda_end.is_some()),
            ("--balance", self.how.balance != Balancing::None),
        ];
        if let Some((name, _)) = weighs.iter().find(|(_, is_given)| *is_given)
            && stages.iter().all(|stage| stage.len() < 2)
        {
            bail!(UsageError(format!(
                "{name} needs a stage that trains several widths; --schedule joint has one, or --stages"
            )));
        }
        Ok(stages)
    }

    /// The options of one stage; `base` holds all widths.
    pub(super) fn stage(&self, base: &Options, stages: &[Vec<Width>], index: usize) -> Options {
        let mut base = base.clone();
        if let Some(ramp) = &mut base.lambda_ramp {
            ramp.steps = (self.steps(index) as f64 * self.how.lambda_until).ceil() as u64;
        }
        stages::stage_options(&base, stages, index, self.how.code_rate, self.what.thaw)
    }

    fn steps(&self, stage: usize) -> u64 {
        self.how.steps.get(stage).or(self.how.steps.last()).copied().unwrap_or(0)
    }

    pub(super) fn evaluated(&self, widths: &[Width]) -> Result<Vec<Option<Width>>> {
        if self.what.method == Method::Float {
            return Ok(vec![None]);
        }
        let mut all = match self.run.evaluate_bits {
            Some(bits) => bits.iter().collect(),
            None => [widths, &[Width::new(6)?, Width::new(3)?]].concat(),
        };
        all.sort_unstable_by(|a, b| b.cmp(a));
        all.dedup();
        Ok(all.into_iter().map(Some).collect())
    }

    pub(super) fn loop_options(&self, stage: usize, options: &Options) -> Result<train::Options> {
        let steps = self.steps(stage);
        let schedule = train::Schedule {
            rate: self.how.lr,
            warmup: self.how.warmup.unwrap_or(50.min(steps / 10)),
            decay: self.how.lr_schedule,
            floor: self.how.lr_floor,
            steps,
        };
        // A stage is judged by what it trains. Without validation data there is nothing to judge by.
        let validates = self.data.validation_share.is_some()
            || self.data.validation_text.is_some()
            || !self.data.validation_data.is_empty();
        let best_by = match (self.run.best_by.is_empty(), validates) {
            (true, false) => BestBy::default(),
            (true, true) => BestBy(options.widths.iter().map(|w| width_name(Some(*w))).collect()),
            (false, _) => BestBy(self.run.best_by.clone()),
        };
        let fixed = serde_json::to_value(options)?;
        Ok(train::Options {
            schedule,
            evaluate_every: self.run.evaluate_every.unwrap_or((steps / 10).max(1)),
            validation_batches: self.run.validation_batches,
            save_every: self.run.save_every,
            log_every: 1,
            stop_after: self.run.stop_after,
            patience: self.run.patience,
            best_by,
            is_language_model: self.data.text.is_some(),
            fixed: fixed.as_object().cloned().unwrap_or_default(),
        })
    }
}
