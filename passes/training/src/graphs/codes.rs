//! The codes and maps that a training ends with.

use mqc_ir::Value;
use mqc_ir::op::WeightLayout;
use mqc_ir::quant::Width;

use super::ports::finish;
use super::work::Work;
use super::{StepGraph, replica_name};
use crate::source::Layer;
use crate::training::{State, Training, names};
use crate::{Builder, Error, equivalent, nested_layer};

impl Training {
    /// `(state without moments) -> per layer: WEIGHT/code [in groups], WEIGHT/scale, WEIGHT/zero [map shape],
    /// WEIGHT.codes [rows, cols], WEIGHT.scale@map, WEIGHT.zero@map [rows, groups]`: what artifacts and later stages
    /// take over, computed exactly as the training computes it. NAME.transformed are the weights and constants that
    /// equivalent transformations change.
    ///
    /// # Errors
    /// None that a model can cause.
    pub fn codes_graph(&self) -> Result<StepGraph, Error> {
        let mut graph = self.empty("codes");
        let state: Vec<&State> = self.state.iter().filter(|s| !s.is_moment()).collect();
        let mut work = Work::new(self, &mut graph, &state, false)?;
        let mut outputs = vec![];
        for layer in &self.source.layers {
            let weight = &layer.weight;
            let at = work.position(layer)?;
            let b = &mut work.b;
            let slice = mqc_ir::Op::FakeSlice { width: Width::MAX, mode: layer.spec.mode };
            let code = b.op(slice, &[at.position])?;
            outputs.push((names::code(weight), code));
            outputs.push((names::scale(weight), at.scale));
            outputs.push((names::zero(weight), at.zero));
            outputs.push((format!("{weight}.codes"), matrix(b, layer, code)?));
            for width in std::iter::once(None).chain(self.options.maps().into_iter().map(Some)) {
                let affine = width.map(|w| work.affine(layer, w)).transpose()?;
                let (scale, zero) = nested_layer::map_at(&mut work.b, at, affine)?;
                let at = replica_name(width);
                outputs.push((format!("{weight}.scale{at}"), map_matrix(&mut work.b, layer, scale)?));
                outputs.push((format!("{weight}.zero{at}"), map_matrix(&mut work.b, layer, zero)?));
            }
            if let Some(learned) = work.equivalent_of(layer)? {
                let weight = work.get(weight)?;
                let scaled = equivalent::scaled_weight(&mut work.b, layer, weight, learned)?;
                outputs.push((names::transformed(&layer.weight), scaled));
            }
        }
        work.transformed()?;
        outputs.extend(work.transformed.iter().map(|(c, v)| (names::transformed(&c.name), *v)));
        finish(graph, outputs)
    }
}

/// [rows, cols] from groups.
fn matrix(b: &mut Builder, layer: &Layer, x: Value) -> Result<Value, Error> {
    let grouped = layer.grouped();
    match grouped.layout {
        WeightLayout::RowsFirst => nested_layer::out_of_groups(b, x, grouped, &[grouped.rows, grouped.cols]),
        WeightLayout::RowsLast => {
            let x = nested_layer::out_of_groups(b, x, grouped, &[grouped.cols, grouped.rows])?;
            b.transpose(x, &[1, 0])
        }
    }
}

/// [rows, groups] from the shape of maps.
fn map_matrix(b: &mut Builder, layer: &Layer, x: Value) -> Result<Value, Error> {
    let grouped = layer.grouped();
    match grouped.layout {
        WeightLayout::RowsFirst => b.reshape(x, &[grouped.rows, grouped.groups]),
        WeightLayout::RowsLast => {
            let x = b.reshape(x, &[grouped.groups, grouped.rows])?;
            b.transpose(x, &[1, 0])
        }
    }
}
