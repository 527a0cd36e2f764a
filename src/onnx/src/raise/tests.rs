//! Each conversion as the statements before and after it. That both compute the same was checked with onnxruntime, on
//! the test models of the onnx package and on a model for each old form.

use mqc_ir::Graph;
use mqc_ir::text::{self, NoWeights};

use super::{ir_version_for, raise_opset};
use crate::Error;

/// The graph of one input `x` and these statements, the last one its result.
fn graph(opset: i64, x: &str, statements: &[&str]) -> Graph {
    let body: String = statements.iter().map(|line| format!("  {line}\n")).collect();
    let result = statements.last().unwrap().split([',', ' ']).next().unwrap();
    let text = format!("graph (%x: {x}) -> (y: ?) {{\n  opset \"\" = {opset}\n{body}  return {result}\n}}\n");
    text::parse(&text, &NoWeights).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

#[track_caller]
fn becomes(from: i64, to: i64, x: &str, before: &[&str], after: &[&str]) {
    let mut raised = graph(from, x, before);
    raise_opset(&mut raised, to).unwrap();
    assert_eq!(mqc_ir::verify::verify(&raised), []);
    let printed = text::print(&raised);
    let statements = printed.lines().map(str::trim).filter(|line| line.starts_with('%')).collect::<Vec<_>>();
    assert_eq!(statements, after);
    assert_eq!(raised.opsets[""], to);
}

#[track_caller]
fn refused(from: i64, to: i64, x: &str, statements: &[&str], message: &str) {
    let mut graph = graph(from, x, statements);
    let before = graph.clone();
    match raise_opset(&mut graph, to) {
        Err(error @ Error::Raise { .. }) => assert_eq!(error.to_string(), message),
        other => panic!("{other:?}"),
    }
    assert_eq!(graph, before);
}

#[test]
fn axes_become_operands() {
    becomes(
        11,
        13,
        "f32[1, 3, 1]",
        &["%0 = squeeze %x {axes = [0, 2]} : f32[3] @n"],
        &["%n_axes = weight : i64[2] = [0, 2]", "%0 = squeeze %x, %n_axes : f32[3] @n"],
    );
    becomes(11, 13, "f32[1, 3]", &["%0 = squeeze %x : f32[3] @n"], &["%0 = squeeze %x : f32[3] @n"]);
    becomes(
        7,
        13,
        "f32[3]",
        &["%0 = unsqueeze %x {axes = [0]} : f32[1, 3] @n"],
        &["%n_axes = weight : i64[1] = [0]", "%0 = unsqueeze %x, %n_axes : f32[1, 3] @n"],
    );
    becomes(
        12,
        13,
        "f32[2, 3]",
        &["%0 = reduce %x {axes = [1], kind = sum} : f32[2, 1] @n"],
        &["%n_axes = weight : i64[1] = [1]", "%0 = reduce %x, %n_axes {kind = sum} : f32[2, 1] @n"],
    );
    becomes(
        7,
        21,
        "f32[2, 3]",
        &["%0 = reduce %x {axes = [-1], keepdims = false, kind = mean} : f32[2] @n"],
        &[
            "%n_axes = weight : i64[1] = [-1]",
            "%0 = reduce %x, %n_axes {keepdims = false, kind = mean} : f32[2] @n",
        ],
    );
    becomes(
        11,
        21,
        "f32[2, 3]",
        &["%0 = reduce %x {axes = [], kind = max} : f32[1, 1] @n"],
        &["%0 = reduce %x {kind = max} : f32[1, 1] @n"],
    );
    becomes(
        7,
        13,
        "f32[2, 3]",
        &["%0 = reduce %x {axes = [1], kind = mean} : f32[2, 1] @n"],
        &["%0 = reduce %x {axes = [1], kind = mean} : f32[2, 1] @n"],
    );
}

#[test]
fn split() {
    becomes(
        11,
        13,
        "f32[6]",
        &["%0, %1 = split %x {axis = 0, sizes = [2, 4]} : f32[2], f32[4] @n"],
        &[
            "%n_split = weight : i64[2] = [2, 4]",
            "%0, %1 = split %x, %n_split {axis = 0} : f32[2], f32[4] @n",
        ],
    );
    becomes(
        7,
        21,
        "f32[6]",
        &["%0, %1 = split %x {axis = 0} : f32[3], f32[3] @n"],
        &["%0, %1 = split %x {axis = 0, num_outputs = 2} : f32[3], f32[3] @n"],
    );
    becomes(
        13,
        21,
        "f32[6]",
        &["%s = weight : i64[2] = [2, 4]", "%0, %1 = split %x, %s {axis = 0} : f32[2], f32[4] @n"],
        &["%s = weight : i64[2] = [2, 4]", "%0, %1 = split %x, %s {axis = 0} : f32[2], f32[4] @n"],
    );
    becomes(
        13,
        17,
        "f32[6]",
        &["%0, %1 = split %x {axis = 0} : f32[3], f32[3] @n"],
        &["%0, %1 = split %x {axis = 0} : f32[3], f32[3] @n"],
    );
}

#[test]
fn softmax_over_one_axis() {
    becomes(
        11,
        21,
        "f32[2, 5]",
        &["%0 = softmax %x {axis = 1, flatten = true} : f32[2, 5] @n"],
        &["%0 = softmax %x {axis = 1} : f32[2, 5] @n"],
    );
    becomes(
        7,
        13,
        "f32[n, 5, 1, 1]",
        &["%0 = log_softmax %x {axis = 1, flatten = true} : f32[n, 5, 1, 1] @n"],
        &["%0 = log_softmax %x {axis = 1} : f32[n, 5, 1, 1] @n"],
    );
    becomes(
        11,
        13,
        "f32[n, 1, k]",
        &["%0 = softmax %x {axis = -2, flatten = true} : f32[n, 1, k] @n"],
        &["%0 = softmax %x {axis = 2} : f32[n, 1, k] @n"],
    );
    becomes(
        11,
        13,
        "?",
        &["%0 = softmax %x {axis = -1, flatten = true} : ? @n"],
        &["%0 = softmax %x {axis = -1} @n"],
    );
    becomes(
        11,
        21,
        "f32[2, 5]",
        &["%0 = opaque %x {op_type = Hardmax} : ? @n"],
        &["%0 = opaque %x {attributes = {axis = {int = 1}}, op_type = Hardmax} @n"],
    );
}

#[test]
fn softmax_over_several_axes() {
    becomes(
        9,
        21,
        "f32[2, 3, 4]",
        &["%0 = softmax %x {axis = 1, flatten = true} : f32[2, 3, 4] @n"],
        &[
            "%0 = shape %x @n_shape",
            "%1 = flatten %x {axis = 1} @n_rows",
            "%2 = softmax %1 {axis = -1} @n_flat",
            "%3 = reshape %2, %0 {allowzero = true} : f32[2, 3, 4] @n",
        ],
    );
    becomes(
        9,
        13,
        "tensor",
        &["%0 = log_softmax %x {axis = 1, flatten = true} : ? @n"],
        &[
            "%0 = shape %x @n_shape",
            "%1 = flatten %x {axis = 1} @n_rows",
            "%2 = log_softmax %1 {axis = -1} @n_flat",
            "%3 = reshape %2, %0 @n",
        ],
    );
    becomes(
        9,
        13,
        "f32[2, 3, 4]",
        &["%0 = opaque %x {attributes = {axis = {int = 0}}, op_type = Hardmax} : ? @n"],
        &[
            "%0 = shape %x @n_shape",
            "%1 = flatten %x {axis = 0} @n_rows",
            "%2 = opaque %1 {attributes = {axis = {int = -1}}, op_type = Hardmax} @n_flat",
            "%3 = reshape %2, %0 @n",
        ],
    );
}

#[test]
fn attributes_become_operands() {
    becomes(
        9,
        21,
        "f32[4, 5]",
        &[
            "%0 = opaque %x {attributes = {axes = {ints = [1]}, ends = {ints = [3]}, starts = {ints = [1]}}, op_type = Slice} : ? @n",
        ],
        &[
            "%n_starts = weight : i64[1] = [1]",
            "%n_ends = weight : i64[1] = [3]",
            "%n_axes = weight : i64[1] = [1]",
            "%0 = slice %x, %n_starts, %n_ends, %n_axes @n",
        ],
    );
    becomes(
        7,
        21,
        "f32[4]",
        &["%0, %1 = opaque %x {attributes = {k = {int = 2}}, op_type = TopK} : ?, ? @n"],
        &["%n_k = weight : i64[1] = [2]", "%0, %1 = opaque %x, %n_k {op_type = TopK} @n"],
    );
    becomes(
        7,
        21,
        "f32[4]",
        &[
            "%0 = opaque %x {attributes = {max = {float = 6.0}, min = {float = -3.4028235e38}}, op_type = Clip} : ? @n",
        ],
        &["%n_max = weight : f32[] = 6.0", "%0 = clip %x, _, %n_max @n"],
    );
    becomes(
        7,
        21,
        "f16[4]",
        &["%0 = opaque %x {attributes = {min = {float = 0.0}}, op_type = Clip} : ? @n"],
        &["%n_min = weight : f32[] = 0.0", "%0 = cast %n_min {to = f16} @n_min_1", "%1 = clip %x, %0 @n"],
    );
    becomes(
        7,
        21,
        "f32[4]",
        &["%0 = opaque %x {attributes = {pads = {ints = [1, 1]}}, op_type = Pad} : ? @n"],
        &["%n_pads = weight : i64[2] = [1, 1]", "%0 = pad %x, %n_pads {mode = constant} @n"],
    );
    becomes(
        7,
        21,
        "f32[4]",
        &[
            "%0 = opaque %x {attributes = {pads = {ints = [1, 1]}, value = {float = 2.0}}, op_type = Pad} : ? @n",
        ],
        &[
            "%n_pads = weight : i64[2] = [1, 1]",
            "%n_value = weight : f32[] = 2.0",
            "%0 = pad %x, %n_pads, %n_value {mode = constant} @n",
        ],
    );
    becomes(
        7,
        21,
        "f32[4]",
        &[
            "%0 = opaque %x {attributes = {mode = {string = edge}, pads = {ints = [1, 1]}, value = {float = 2.0}}, op_type = Pad} : ? @n",
        ],
        &["%n_pads = weight : i64[2] = [1, 1]", "%0 = pad %x, %n_pads {mode = edge} @n"],
    );
    becomes(
        10,
        13,
        "f32[4]",
        &["%0 = opaque %x {attributes = {ratio = {float = 0.25}}, op_type = Dropout} : ? @n"],
        &["%n_ratio = weight : f32[] = 0.25", "%0 = dropout %x, %n_ratio @n"],
    );
    becomes(
        17,
        21,
        "f32[1, 4, 1]",
        &["%0 = opaque %x {attributes = {axis = {int = 1}}, op_type = DFT} : ? @n"],
        &["%n_axis = weight : i64[] = 1", "%0 = opaque %x, _, %n_axis {op_type = DFT} @n"],
    );
}

#[test]
fn masks_of_dropout() {
    becomes(
        7,
        13,
        "f32[4]",
        &["%0, %1 = dropout %x : f32[4], ? @n"],
        &[r#"%0, %1 = dropout %x : f32[4], ? @n as "0", """#],
    );
    becomes(
        12,
        13,
        "f32[4]",
        &["%0, %1 = dropout %x : f32[4], bool[4] @n"],
        &["%0, %1 = dropout %x : f32[4], bool[4] @n"],
    );
}

#[test]
fn upsample_and_resize() {
    becomes(
        7,
        21,
        "f32[1, 1, 2, 2]",
        &[
            "%0 = opaque %x {attributes = {scales = {floats = [1.0, 1.0, 2.0, 2.0]}}, op_type = Upsample} : ? @n",
        ],
        &[
            "%n_scales = weight : f32[4] = [1.0, 1.0, 2.0, 2.0]",
            "%n_roi = weight : f32[0] = []",
            "%0 = opaque %x, %n_roi, %n_scales {attributes = {coordinate_transformation_mode = {string = asymmetric}, nearest_mode = {string = floor}}, op_type = Resize} @n",
        ],
    );
    becomes(
        9,
        10,
        "f32[1, 1, 2, 2]",
        &["%s = weight : f32[4] = [1.0, 1.0, 2.0, 2.0]", "%0 = opaque %x, %s {op_type = Upsample} : ? @n"],
        &["%s = weight : f32[4] = [1.0, 1.0, 2.0, 2.0]", "%0 = opaque %x, %s {op_type = Resize} @n"],
    );
    becomes(
        10,
        13,
        "f32[2]",
        &["%s = weight : f32[1] = [0.5]", "%0 = opaque %x, %s {op_type = Resize} : ? @n"],
        &[
            "%s = weight : f32[1] = [0.5]",
            "%n_roi = weight : f32[0] = []",
            "%0 = opaque %x, %n_roi, %s {attributes = {coordinate_transformation_mode = {string = asymmetric}, nearest_mode = {string = ceil}}, op_type = Resize} @n",
        ],
    );
    becomes(
        10,
        13,
        "f32[2]",
        &[
            "%s = weight : f32[1] = [0.5]",
            "%0 = opaque %x, %s {attributes = {mode = {string = linear}}, op_type = Resize} : ? @n",
        ],
        &[
            "%s = weight : f32[1] = [0.5]",
            "%n_roi = weight : f32[0] = []",
            "%0 = opaque %x, %n_roi, %s {attributes = {coordinate_transformation_mode = {string = asymmetric}, mode = {string = linear}}, op_type = Resize} @n",
        ],
    );
    becomes(
        10,
        13,
        "f32[2, 2]",
        &["%s = weight : f32[2] = [0.5, 2.0]", "%0 = opaque %x, %s {op_type = Resize} : ? @n"],
        &[
            "%s = weight : f32[2] = [0.5, 2.0]",
            "%n_one = weight : f32[1] = [1.0]",
            "%0 = max %s, %n_one @n_scales_up",
            "%1 = min %s, %n_one @n_scales_down",
            "%n_roi = weight : f32[0] = []",
            "%2 = opaque %x, %n_roi, %0 {attributes = {coordinate_transformation_mode = {string = asymmetric}, mode = {string = nearest}, nearest_mode = {string = floor}}, op_type = Resize} @n_up",
            "%n_roi_1 = weight : f32[0] = []",
            "%3 = opaque %2, %n_roi_1, %1 {attributes = {coordinate_transformation_mode = {string = asymmetric}, nearest_mode = {string = ceil}}, op_type = Resize} @n",
        ],
    );
    becomes(
        11,
        13,
        "f32[2]",
        &[
            "%r = weight : f32[0] = []",
            "%s = weight : i64[1] = [4]",
            "%0 = opaque %x, %r, %r, %s {op_type = Resize} : ? @n",
        ],
        &[
            "%r = weight : f32[0] = []",
            "%s = weight : i64[1] = [4]",
            "%0 = opaque %x, %r, _, %s {op_type = Resize} @n",
        ],
    );
}

#[test]
fn normalization() {
    becomes(
        7,
        21,
        "f32[1, 2, 3]",
        &[
            "%w = weight : f32[2] = [1.0, 2.0]",
            "%0 = opaque %x, %w, %w, %w, %w {attributes = {spatial = {int = 1}, junk = {int = 1}}, op_type = BatchNormalization} : ? @n",
        ],
        &[
            "%w = weight : f32[2] = [1.0, 2.0]",
            "%0 = opaque %x, %w, %w, %w, %w {attributes = {junk = {int = 1}}, op_type = BatchNormalization} @n",
        ],
    );
    becomes(
        18,
        21,
        "f32[1, 4, 3]",
        &[
            "%w = weight : f32[2] = [1.0, 2.0]",
            "%0 = opaque %x, %w, %w {attributes = {num_groups = {int = 2}}, op_type = GroupNormalization} : ? @n",
        ],
        &[
            "%w = weight : f32[2] = [1.0, 2.0]",
            "%n_groups = weight : i64[1] = [2]",
            "%0 = shape %x {end = 2, start = 1} @n_channels",
            "%1 = div %0, %n_groups @n_times",
            "%n_one = weight : i64[1] = [1]",
            "%2 = concat %n_one, %1 {axis = 0} @n_repeated",
            "%n_all = weight : i64[1] = [-1]",
            "%3 = unsqueeze %w, %n_one @n_scale",
            "%4 = expand %3, %2 @n_scale_1",
            "%5 = reshape %4, %n_all @n_scale_2",
            "%6 = unsqueeze %w, %n_one @n_bias",
            "%7 = expand %6, %2 @n_bias_1",
            "%8 = reshape %7, %n_all @n_bias_2",
            "%9 = opaque %x, %5, %8 {attributes = {num_groups = {int = 2}}, op_type = GroupNormalization} @n",
        ],
    );
}

#[test]
fn other_names_and_defaults() {
    becomes(
        9,
        13,
        "f32[3]",
        &[
            "%i = weight : i64[1] = [1]",
            "%u = weight : f32[1] = [5.0]",
            "%0 = opaque %x, %i, %u {op_type = Scatter} : ? @n",
        ],
        &[
            "%i = weight : i64[1] = [1]",
            "%u = weight : f32[1] = [5.0]",
            "%0 = scatter_elements %x, %i, %u {axis = 0, reduction = none} @n",
        ],
    );
    becomes(
        10,
        21,
        "f32[1, 1, 2, 2]",
        &["%0 = opaque %x, %x, %x {op_type = RoiAlign} : ? @n"],
        &[
            "%0 = opaque %x, %x, %x {attributes = {coordinate_transformation_mode = {string = output_half_pixel}}, op_type = RoiAlign} @n",
        ],
    );
    becomes(
        16,
        21,
        "f32[1, 1, 2, 2]",
        &["%0 = opaque %x, %x {op_type = GridSample} : ? @n"],
        &["%0 = opaque %x, %x {attributes = {mode = {string = linear}}, op_type = GridSample} @n"],
    );
    becomes(
        16,
        21,
        "f32[1, 1, 2, 2]",
        &["%0 = opaque %x, %x {attributes = {mode = {string = bicubic}}, op_type = GridSample} : ? @n"],
        &["%0 = opaque %x, %x {attributes = {mode = {string = cubic}}, op_type = GridSample} @n"],
    );
    becomes(
        16,
        21,
        "f32[1, 1, 2, 2]",
        &["%0 = opaque %x, %x {attributes = {mode = {string = nearest}}, op_type = GridSample} : ? @n"],
        &["%0 = opaque %x, %x {attributes = {mode = {string = nearest}}, op_type = GridSample} @n"],
    );
}

#[test]
fn bounds_of_an_unknown_element_type() {
    let clip = "%0 = opaque %x {attributes = {min = {float = 1.0}}, op_type = Clip} @n";
    let after = [
        "%n_min = weight : f32[] = 1.0",
        "%0 = opaque %n_min, %x {op_type = CastLike} @n_min_1",
        "%1 = clip %x, %0 @n",
    ];
    becomes(9, 15, "tensor", &[clip], &after);
    let message = "node 'n': Clip of opset 9 cannot be raised to opset 11: the element type of its input is unknown; \
                   add it to the model's value_info";
    refused(9, 14, "tensor", &[clip], message);
}

#[test]
fn what_has_no_equal_is_refused() {
    refused(
        7,
        21,
        "f32[4]",
        &["%0, %1 = dropout %x : f32[4], ? @n", "%2 = identity %1 : ? @m"],
        "node 'n': Dropout of opset 7 cannot be raised to opset 12: its output 'mask', undefined at inference, is used; export the model for inference",
    );
    refused(
        8,
        21,
        "f32[4]",
        &["%0 = opaque %x {op_type = Scan} : ? @n"],
        "node 'n': Scan of opset 8 cannot be raised to opset 9: its body must be called for each element of the batch; export the model again",
    );
    refused(
        7,
        21,
        "f32[4]",
        &[
            "%0 = opaque %x, %x, %x, %x, %x {attributes = {spatial = {int = 0}}, op_type = BatchNormalization} : ? @n",
        ],
        "node 'n': BatchNormalization of opset 7 cannot be raised to opset 9: spatial = 0 is gone; flatten the input of the node before it",
    );
    refused(
        13,
        21,
        "f32[4]",
        &["%0, %1, %2 = opaque %x, %x, %x, %x, %x {op_type = BatchNormalization} : ?, ?, ? @n"],
        "node 'n': BatchNormalization of opset 13 cannot be raised to opset 14: it is in training mode; export the model for inference, with one output",
    );
    refused(
        11,
        21,
        "f32[4]",
        &[
            "%0 = opaque %x, %x, %x {attributes = {coordinate_transformation_mode = {string = tf_half_pixel_for_nn}}, op_type = Resize} : ? @n",
        ],
        "node 'n': Resize of opset 11 cannot be raised to opset 13: coordinate_transformation_mode = tf_half_pixel_for_nn is gone; use half_pixel",
    );
    refused(
        9,
        21,
        "i64[4]",
        &["%0 = erf %x : i64[4] @n"],
        "node 'n': Erf of opset 9 cannot be raised to opset 13: its input is i64, expected floats; cast it",
    );
    refused(
        9,
        21,
        "f32[4]",
        &["%0 = opaque %x {op_type = TopK} : ? @n"],
        "node 'n': TopK of opset 9 cannot be raised to opset 10: its attribute 'k' is absent",
    );
    refused(
        9,
        21,
        "f32[4]",
        &["%0 = opaque %x {attributes = {starts = {int = 1}}, op_type = Slice} : ? @n"],
        "node 'n': Slice of opset 9 cannot be raised to opset 10: its attribute 'starts' is not a list of integers",
    );
    refused(
        11,
        21,
        "f32[4]",
        &[
            "%0 = opaque %x {attributes = {axes = {ints = [0]}, other = {int = 1}}, op_type = ReduceMean} : ? @n",
        ],
        "node 'n': ReduceMean of opset 11 cannot be raised to opset 18: it has inputs, outputs or attributes that its operator does not have",
    );
}

#[test]
fn inner_graphs_are_raised() {
    let text = r#"graph (%c: bool[], %x: f32[2, 3, 1]) -> (y: ?) {
  opset "" = 11
  %0 = opaque %c, %x {op_type = If} @if
    with then_branch captures [1] = graph @then(%x: f32[2, 3, 1]) -> (z: ?) {
      %0 = softmax %x {axis = 1, flatten = true} @n
      return %0
    }
    with else_branch captures [1] = graph @else(%x: ?) -> (z: ?) {
      %0 = opaque %x {op_type = Hardmax} @n
      return %0
    }
  return %0
}
"#;
    let mut graph = text::parse(text, &NoWeights).unwrap();
    raise_opset(&mut graph, 13).unwrap();
    assert_eq!(mqc_ir::verify::verify(&graph), []);
    let printed = text::print(&graph);
    assert!(printed.contains("%0 = softmax %x {axis = 1} @n"), "{printed}");
    // The type of a captured value is known inside from outside.
    assert!(
        printed.contains("%0 = opaque %x {attributes = {axis = {int = 1}}, op_type = Hardmax} @n"),
        "{printed}"
    );
}

#[test]
fn a_graph_of_the_operator_set_or_newer_stays() {
    for opset in [13, 14] {
        let mut newer = graph(opset, "f32[4]", &["%0 = opaque %x {op_type = Scan} @n"]);
        let before = newer.clone();
        raise_opset(&mut newer, 13).unwrap();
        assert_eq!(newer, before);
    }
    let mut none = Graph::new("of no operators");
    raise_opset(&mut none, 21).unwrap();
    assert_eq!(none.opsets[""], 21);
}

#[test]
fn operators_of_other_domains_and_unknown_ones_stay() {
    for op in ["{domain = my, op_type = Scan}", "{op_type = Mine}"] {
        let statement = format!("%0 = opaque %x {op} @n");
        becomes(7, 28, "f32[4]", &[&statement], &[&statement]);
    }
}

#[test]
fn format_versions_are_those_of_the_specification() {
    // The table of onnx.helper.VERSION_TABLE of onnx 1.23.2, from opset 7 on.
    let table = [3, 3, 4, 5, 6, 7, 7, 7, 8, 8, 8, 8, 9, 9, 10, 10, 11, 12, 13, 13, 13, 14];
    assert_eq!((7..=28).map(ir_version_for).collect::<Vec<_>>(), table);
}
