//! Operators that stay ONNX nodes.

use super::{Model, opaque};
use crate::{Attribute, DType, Text, Type};

#[test]
fn the_table_gives_what_is_certain() {
    let mut m = Model::default();
    let x = m.x("seq batch 16");
    let hidden = [
        ("hidden_size", Attribute::Int(32)),
        ("direction", Attribute::String(Text(b"bidirectional".into()))),
    ];
    let lstm = m.node(opaque("LSTM", &hidden), &[Some(x)], 3);
    let gru = m.node(
        opaque("GRU", &[("hidden_size", Attribute::Int(8)), ("layout", Attribute::Int(1))]),
        &[Some(x)],
        2,
    );
    let k = m.ints(&[5]);
    let top = m.node(opaque("TopK", &[]), &[Some(x), Some(k)], 2);
    let arg =
        m.apply(opaque("ArgMax", &[("axis", Attribute::Int(-1)), ("keepdims", Attribute::Int(0))]), &[x]);
    let found = m.apply(opaque("NonZero", &[]), &[x]);
    let eye = m.apply(opaque("EyeLike", &[("dtype", Attribute::Int(7))]), &[x]);
    let trilu = m.apply(opaque("Trilu", &[]), &[x]);
    let scale = m.input(DType::F16, "");
    let zero = m.input(DType::I8, "");
    let coded = m.apply(opaque("QuantizeLinear", &[]), &[x, scale, zero]);
    let plain = m.node(opaque("QuantizeLinear", &[]), &[Some(x), Some(scale)], 1)[0];
    let float = m.apply(opaque("DequantizeLinear", &[]), &[coded, scale, zero]);
    let (depth, values) = (m.int(10), m.x("2"));
    let ids = m.input(DType::I64, "n");
    let hot = m.apply(opaque("OneHot", &[]), &[ids, depth, values]);
    m.infer();
    assert_eq!([m.ty(lstm[0]), m.ty(lstm[2])], ["f32[seq, 2, batch, 32]", "f32[2, batch, 32]"]);
    assert_eq!([m.ty(gru[0]), m.ty(gru[1])], ["f32[seq, batch, 1, 8]", "f32[seq, 1, 8]"]);
    assert_eq!([m.ty(top[0]), m.ty(top[1])], ["f32[seq, batch, 5]", "i64[seq, batch, 5]"]);
    assert_eq!(m.ty(arg), "i64[seq, batch]");
    assert_eq!(m.ty(found), "i64[3, ?]");
    assert_eq!(m.ty(eye), "i64[seq, batch, 16]");
    assert_eq!(m.ty(trilu), "f32[seq, batch, 16]");
    assert_eq!(m.ty(coded), "i8[seq, batch, 16]");
    assert_eq!(m.ty(plain), "u8[seq, batch, 16]");
    assert_eq!(m.ty(float), "f16[seq, batch, 16]");
    assert_eq!(m.ty(hot), "f32[n, 10]");
}

#[test]
fn what_nobody_knows_keeps_its_declaration() {
    let mut m = Model::default();
    let x = m.x("a");
    let y = m.apply(opaque("NoSuchOperator", &[]), &[x]);
    let z = m.apply(opaque("LSTM", &[]), &[]);
    let sequence = Type::Sequence(Box::new(Type::Unknown));
    m.0.set_type(y, sequence.clone());
    m.infer();
    assert_eq!(m.0.ty(y), &sequence);
    assert_eq!(m.ty(z), "?[?, 1, ?, ?]");
}
