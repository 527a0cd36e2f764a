//! A model with its options and its state: what is trained, what is frozen, under which names.

use std::collections::BTreeMap;

use globset::{Glob, GlobSet, GlobSetBuilder};
use mqc_ir::quant::{Affine, Width};
use mqc_ir::{Graph, Tensor};

use crate::equivalent::{self, Equivalent};
use crate::options::{Latent, Options, Range, Rates};
use crate::source::{Layer, Source};
use crate::{Error, optimizer};

/// One tensor that a training run keeps.
#[derive(Clone, Debug)]
pub struct State {
    /// Its name: of the weight, or of what [`names`] derives from it.
    pub name: String,
    /// Its value at the start.
    pub initial: Tensor,
    /// Whether steps change it; moments are changed too.
    pub trained: bool,
    /// The learning rate is multiplied by this.
    pub(crate) rate: f32,
    /// Whether it decays.
    pub(crate) decays: bool,
    pub(crate) role: Role,
}

/// What a tensor of the state is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The model is a function of it.
    Parameter,
    /// A moment of another tensor.
    Moment,
    /// The average norm of the gradient of a width: see `Balance::Norms`.
    Norm,
}

impl State {
    /// Whether the optimizer changes it by a gradient.
    pub(crate) fn is_optimized(&self) -> bool {
        self.trained && self.role == Role::Parameter
    }

    /// Whether it is a moment of another tensor.
    pub(crate) fn is_moment(&self) -> bool {
        self.role == Role::Moment
    }
}

/// Names of what belongs to a weight.
pub mod names {
    use mqc_ir::quant::Width;

    /// Factor of the greatest weight of a channel.
    pub fn gamma(weight: &str) -> String {
        format!("{weight}/gamma")
    }
    /// Factor of the least weight of a channel.
    pub fn beta(weight: &str) -> String {
        format!("{weight}/beta")
    }
    /// Codes, in groups, as f32.
    pub fn code(weight: &str) -> String {
        format!("{weight}/code")
    }
    /// The least code of the frozen bucket, in groups, as f32.
    pub fn low(weight: &str) -> String {
        format!("{weight}/low")
    }
    /// Scale of the 8-bit codes.
    pub fn scale(weight: &str) -> String {
        format!("{weight}/scale")
    }
    /// Zero point of the 8-bit codes.
    pub fn zero(weight: &str) -> String {
        format!("{weight}/zero")
    }
    /// Scale of one width, relative to [`scale`].
    pub fn width_scale(weight: &str, width: Width) -> String {
        format!("{weight}/scale@{width}")
    }
    /// Shift of one width in codes.
    pub fn width_shift(weight: &str, width: Width) -> String {
        format!("{weight}/shift@{width}")
    }
    /// The average norm of the gradient of a width by the codes.
    pub fn norm(width: Width) -> String {
        format!("/norm@{width}")
    }
    const MOMENT: &str = "/moment_";

    /// Whether a name is that of a moment.
    pub fn is_moment(name: &str) -> bool {
        name.rsplit_once(MOMENT).is_some_and(|(_, moment)| !moment.contains('/'))
    }

    /// ln s of the equivalent transformation of a value.
    pub fn log_scale(value: &str) -> String {
        format!("{value}/log_scale")
    }
    /// What an equivalent transformation makes of a weight, gain or bias.
    pub fn transformed(constant: &str) -> String {
        format!("{constant}.transformed")
    }
    /// delta of the equivalent transformation of a value.
    pub fn delta(value: &str) -> String {
        format!("{value}/delta")
    }

    /// A moment of the optimizer.
    pub fn moment(tensor: &str, moment: &str) -> String {
        format!("{tensor}{MOMENT}{moment}")
    }
}

/// See the module.
pub struct Training {
    pub(crate) source: Source,
    pub(crate) options: Options,
    pub(crate) state: Vec<State>,
    pub(crate) equivalents: Vec<Equivalent>,
}

