//! ONNX names of the values of enumerations, each with the opset that brought it. One table serves both directions.

use mqc_ir::op::{AutoPad, Binary, Compare, GeluKind, PadMode, Reduction, ScatterReduction, Unary, Variadic};
use mqc_ir::quant::SliceMode;

/// An enumeration whose values have ONNX names.
pub(super) trait Named: Sized {
    /// The ONNX name and the first opset that has it.
    fn onnx(self) -> (&'static str, i64);
    /// The value of a name that `opset` has.
    fn from_onnx(name: &str, opset: i64) -> Option<Self>;
}

macro_rules! names {
    ($($type:ident { $($value:ident = $name:literal $since:literal,)* })*) => {$(
        impl Named for $type {
            fn onnx(self) -> (&'static str, i64) {
                match self { $($type::$value => ($name, $since),)* }
            }

            fn from_onnx(name: &str, opset: i64) -> Option<Self> {
                match name {
                    $($name if opset >= $since => Some($type::$value),)*
                    _ => None,
                }
            }
        }
    )*};
}

names! {
    Unary {
        Abs = "Abs" 6,
        Acos = "Acos" 7,
        Acosh = "Acosh" 9,
        Asin = "Asin" 7,
        Asinh = "Asinh" 9,
        Atan = "Atan" 7,
        Atanh = "Atanh" 9,
        BitwiseNot = "BitwiseNot" 18,
        Ceil = "Ceil" 6,
        Cos = "Cos" 7,
        Cosh = "Cosh" 9,
        Erf = "Erf" 9,
        Exp = "Exp" 6,
        Floor = "Floor" 6,
        HardSwish = "HardSwish" 14,
        IsNan = "IsNaN" 9,
        Log = "Log" 6,
        Mish = "Mish" 18,
        Neg = "Neg" 6,
        Not = "Not" 1,
        Reciprocal = "Reciprocal" 6,
        Relu = "Relu" 6,
        Round = "Round" 11,
        Sigmoid = "Sigmoid" 6,
        Sign = "Sign" 9,
        Sin = "Sin" 7,
        Sinh = "Sinh" 9,
        Softplus = "Softplus" 1,
        Softsign = "Softsign" 1,
        Sqrt = "Sqrt" 6,
        Tan = "Tan" 7,
        Tanh = "Tanh" 6,
    }
    // Mod and Fmod, ShiftLeft and ShiftRight share a name: `read` tells them apart by an attribute.
    Binary {
        Add = "Add" 7,
        Sub = "Sub" 7,
        Mul = "Mul" 7,
        Div = "Div" 7,
        Pow = "Pow" 7,
        Mod = "Mod" 10,
        Fmod = "Mod" 10,
        And = "And" 7,
        Or = "Or" 7,
        Xor = "Xor" 7,
        BitwiseAnd = "BitwiseAnd" 18,
        BitwiseOr = "BitwiseOr" 18,
        BitwiseXor = "BitwiseXor" 18,
        ShiftLeft = "BitShift" 11,
        ShiftRight = "BitShift" 11,
        PRelu = "PRelu" 7,
    }
    Compare {
        Equal = "Equal" 7,
        Greater = "Greater" 7,
        GreaterOrEqual = "GreaterOrEqual" 12,
        Less = "Less" 7,
        LessOrEqual = "LessOrEqual" 12,
    }
    // Before opset 8 without broadcasting, which is a special case.
    Variadic {
        Max = "Max" 6,
        Mean = "Mean" 6,
        Min = "Min" 6,
        Sum = "Sum" 6,
    }
    Reduction {
        L1 = "ReduceL1" 1,
        L2 = "ReduceL2" 1,
        LogSum = "ReduceLogSum" 1,
        LogSumExp = "ReduceLogSumExp" 1,
        Max = "ReduceMax" 1,
        Mean = "ReduceMean" 1,
        Min = "ReduceMin" 1,
        Prod = "ReduceProd" 1,
        Sum = "ReduceSum" 1,
        SumSquare = "ReduceSumSquare" 1,
    }
    PadMode {
        Constant = "constant" 11,
        Reflect = "reflect" 11,
        Edge = "edge" 11,
        Wrap = "wrap" 19,
    }
    ScatterReduction {
        None = "none" 16,
        Add = "add" 16,
        Mul = "mul" 16,
        Max = "max" 18,
        Min = "min" 18,
    }
    GeluKind {
        Erf = "none" 20,
        Tanh = "tanh" 20,
    }
    AutoPad {
        Notset = "NOTSET" 1,
        SameUpper = "SAME_UPPER" 1,
        SameLower = "SAME_LOWER" 1,
        Valid = "VALID" 1,
    }
    // What follows the operator's name in the domain of the nested operators.
    SliceMode {
        Midpoint = "" 1,
        Round = "Round" 1,
        Extra = "Extra" 1,
    }
}

/// The first opset at which the axes of a reduction are an operand.
pub(super) fn axes_operand_since(kind: Reduction) -> i64 {
    match kind {
        Reduction::Sum => 13,
        Reduction::L1
        | Reduction::L2
        | Reduction::LogSum
        | Reduction::LogSumExp
        | Reduction::Max
        | Reduction::Mean
        | Reduction::Min
        | Reduction::Prod
        | Reduction::SumSquare => 18,
    }
}
