//! Rules of matrix products.

use mqc_ir::Value;

use super::Cotangents;
use super::site::Site;
use crate::{Builder, Error};

/// Operands of any rank: a vector is a row on the left and a column on the right, leading axes broadcast.
///
/// The gradient of a matrix that many rows are multiplied with is one product over all of them.
pub(super) fn matmul(b: &mut Builder, site: &Site) -> Cotangents {
    let (left, right, dy) = (site.x(b, 0)?, site.x(b, 1)?, site.dy(b)?);
    let (ls, rs) = (b.shape(left)?, b.shape(right)?);
    let row = ls.len() == 1;
    let column = rs.len() == 1;
    // The same product with matrices.
    let mut full = b.shape(dy)?;
    if column {
        full.push(1);
    }
    if row {
        full.insert(full.len() - 1, 1);
    }
    let dy = b.reshape(dy, &full)?;
    let a = if row { b.reshape(left, &[1, ls[0]])? } else { left };
    let c = if column { b.reshape(right, &[rs[0], 1])? } else { right };
    let dl = site.when(0, || {
        let ct = b.transpose_last(c)?;
        b.matmul(dy, ct)
    })?;
    let dr = match site.wants(1) {
        true => {
            let da = flat_left(b, a, c, dy)?;
            Some(if column { drop_last(b, da)? } else { da })
        }
        false => None,
    };
    Ok(vec![dl, dr])
}

/// a^T dy, summed over the leading axes where the right operand is one matrix.
fn flat_left(b: &mut Builder, a: Value, right: Value, dy: Value) -> Result<Value, Error> {
    let (ashape, dshape) = (b.shape(a)?, b.shape(dy)?);
    let (batch, rest) = ashape.split_at(ashape.len() - 2);
    let one_matrix = b.shape(right)?.iter().rev().skip(2).all(|&n| n == 1);
    let (a, dy) = if one_matrix && dshape.len() > 2 && dshape[..dshape.len() - 2] == *batch {
        let rows: usize = batch.iter().product::<usize>() * rest[0];
        let a = b.reshape(a, &[rows, rest[1]])?;
        (a, b.reshape(dy, &[rows, dshape[dshape.len() - 1]])?)
    } else {
        (a, dy)
    };
    let at = b.transpose_last(a)?;
    b.matmul(at, dy)
}

fn drop_last(b: &mut Builder, x: Value) -> Result<Value, Error> {
    let shape = b.shape(x)?;
    b.reshape(x, &shape[..shape.len() - 1])
}

/// alpha A' B' + beta C.
pub(super) fn gemm(
    b: &mut Builder,
    site: &Site,
    alpha: f32,
    beta: f32,
    trans_a: bool,
    trans_b: bool,
) -> Cotangents {
    let (left, right, dy) = (site.x(b, 0)?, site.x(b, 1)?, site.dy(b)?);
    let dc = site.when(2, || if beta == 1.0 { Ok(dy) } else { b.scale(dy, beta) })?;
    let inner = if alpha == 1.0 || !(site.wants(0) || site.wants(1)) { dy } else { b.scale(dy, alpha)? };
    let da = site.when(0, || {
        let right = turned(b, right, trans_b == trans_a)?;
        let inner = turned(b, inner, trans_a)?;
        if trans_a { b.matmul(right, inner) } else { b.matmul(inner, right) }
    })?;
    let db = site.when(1, || {
        let left = turned(b, left, trans_a == trans_b)?;
        let inner = turned(b, inner, trans_b)?;
        if trans_b { b.matmul(inner, left) } else { b.matmul(left, inner) }
    })?;
    Ok(vec![da, db, dc])
}

fn turned(b: &mut Builder, x: Value, yes: bool) -> Result<Value, Error> {
    if yes { b.transpose_last(x) } else { Ok(x) }
}