impl Training {
    /// A model of fixed shapes (see [`crate::static_shapes`]) that `matquant` has been over. `earlier` holds state by
    /// name that an earlier stage left.
    ///
    /// # Errors
    /// Options that contradict each other or the model, nothing to train, state of another shape.
    pub fn new(
        graph: Graph,
        options: Options,
        earlier: &BTreeMap<String, Tensor>,
    ) -> Result<Training, Error> {
        check(&options)?;
        let source = Source::new(graph)?;
        let chosen = Chosen::new(&options)?;
        let mut state = Collector { earlier, chosen, state: vec![] };
        for layer in &source.layers {
            state.layer(layer, &options, source.has_float_use(layer))?;
        }
        let equivalents = if options.trainable.equivalent { equivalent::find(&source) } else { vec![] };
        for (name, size) in equivalents.iter().flat_map(equivalent::state) {
            state.push(name, filled(&[size], 0.0)?, true, options.rates.range, false)?;
        }
        for parameter in &source.parameters {
            if source.layers.iter().any(|l| l.weight == parameter.name) {
                continue;
            }
            let decays = parameter.tensor.shape().len() >= 2;
            let trained = options.trainable.floats;
            let rate = options.rates.float;
            state.push(parameter.name.clone(), parameter.tensor.clone(), trained, rate, decays)?;
        }
        if !state.state.iter().any(|s| s.trained) {
            let message = "nothing is left to train; fewer weights must be excluded";
            return Err(Error::invalid("option", "trainable", message));
        }
        let mut state = state.state;
        if options.balances() {
            for width in &options.widths {
                let (name, initial) = (names::norm(*width), filled(&[], 0.0)?);
                let (trained, role) = (true, Role::Norm);
                state.push(State { name, initial, trained, rate: 1.0, decays: false, role });
            }
        }
        for index in 0..state.len() {
            let State { name, initial, .. } = state[index].clone();
            if state[index].is_optimized() {
                for moment in optimizer::moments(options.optimizer.rule) {
                    let name = names::moment(&name, moment);
                    let initial = filled(initial.shape(), 0.0)?;
                    let trained = true;
                    let role = Role::Moment;
                    state.push(State { name, initial, trained, rate: 1.0, decays: false, role });
                }
            }
        }
        Ok(Training { source, options, state, equivalents })
    }

    /// What the run keeps, in the order of the graphs' inputs.
    pub fn state(&self) -> &[State] {
        &self.state
    }

    /// The nested layers.
    pub fn layers(&self) -> &[Layer] {
        &self.source.layers
    }

    /// Names of the weights that stay float in an artifact: norms, biases, tables, float uses of nested weights.
    pub fn float_names(&self) -> Vec<String> {
        let layers = &self.source.layers;
        let tied = layers.iter().filter(|l| self.source.has_float_use(l)).map(|l| l.weight.clone());
        let others = self.source.parameters.iter().map(|p| p.name.clone());
        tied.chain(others).collect()
    }

    /// What was asked for.
    pub fn options(&self) -> &Options {
        &self.options
    }
}

fn check(options: &Options) -> Result<(), Error> {
    if options.trainable.equivalent && options.trainable.latent != Latent::Given {
        let message = "is for weights that are not trained themselves";
        return Err(Error::invalid("option", "equivalent", message));
    }
    let widths = &options.widths;
    let ramp = options.lambda_ramp.as_ref().map(|ramp| ("lambda ramp", &ramp.to));
    for (name, lambda) in [("lambda", &options.lambda)].into_iter().chain(ramp) {
        if widths.len() != lambda.len() {
            let message = format!("has {} weights for {} widths", lambda.len(), widths.len());
            return Err(Error::invalid("option", name, message));
        }
        if lambda.iter().any(|l| !l.is_finite() || *l < 0.0)
            || (!widths.is_empty() && lambda.iter().sum::<f32>() <= 0.0)
        {
            return Err(Error::invalid("option", name, "holds numbers from 0 on, not all 0"));
        }
    }
    let Rates { range, scale, shift, float } = options.rates;
    if let Some(rate) = [range, scale, shift, float].iter().find(|r| !r.is_finite() || **r < 0.0) {
        return Err(Error::invalid("option", "rates", format!("holds {rate}, expected numbers from 0 on")));
    }
    for pair in &options.codistill {
        let place = |width| widths.iter().position(|w| *w == width);
        match (place(pair.teacher), place(pair.student)) {
            (Some(teacher), Some(student)) if teacher < student => {}
            _ => {
                let name = format!("{}:{}", pair.teacher, pair.student);
                let message = "needs two trained widths, the wider one first";
                return Err(Error::invalid("codistill", name, message));
            }
        }
    }
    Ok(())
}

/// Which names the globs choose.
struct Chosen {
    include: Option<GlobSet>,
    exclude: GlobSet,
}

impl Chosen {
    fn new(options: &Options) -> Result<Chosen, Error> {
        let set = |globs: &[String]| -> Result<GlobSet, Error> {
            let mut set = GlobSetBuilder::new();
            for glob in globs {
                set.add(Glob::new(glob).map_err(|e| Error::invalid("glob", glob, e.to_string()))?);
            }
            set.build().map_err(|e| Error::invalid("glob", "", e.to_string()))
        };
        let include = &options.trainable.include;
        let include = if include.is_empty() { None } else { Some(set(include)?) };
        Ok(Chosen { include, exclude: set(&options.trainable.exclude)? })
    }

