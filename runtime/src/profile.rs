//! Where the time of a run goes.

use std::collections::BTreeMap;

use mqc_ir::Tensor;
use mqc_ir::quant::Width;

use crate::cpu::OpTime;
use crate::{Error, Session};

impl Session {
    /// Runs the model as [`Session::run`] does and returns the time of every operator, in the order of execution.
    ///
    /// # Errors
    /// As `run`.
    pub fn profile(
        &self,
        widths: &BTreeMap<String, Width>,
        inputs: &BTreeMap<String, Tensor>,
    ) -> Result<Vec<OpTime>, Error> {
        let (_turn, inputs) = self.begin(widths, inputs)?;
        Ok(self.model().profile(inputs)?)
    }
}
