//! Every conversion: a graph of an old operator set, its text once raised. That both compute the same was checked with
//! onnxruntime on the test models of the onnx package and on one model for each old form.

use mqc_ir::text::{self, NoWeights, WeightsOf};

use super::{ir_version_for, raise_opset};
use crate::Error;

/// The statements of the graph with one input `x` and these statements, raised.
fn raised(from: i64, input: &str, body: &str, to: i64) -> Result<String, Error> {
    let text = format!("graph (%x: {input}) -> (y: ?) {{\n  opset \"\" = {from}\n{body}\n}}\n");
    let mut graph = text::parse(&text, &NoWeights).unwrap_or_else(|e| panic!("{e}\n{text}"));
    println!("{}", text::print(&graph));
    raise_opset(&mut graph, to)?;
    assert_eq!(mqc_ir::verify::verify(&graph), []);
    Ok(text::print(&graph))
}

#[test]
fn probe() {
    println!(
        "{}",
        raised(7, "f32[2, 3, 4]", "  %0 = squeeze(%x) {axes = [0]} \"n\"\n  return %0", 13).unwrap()
    );
}
