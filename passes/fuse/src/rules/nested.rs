//! A product with a weight that is sliced and dequantized reads the bit planes instead.
//!
//! Before: `%c = slice_bits %q {width = 4}`, `%d = dequantize %c, %s, %z`, `%y = mat_mul %x, %d`
//!
//! After:  `%y = nested_mat_mul %x, %fc1.width, %fc1.scale, %fc1.zero, %fc1.plane0, ..`

use egg::Id;
use mqc_ir::op::{Nested, WeightLayout};
use mqc_ir::{DType, Op, Tensor};

use super::{Needs, Rule, one};
use crate::{Expr, View};

/// See the module.
pub const NESTED_PRODUCT: Rule = Rule {
    name: "nested-product",
    about: "x dequantize(slice_bits(codes)) -> nested_mat_mul(x, planes of the codes)",
    needs: Needs::Opset(1),
    root: |op| *op == Op::MatMul,
    apply: |view, root| one(root, nested_product(view, root)),
};

fn nested_product(view: View, root: Id) -> Option<Expr> {
    view.ops(root).filter(|(op, _)| **op == Op::MatMul).find_map(|(_, args)| {
        let &[x, weight] = args.as_slice() else { return None };
        if view.dtype(x) != Some(DType::F32) {
            return None;
        }
        let transposed = view.ops(weight).find_map(|(op, args)| match op {
            Op::Transpose { perm } if perm.as_deref().is_none_or(|p| p == [1, 0]) => args.first().copied(),
            _ => None,
        });
        let direct = nested(view, x, weight, WeightLayout::RowsLast);
        direct.or_else(|| nested(view, x, transposed?, WeightLayout::RowsFirst))
    })
}

fn nested(view: View, x: Id, weight: Id, wanted: WeightLayout) -> Option<Expr> {
    view.ops(weight).find_map(|(op, args)| {
        let Op::Dequantize { width, mode, grouping, layout, shape } = op else { return None };
        let (&[slice, scale, zero], &[first, second]) = (args.as_slice(), shape.as_slice()) else {
            return None;
        };
        let cols = match layout {
            WeightLayout::RowsFirst => second,
            WeightLayout::RowsLast => first,
        };
        let codes = view.ops(slice).find_map(|(op, args)| match op {
            Op::SliceBits { width: w, mode: m } if (w, m) == (width, mode) => args.first().copied(),
            _ => None,
        })?;
        let stored = view.stored(codes).filter(|_| *layout == wanted)?;
        let leaf = |number: usize| view.leaf(number).map(Expr::Class);
        let (scale, zero) = match stored.maps {
            Some((scale, zero)) => (leaf(scale)?, leaf(zero)?),
            None => (Expr::Class(scale), Expr::Class(zero)),
        };
        let nested = Nested {
            layer: stored.layer.clone(),
            mode: *mode,
            grouping: *grouping,
            cols,
            map_widths: stored.map_widths.clone(),
        };
        let width = Expr::constant(Tensor::i64_scalar(i64::from(width.bits())));
        let mut operands = vec![Expr::Class(x), width, scale, zero];
        for plane in &stored.planes {
            operands.push(leaf(*plane)?);
        }
        Some(Expr::Op(Op::NestedMatMul(nested), operands))
    })
}
