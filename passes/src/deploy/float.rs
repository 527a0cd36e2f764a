//! Dequantized weights for MatMul, Conv and Gather.

use mqc_ir::{Op, Tensor, Value};

use super::site::{Kind, Scope, Site};
use super::transpose::transposed;
use crate::Error;

/// The replacement of the node.
pub fn lower(scope: &mut Scope, site: &Site) -> Result<Value, Error> {
    let (rows, cols) = (site.weight.rows(), site.weight.cols());
    match &site.kind {
        // A tied weight is stored once, as its Gather reads it.
        Kind::MatMul if scope.is_table(&site.layer) => {
            let table = weight(scope, site, &[rows, cols])?;
            let swap = Op::Transpose { perm: Some(vec![1, 0]) };
            let transposed = scope.apply(swap, &site.value_name("transposed"), &[table])?;
            scope.stand_in(site, Op::MatMul, &[Some(site.x), Some(transposed)])
        }
        Kind::MatMul => {
            let weight = scope.constant(&site.layer, || {
                Ok(Tensor::from_f32(vec![cols, rows], &transposed(&dequantized(site)?, rows, cols))?)
            })?;
            scope.stand_in(site, Op::MatMul, &[Some(site.x), Some(weight)])
        }
        Kind::Conv { window, shape, bias } => {
            let weight = weight(scope, site, shape)?;
            scope.stand_in(site, Op::Conv(window.clone()), &conv_operands(site.x, weight, *bias))
        }
        Kind::Gather => {
            let table = weight(scope, site, &[rows, cols])?;
            scope.stand_in(site, Op::Gather { axis: 0 }, &[Some(table), Some(site.x)])
        }
    }
}

/// The operands of Conv: an absent bias is left out.
pub fn conv_operands(x: Value, weight: Value, bias: Option<Value>) -> Vec<Option<Value>> {
    let mut operands = vec![Some(x), Some(weight)];
    operands.extend(bias.map(Some));
    operands
}

fn weight(scope: &mut Scope, site: &Site, shape: &[usize]) -> Result<Value, Error> {
    scope.constant(&site.layer, || Ok(Tensor::from_f32(shape.to_vec(), &dequantized(site)?)?))
}

/// [N, K].
fn dequantized(site: &Site) -> Result<Vec<f32>, Error> {
    let mut out = vec![0.0; site.weight.rows() * site.weight.cols()];
    let rows = 0..site.weight.rows();
    site.weight.dequantize_rows(site.width, rows, &mut out).map_err(|e| site.error(e.to_string()))?;
    Ok(out)
}