    fn holds(&self, name: &str) -> bool {
        self.include.as_ref().is_none_or(|set| set.is_match(name)) && !self.exclude.is_match(name)
    }
}

struct Collector<'a> {
    earlier: &'a BTreeMap<String, Tensor>,
    chosen: Chosen,
    state: Vec<State>,
}

impl Collector<'_> {
    fn push(
        &mut self,
        name: String,
        fresh: Tensor,
        trained: bool,
        rate: f32,
        decays: bool,
    ) -> Result<(), Error> {
        let initial = match self.earlier.get(&name) {
            Some(tensor) if tensor.shape() != fresh.shape() || tensor.dtype() != fresh.dtype() => {
                let found = tensor.shape();
                let message =
                    format!("has shape {found:?} in the earlier state, expected {:?}", fresh.shape());
                return Err(Error::invalid("state", &name, message));
            }
            Some(tensor) => tensor.clone(),
            None => fresh,
        };
        let trained = trained && self.chosen.holds(&name);
        self.state.push(State { name, initial, trained, rate, decays, role: Role::Parameter });
        Ok(())
    }

    fn layer(&mut self, layer: &Layer, options: &Options, has_float_use: bool) -> Result<(), Error> {
        let weight = layer.weight.as_str();
        let grouped = layer.grouped();
        let (map, full) = (grouped.map_shape(), grouped.shape());
        let rates = options.rates;
        let (ones, zeros) = (filled(&map, 1.0)?, filled(&map, 0.0)?);
        let float = |trained| (weight.to_owned(), layer.tensor.clone(), trained, 1.0, true);
        match options.trainable.latent {
            latent @ (Latent::Weights | Latent::Given) => {
                let (name, tensor, trained, rate, decays) = float(latent == Latent::Weights);
                self.push(name, tensor, trained, rate, decays)?;
                if options.range == Range::Learned && !options.widths.is_empty() {
                    self.push(names::gamma(weight), ones.clone(), true, rates.range, false)?;
                    self.push(names::beta(weight), ones.clone(), true, rates.range, false)?;
                }
            }
            Latent::Codes { prefix, rate } => {
                let code = self.need(&names::code(weight), &full)?;
                let (name, initial) = (names::low(weight), bucket(&code, prefix)?);
                self.push(names::code(weight), code, true, rate, false)?;
                // Not the earlier state's: its buckets were wider.
                let (trained, rate, role) = (false, 1.0, Role::Parameter);
                self.state.push(State { name, initial, trained, rate, decays: false, role });
            }
            Latent::Frozen => {
                let code = self.need(&names::code(weight), &full)?;
                self.push(names::code(weight), code, false, 1.0, false)?;
            }
        }
        if matches!(options.trainable.latent, Latent::Codes { .. } | Latent::Frozen) {
            let trained = options.trainable.latent == Latent::Frozen && options.affine == Affine::Shared;
            for (name, rate) in [(names::scale(weight), rates.scale), (names::zero(weight), rates.shift)] {
                let tensor = self.need(&name, &map)?;
                self.push(name, tensor, trained, rate, false)?;
            }
            if has_float_use {
                let (name, tensor, _, rate, decays) = float(false);
                self.push(name, tensor, false, rate, decays)?;
            }
        }
        for width in options.maps() {
            let trained = options.affine == Affine::PerWidth && options.widths.contains(&width);
            self.push(names::width_scale(weight, width), ones.clone(), trained, rates.scale, false)?;
            self.push(names::width_shift(weight, width), zeros.clone(), trained, rates.shift, false)?;
        }
        Ok(())
    }

    fn need(&self, name: &str, shape: &[usize]) -> Result<Tensor, Error> {
        match self.earlier.get(name) {
            Some(tensor) if tensor.shape() == shape => Ok(tensor.clone()),
            Some(tensor) => {
                let message = format!("has shape {:?}, expected {shape:?}", tensor.shape());
                Err(Error::invalid("state", name, message))
            }
            None => Err(Error::invalid("state", name, "is missing: codes come from an earlier stage")),
        }
    }
}

/// The least code with the same leading bits.
fn bucket(code: &Tensor, prefix: Width) -> Result<Tensor, Error> {
    let size = (1u32 << (8 - prefix.bits())) as f32;
    let values = code.to_f32_vec().unwrap_or_default();
    let low: Vec<f32> = values.iter().map(|c| (c / size).floor() * size).collect();
    Ok(Tensor::from_f32(code.shape().to_vec(), &low)?)
}

fn filled(shape: &[usize], value: f32) -> Result<Tensor, Error> {
    Ok(Tensor::from_f32(shape.to_vec(), &vec![value; shape.iter().product()])?)
}
