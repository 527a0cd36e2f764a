//! The optimizer's part of a step.

use std::collections::BTreeMap;

use mqc_ir::{DType, Value};

use super::work::Work;
use super::{NEXT, STATE};
use crate::Error;
use crate::optimizer::{self, Update, Updated};
use crate::training::names;

impl Work<'_, '_> {
    /// New state by output name, and the norm of the gradient.
    pub(super) fn update(
        &mut self,
        gradients: &BTreeMap<String, Value>,
    ) -> Result<Vec<(String, Value)>, Error> {
        let optimizer = &self.training.options.optimizer;
        self.b.set_scope("update");
        let rate = self.b.input("lr", DType::F32, &[]);
        let step = self.step();
        let mut updates = vec![];
        let mut named = vec![];
        for state in self.training.state.iter().filter(|s| s.is_optimized()) {
            let Some(&gradient) = gradients.get(&state.name) else { continue };
            let moments = optimizer::moments(optimizer.rule);
            let moments = moments.iter().map(|m| names::moment(&state.name, m)).collect::<Vec<_>>();
            updates.push(Update {
                value: self.get(&state.name)?,
                gradient,
                moments: moments.iter().map(|m| self.get(m)).collect::<Result<_, _>>()?,
                rate: state.rate,
                decays: state.decays,
            });
            named.push((state.name.clone(), moments));
        }
        let (results, norm) = optimizer::updates(&mut self.b, optimizer, &updates, rate, step)?;
        let mut outputs = vec![];
        for ((name, moment_names), Updated { value, moments }) in named.into_iter().zip(results) {
            outputs.push((format!("{STATE}{name}{NEXT}"), value));
            let moments = moment_names.into_iter().zip(moments);
            outputs.extend(moments.map(|(name, value)| (format!("{STATE}{name}{NEXT}"), value)));
        }
        for width in self.training.options.widths.iter().filter(|_| self.training.options.balances()) {
            let name = names::norm(*width);
            if let Some(&found) = gradients.get(&name) {
                outputs.push((format!("{STATE}{name}{NEXT}"), self.averaged_norm(*width, found)?));
            }
        }
        outputs.push(("norm".to_owned(), norm));
        Ok(outputs)
    }
}
