//! Cost tables, and the order of costs that choices rest on.

use mqc_ir::op::{GeluKind, Unary};
use mqc_ir::{DType, Dim, Op, Type};

use super::{Device, Devices, node};
use crate::facts::Fact;
use crate::{Error, FuseOptions};

fn options(device: &str) -> FuseOptions {
    FuseOptions::new(Devices::builtin().unwrap().get(device).unwrap().clone())
}

fn value(shape: &[u64], constant: bool) -> Fact {
    let dims = shape.iter().copied().map(Dim::Size).collect();
    Fact { types: vec![Type::tensor(DType::F32, dims)], constant, tensor: None }
}

fn cost(op: &Op, operands: &[&Fact], result: &[u64], options: &FuseOptions) -> f64 {
    node(op, operands, &value(result, false).types, false, options)
}

#[test]
fn every_builtin_device_is_there() {
    let devices = Devices::builtin().unwrap();
    assert_eq!(devices.names().collect::<Vec<_>>(), ["cpu", "cuda:sm_80", "cuda:sm_90a"]);
    let error = devices.get("cuda:sm_12").unwrap_err().to_string();
    assert_eq!(error, "no device is called \"cuda:sm_12\", expected one of cpu, cuda:sm_80, cuda:sm_90a");
}

#[test]
fn tables_are_checked_and_extend() {
    let text = "[board]\nmemory_bytes = 1e9\ncache_bytes = 2e9\nfloat_products = 1e9\nnested_products = 1e9\n\
                elementwise = 1e8\nnode_ns = 100\nview_ns = 0\n";
    let devices = Devices::builtin().unwrap().extended(Devices::parse(text).unwrap());
    assert_eq!(devices.get("board").unwrap().cache_bytes, 2e9);
    let written = Devices::of("board", devices.get("board").unwrap().clone()).to_string();
    assert_eq!(Devices::parse(&written).unwrap().get("board").unwrap(), devices.get("board").unwrap());
    let bad = |from: &str, to: &str| Devices::parse(&text.replace(from, to)).unwrap_err();
    assert!(matches!(
        bad("cache_bytes = 2e9", "cache_bytes = 0.0"),
        Error::CostValue { field: "cache_bytes", .. }
    ));
    assert!(matches!(bad("node_ns = 100", "node_ns = nan"), Error::CostValue { field: "node_ns", .. }));
    assert!(matches!(bad("cache_bytes", "cash_bytes"), Error::CostTable(_)));
    let written = toml::to_string(&devices).unwrap();
    assert_eq!(Devices::parse(&written).unwrap(), devices);
}

#[test]
fn costs_follow_the_roofline_exactly() {
    let device = Device {
        memory_bytes: 1e9,
        cache_bytes: 2e9,
        float_products: 4e9,
        nested_products: 8e9,
        elementwise: 1e9,
        node_ns: 10.0,
        view_ns: 1.0,
    };
    let options = FuseOptions::new(device);
    let (x, w) = (value(&[2, 8], false), value(&[8, 4], true));
    // 128 bytes of weight at 1 GB/s, 64 + 32 bytes at 2 GB/s, 2 * 8 * 8 operations at 4 G/s.
    let near = |found: f64, expected: f64| {
        assert!((found - expected).abs() < 1e-9 * expected.max(1.0), "{found}, expected {expected}");
    };
    near(cost(&Op::MatMul, &[&x, &w], &[2, 4], &options), 10.0 + 128.0 + 48.0 + 32.0);
    near(cost(&Op::Unary(Unary::Relu), &[&x], &[2, 8], &options), 10.0 + 64.0 + 16.0);
    near(cost(&Op::Reshape { allowzero: false }, &[&x], &[4, 4], &options), 1.0);
    near(node(&Op::Unary(Unary::Exp), &[&w], &w.types, true, &options), 0.0);
}

#[test]
fn symbols_have_the_sizes_that_are_given() {
    let mut options = options("cpu");
    let ty = |name: &str| Type::tensor(DType::F32, vec![Dim::Symbol(name.into()), Dim::Size(1024)]);
    let relu = |options: &FuseOptions| {
        let x = Fact { types: vec![ty("n")], constant: false, tensor: None };
        node(&Op::Unary(Unary::Relu), &[&x], &[ty("n")], false, options)
    };
    let one = relu(&options);
    options.symbols.insert("n".to_owned(), 2 * options.unknown_size);
    let two = relu(&options);
    assert!((two - options.device.node_ns) / (one - options.device.node_ns) > 1.999);
}

#[test]
fn fused_forms_cost_less_on_every_device() {
    for device in ["cpu", "cuda:sm_80", "cuda:sm_90a"] {
        let options = options(device);
        for rows in [1, 64, 4096] {
            let (x, w, two) =
                (value(&[rows, 576], false), value(&[576, 576], true), value(&[576, 1152], true));
            let gelu = cost(&Op::Gelu { approximate: GeluKind::Erf }, &[&x], &[rows, 576], &options);
            let erf = cost(&Op::Unary(Unary::Erf), &[&x], &[rows, 576], &options);
            assert!(gelu <= erf, "{device} {rows}");
            let single = cost(&Op::MatMul, &[&x, &w], &[rows, 576], &options);
            let double = cost(&Op::MatMul, &[&x, &two], &[rows, 1152], &options);
            assert!(double < 2.0 * single, "{device} {rows}");
        }
    }
}
