//! What a graph is made of once views are resolved: few kinds of work on dense values.

use mqc_ir::Op;
use mqc_ir::op::{Binary, Compare, Unary};
use mqc_ir::quant::{SliceMode, Width};
use mqc_kernels::cpu::Activation;

use crate::Kind;
use crate::array::Data;
use crate::view::{Root, View};

/// An operand.
#[derive(Clone, Debug)]
pub(crate) enum Arg {
    /// A float or boolean that is known.
    Scalar(f64),
    View(View),
    /// A dense value with zeros around: rows of `width`, of which it has `low..high`.
    Window {
        view: View,
        width: usize,
        low: usize,
        high: usize,
    },
}

impl Arg {
    /// What it reads.
    pub fn view(&self) -> Option<&View> {
        match self {
            Arg::Scalar(_) => None,
            Arg::View(view) | Arg::Window { view, .. } => Some(view),
        }
    }
}

/// A function of single elements, of floats and of booleans as 0 and 1.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Func {
    Copy,
    NotZero,
    Not,
    Unary(Unary),
    Binary(Binary),
    Compare(Compare),
    Max,
    Min,
    Select,
    /// a b + c, made of two.
    MulAdd,
    /// c - a b, made of two.
    MulSub,
    /// b where a lies within bounds, 0 where it lies outside, made of four.
    Within {
        low: f64,
        high: f64,
    },
    /// b c where a lies within bounds, 0 where it lies outside, made of two.
    WithinProduct {
        low: f64,
        high: f64,
    },
    /// c where a is b, 0 c elsewhere, made of two.
    EqualProduct,
    /// sqrt(a b) + c, made of three.
    RootAdd,
    /// a b / c, made of two.
    MulDiv,
    /// b times the level of a slice of a, plus c, made of two.
    SliceMulAdd {
        width: Width,
        mode: SliceMode,
    },
    /// A float operation of one operand that has attributes.
    Map(Box<Op>),
}

/// How elements become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Combine {
    Sum,
    Max,
    Min,
    Prod,
}

/// Which elements become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Every run of so many.
    Rows(usize),
    /// Those in the same column of rows of this length.
    Columns(usize),
    All,
}

/// One of the two matrices of a product, in each of its batches.
#[derive(Clone, Debug)]
pub(crate) struct Factor {
    pub view: View,
    /// Added to the start of the view, for each batch.
    pub offsets: Vec<usize>,
    pub row_stride: isize,
    pub col_stride: isize,
}

/// c [batch, m, n] = a [m, k] b [k, n].
#[derive(Clone, Debug)]
pub(crate) struct Product {
    pub m: usize,
    pub k: usize,
    pub n: usize,
    pub a: Factor,
    pub b: Factor,
}

/// What is done with a nested weight, by the name of its layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Nested {
    /// activation(x w^T + bias) * gate + residual, the operands in this order, each part where it is wanted.
    MatMul { layer: String, epilogue: Epilogue },
    /// Rows of a table.
    Gather { layer: String },
    /// The weight itself as floats, without an operand.
    Whole { layer: String },
}

/// What follows a product.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Epilogue {
    /// One a column of the output.
    pub bias: bool,
    pub activation: Activation,
    /// As the output.
    pub gate: bool,
    /// As the output.
    pub residual: bool,
}

impl Nested {
    /// The name of the weight.
    pub fn layer(&self) -> &str {
        match self {
            Nested::MatMul { layer, .. } | Nested::Gather { layer } | Nested::Whole { layer } => layer,
        }
    }
}

/// What computes values.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    Map {
        func: Func,
        args: Vec<Arg>,
        shape: Vec<usize>,
    },
    Fold {
        combine: Combine,
        form: Form,
        arg: View,
    },
    Product(Product),
    /// Rows of a table [rows, inner] at the places that integers say.
    Gather {
        table: View,
        rows: usize,
        inner: usize,
        indices: View,
    },
    /// A table [rows, inner] plus the updates, row by row.
    AddRows {
        table: Arg,
        rows: usize,
        inner: usize,
        indices: View,
        updates: View,
    },
    /// For each of `outer` rows a run of every part.
    Concat {
        outer: usize,
        parts: Vec<(View, usize)>,
    },
    /// Integers in another order.
    Copy(View),
    /// With a nested weight, on a dense operand. Only programs of a device have it.
    Nested {
        kind: Nested,
        data: Option<View>,
        /// What the epilogue reads, in its order.
        parts: Vec<View>,
    },
    /// Any other operation, on dense operands.
    Plain(Vec<Option<View>>),
}

/// A piece of work and the values that it computes.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub work: Work,
    pub outputs: Vec<Root>,
    /// The step of the net that it belongs to.
    pub step: usize,
}

impl Task {
    /// The values that it reads.
    pub fn reads(&self) -> Vec<Root> {
        let of = |arg: &Arg| arg.view().map(|view| view.root);
        match &self.work {
            Work::Map { args, .. } => args.iter().filter_map(of).collect(),
            Work::Fold { arg, .. } => vec![arg.root],
            Work::Product(p) => vec![p.a.view.root, p.b.view.root],
            Work::Gather { table, indices, .. } => vec![table.root, indices.root],
            Work::AddRows { table, indices, updates, .. } => {
                of(table).into_iter().chain([indices.root, updates.root]).collect()
            }
            Work::Concat { parts, .. } => parts.iter().map(|(view, _)| view.root).collect(),
            Work::Copy(view) => vec![view.root],
            Work::Nested { data, parts, .. } => data.iter().chain(parts).map(|view| view.root).collect(),
            Work::Plain(args) => args.iter().flatten().map(|view| view.root).collect(),
        }
    }
}

/// Where the elements of a value with memory of its own come from.
#[derive(Clone, Debug)]
pub(crate) enum Source<T> {
    Input,
    Constant(Data<T>),
    Computed,
}

/// A value with memory of its own.
#[derive(Clone, Debug)]
pub(crate) struct Place<T> {
    pub kind: Kind,
    pub len: usize,
    pub source: Source<T>,
}
