//! The stages of a training: all widths jointly, or planes in turn (the narrowest width first, then each wider one inside
//! the frozen buckets of the one before).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use mqc_ir::quant::{Affine, Width};
use mqc_ir::{Graph, Tensor};
use mqc_training::options::{Latent, Options, Ramp};
use mqc_training::{Training, training::names};

use super::runner::Place;
use super::trainee::Trainee;
use crate::train::{self, Data, Ended, Interrupt, Kind, Summary, Watch, checkpoint};
use crate::usage::UsageError;

/// In which order widths are trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Schedule {
    /// All at once, as the paper does.
    Joint,
    /// Planes in turn: a stage for each width, from narrow to wide.
    #[default]
    InTurn,
}

impl std::str::FromStr for Schedule {
    type Err = UsageError;

    fn from_str(text: &str) -> Result<Schedule, UsageError> {
        match text {
            "joint" => Ok(Schedule::Joint),
            "in-turn" => Ok(Schedule::InTurn),
            other => Err(UsageError(format!("{other:?} is no schedule; expected joint or in-turn"))),
        }
    }
}

impl Schedule {
    /// The widths of each stage; `widths` are in order, wide first.
    pub fn stages(self, widths: &[Width]) -> Vec<Vec<Width>> {
        match self {
            Schedule::InTurn if !widths.is_empty() => widths.iter().rev().map(|w| vec![*w]).collect(),
            Schedule::InTurn | Schedule::Joint => vec![widths.to_vec()],
        }
    }
}

/// Stages must go from narrow to wide: a later one only sets bits below those that are frozen.
///
/// # Errors
/// A width that is not wider than all of the stages before.
pub fn check(stages: &[Vec<Width>]) -> Result<()> {
    let mut frozen: Option<Width> = None;
    for stage in stages {
        if let (Some(frozen), Some(least)) = (frozen, stage.iter().min())
            && *least <= frozen
        {
            bail!(UsageError(format!("a stage trains {least} bits after {frozen} bits are frozen")));
        }
        frozen = frozen.max(stage.iter().max().copied());
    }
    Ok(())
}

/// The options of stage `index`; `base` holds all widths and their lambda.
pub fn stage_options(
    base: &Options,
    stages: &[Vec<Width>],
    index: usize,
    code_rate: f32,
    thaw: bool,
) -> Options {
    let widths = stages.get(index).cloned().unwrap_or_default();
    let of_stage = |lambda: &[f32]| -> Vec<f32> {
        let place = |w: &Width| base.widths.iter().position(|b| b == w);
        widths.iter().map(|w| place(w).and_then(|i| lambda.get(i).copied()).unwrap_or(1.0)).collect()
    };
    let earlier: Vec<Width> = stages.iter().take(index).flatten().copied().collect();
    let mut options = base.clone();
    options.lambda = of_stage(&base.lambda);
    // One width alone counts the same, whatever its weight.
    let ramp = base.lambda_ramp.as_ref().filter(|_| widths.len() > 1);
    options.lambda_ramp = ramp.map(|ramp| Ramp { to: of_stage(&ramp.to), steps: ramp.steps });
    options.codistill.retain(|p| widths.contains(&p.teacher) && widths.contains(&p.student));
    options.widths = widths;
    if let Some(prefix) = earlier.iter().max().copied() {
        options.trainable.latent = Latent::Codes { prefix, rate: code_rate };
        options.trainable.floats = thaw;
        if base.affine == Affine::PerWidth {
            options.frozen_maps = earlier;
        }
    }
    options
}

/// All that a run of stages needs.
pub struct Run<'a> {
    /// The model, of fixed shapes.
    pub graph: Graph,
    /// Options of each stage.
    pub stages: Vec<Options>,
    /// The loop's options for each stage.
    pub loops: Vec<train::Options>,
    /// Replicas that evaluation measures; those that a stage has not trained yet are measured too.
    pub evaluated: Vec<Option<Width>>,
    /// Batches of the model's size in a step.
    pub parts: usize,
    /// Threads, 0 for all.
    pub place: Place,
    /// Where checkpoints go; each stage but an only one has a folder of its own there.
    pub folder: PathBuf,
    /// Whether to continue what is there.
    pub resume: bool,
    /// Data of a stage.
    pub data: &'a mut dyn FnMut(usize) -> Result<Data>,
    /// State that comes before the first stage: codes for `Latent::Frozen`.
    pub earlier: BTreeMap<String, Tensor>,
}

/// What training ends with.
pub struct Trained {
    /// The last stage.
    pub training: Training,
    /// Its state, with what earlier stages froze.
    pub state: BTreeMap<String, Tensor>,
    /// Codes and maps of every layer; empty when the model was trained in float.
    pub codes: BTreeMap<String, Tensor>,
    /// What each stage did.
    pub summaries: Vec<Summary>,
}

/// How a run of stages ended.
pub enum Finished<T> {
    /// All is done.
    All(T),
    /// It was stopped and can be continued.
    Stopped(Summary),
}

/// Runs the stages. `watch` is asked for somebody to watch each stage.
///
/// # Errors
/// What a stage finds wrong with its model, data or checkpoints.
pub fn run(mut run: Run, interrupt: &Interrupt, watch: &mut dyn Watch) -> Result<Finished<Box<Trained>>> {
    let count = run.stages.len();
    let mut earlier = std::mem::take(&mut run.earlier);
    let mut summaries = vec![];
    for index in 0..count {
        let options = run.stages[index].clone();
        let training = Training::new(run.graph.clone(), options, &earlier)?;
        let mut trainee = Trainee::new(training, &run.evaluated, run.parts, &run.place)?;
        let folder = match count {
            1 => run.folder.clone(),
            _ => run.folder.join(format!("stage-{}", index + 1)),
        };
        // A later stage has no folder yet when the stage before was interrupted.
        let resume = run.resume && (index == 0 || folder.exists());
        let mut data = (run.data)(index).with_context(|| format!("stage {}", index + 1))?;
        let loops = &run.loops[index];
        let summary = train::train(&mut trainee, &mut data, loops, &folder, resume, interrupt, watch)?;
        match summary.ended {
            Ended::Finished | Ended::EarlyStop => {}
            Ended::StopAfter | Ended::Interrupted => return Ok(Finished::Stopped(summary)),
        }
        summaries.push(summary);
        take_best(&mut trainee, &folder)?;
        let mut state = trainee.state_tensors()?;
        let codes =
            if run.stages[index].widths.is_empty() { BTreeMap::new() } else { trainee.codes(&run.place)? };
        if index + 1 == count {
            let training = trainee.into_training();
            // What only an earlier stage had: weights behind codes, ends of ranges.
            for (name, tensor) in earlier {
                state.entry(name).or_insert(tensor);
            }
            return Ok(Finished::All(Box::new(Trained { training, state, codes, summaries })));
        }
        earlier.extend(state);
        // Codes in groups, scales and zero points are state of the next stage.
        for layer in trainee.training().layers() {
            let weight = &layer.weight;
            for name in [names::code(weight), names::scale(weight), names::zero(weight)] {
                if let Some(tensor) = codes.get(&name) {
                    earlier.insert(name, tensor.clone());
                }
            }
        }
        earlier.retain(|name, _| !names::is_moment(name));
    }
    bail!("there is no stage to train")
}

/// The best state by validation, where there was one; else the last stays.
pub(super) fn take_best(trainee: &mut Trainee, folder: &Path) -> Result<()> {
    let place = folder.join(Kind::Best.name());
    if place.exists() {
        let best = checkpoint::load(&place)?;
        train::model::restore(trainee, &best.state)?;
    }
    Ok(())
}
