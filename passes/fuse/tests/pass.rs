//! The pass as a whole: repeated blocks, determinism, limits, what is kept, and that a plan is never dearer.

mod common;

use std::fmt::Write;

use common::decoder::decoder;
use common::{Options, equal_on_random_numbers, fuse_options, parse};
use mqc_fuse::{Error, FuseOptions, StoredPlanes, fuse};
use mqc_ir::{Graph, Op, Tensor, text, verify};

fn fused(source: &str, options: &FuseOptions) -> (Graph, Graph, mqc_fuse::Report) {
    let before = parse(source).unwrap();
    let mut after = before.clone();
    let report = fuse(&mut after, options).unwrap();
    assert_eq!(verify::verify(&after), []);
    (before, after, report)
}

/// One token at a time: there products are worth merging.
fn decoding(device: &str) -> FuseOptions {
    FuseOptions { unknown_size: 1, ..fuse_options(device) }
}

fn proved(before: &Graph, after: &Graph) {
    equal_on_random_numbers(before, after, &Options::of("# fuse --tolerance 1e-6").unwrap()).unwrap();
}

#[test]
fn repeated_blocks_are_optimized_once() {
    let options = decoding("cpu");
    let (before, after, four) = fused(&decoder(4), &options);
    proved(&before, &after);
    let (_, _, twelve) = fused(&decoder(12), &options);
    assert_eq!(four.regions.1, twelve.regions.1, "{four}\n{twelve}");
    assert_eq!(four.enodes, twelve.enodes);
    let per_layer = |rule: &str| {
        let count = |r: &mqc_fuse::Report| r.fired.iter().filter(|f| f.rule == rule).count();
        (count(&twelve) - count(&four)) as f64 / 8.0
    };
    assert_eq!(per_layer("rms-norm"), 2.0, "{twelve}");
    assert_eq!(per_layer("merge-products"), 2.0, "{twelve}");
    assert_eq!(
        twelve.recognized.len() - four.recognized.len(),
        8 * 4,
        "two rotary, attention and SiLU a layer"
    );
}

#[test]
fn the_output_is_the_same_every_time() {
    for device in ["cpu", "cuda:sm_80", "cuda:sm_90a"] {
        let texts: Vec<String> =
            (0..3).map(|_| text::print(&fused(&decoder(3), &fuse_options(device)).1)).collect();
        assert!(texts.windows(2).all(|pair| pair[0] == pair[1]), "{device}");
    }
}

#[test]
fn a_second_pass_changes_nothing() {
    let options = decoding("cpu");
    let (_, once, _) = fused(&decoder(2), &options);
    let mut twice = once.clone();
    mqc_ir::infer::infer(&mut twice).unwrap();
    let report = fuse(&mut twice, &options).unwrap();
    assert_eq!(report.fired, [], "{}", text::print(&twice));
    assert_eq!(report.nodes.0, report.nodes.1);
}

#[test]
fn small_limits_leave_a_correct_graph() {
    for (iterations, nodes) in [(0, 100_000), (1, 100_000), (16, 1), (16, 70)] {
        let mut options = fuse_options("cpu");
        options.limits = mqc_fuse::Limits { iterations, nodes };
        let (before, after, report) = fused(&decoder(1), &options);
        proved(&before, &after);
        assert!(report.cost.1 <= report.cost.0);
        assert!(report.limited > 0, "{report}");
    }
}

#[test]
fn every_number_of_rewrites_is_a_correct_graph() {
    let all = fused(&decoder(1), &decoding("cpu")).2.fired.len() as u64;
    assert!(all > 3);
    for stop_after in 0..=all {
        let mut options = decoding("cpu");
        options.stop_after = Some(stop_after);
        let (before, after, report) = fused(&decoder(1), &options);
        assert!(report.fired.len() as u64 <= stop_after, "{report}");
        proved(&before, &after);
    }
}

#[test]
fn unknown_rules_are_errors() {
    let mut options = fuse_options("cpu");
    options.without.push("gelu".to_owned());
    let error = fuse(&mut parse(&decoder(1)).unwrap(), &options).unwrap_err();
    assert!(matches!(&error, Error::UnknownRule(name) if name == "gelu"), "{error}");
}

#[test]
fn nodes_that_are_not_understood_stay_and_no_cycle_comes_of_them() {
    // The opaque node lies between two products that could be merged, and its result is a weight of neither.
    let (before, after, report) = fused(
        "graph @g(%c: bool[], %x: f32[n, 16]) -> (y: ?, z: ?) {\n\
         opset \"\" = 23\n\
         %a = weight : f32[16, 16] = random(1)\n%b = weight : f32[16, 16] = random(2)\n\
         %p = mat_mul %x, %a @first\n\
         %o = opaque %p {domain = d, op_type = Foo} : f32[n, 16] @secret\n\
         %q = mat_mul %x, %b @second\n\
         %y = add %o, %q\n\
         %z = opaque %c, %x {op_type = If}\n\
         with then_branch captures [1] = graph @then(%x: f32[n, 16]) -> (v: ?) {\n\
         %t = transpose %x {perm = [1, 0]}\n%u = transpose %t {perm = [1, 0]}\n%v = neg %u\nreturn %v\n}\n\
         with else_branch captures [1] = graph @else(%x: f32[n, 16]) -> (v: ?) {\n%v = exp %x\nreturn %v\n}\n\
         return %y, %z\n}",
        &decoding("cuda:sm_90a"),
    );
    let opaque = |g: &Graph| {
        let of = |id| {
            g.node(id).filter(|n| matches!(n.op, Op::Opaque(_))).map(|n| (n.name.clone(), n.outputs.clone()))
        };
        let mut nodes: Vec<_> = g.order().unwrap().into_iter().filter_map(of).collect();
        nodes.sort_by(|a, b| a.0.cmp(&b.0));
        nodes
    };
    assert_eq!(opaque(&before), opaque(&after));
    let rules: Vec<_> = report.fired.iter().map(|f| f.rule).collect();
    assert!(rules.contains(&"merge-products"), "{report}");
    assert!(!text::print(&after).contains("transpose"), "bodies are fused, too: {}", text::print(&after));
}

#[test]
fn names_of_results_and_of_what_stays_are_kept() {
    let (before, after, _) = fused(&decoder(2), &fuse_options("cpu"));
    let outputs =
        |g: &Graph| g.outputs().iter().map(|o| (o.name.clone(), o.declared.clone())).collect::<Vec<_>>();
    assert_eq!(outputs(&before), outputs(&after));
    let text = text::print(&after);
    for name in ["@l0.o", "@l1.d", "l0.n", "l1.m"] {
        assert!(text.contains(name), "{name} in\n{text}");
    }
    assert!(!text.contains("unfused"), "{text}");
}

#[test]
fn stored_planes_make_nested_products() {
    let source = "graph @g(%x: f32[n, 16]) -> (y: ?) {\n\
         opset \"\" = 17\n\
         %w = weight : f32[16, 8] = random(1) as fc1.weight\n\
         %q, %s, %z = nested_quantize %w {lambda = [1.0, 1.0, 1.0], layout = rows_last, mode = midpoint, range = minmax, \
         scheme = asymmetric, widths = [8, 4, 2]} : u8[8, 16], f32[8, 1], f32[8, 1] @fc1\n\
         %c = slice_bits %q {mode = midpoint, width = 4}\n\
         %d = dequantize %c, %s, %z {layout = rows_last, mode = midpoint, shape = [16, 8], width = 4}\n\
         %y = mat_mul %x, %d @product\n\
         return %y\n}";
    let before = parse(source).unwrap();
    let [scale, zero, planes @ ..] = common::nested::stored(&before).unwrap();
    let mut options = fuse_options("cpu");
    let (_, without, _) = fused(source, &options);
    assert!(!text::print(&without).contains("nested_mat_mul"), "there are no planes");
    let parts = StoredPlanes { scale, zero, map_widths: vec![], planes: planes.to_vec() };
    options.stored.insert("fc1".to_owned(), parts);
    let (before, after, report) = fused(source, &options);
    assert_eq!(report.fired.iter().map(|f| f.rule).collect::<Vec<_>>(), ["nested-product"], "{report}");
    let text = text::print(&after);
    assert!(
        text.contains("nested_mat_mul") && text.contains("layer = fc1") && text.contains("@product"),
        "{text}"
    );
    proved(&before, &after);
}

#[test]
fn layers_keep_their_names_in_blocks_that_are_alike() {
    let mut t = String::from("graph @g(%x0: f32[n, 16]) -> (y: ?) {\nopset \"\" = 23\n");
    for i in 0..3 {
        writeln!(t, "%w{i} = weight : i64[] = 4").unwrap();
        for part in ["a", "b"] {
            writeln!(
                t,
                "%{part}{i}.s = weight : f32[16, 1] = random({})\n%{part}{i}.z = weight : f32[16, 1] = random(3)\n\
                 %{part}{i}.p = weight : u8[16, 2] = random({})\n\
                 %{part}{i} = nested_mat_mul %x{i}, %w{i}, %{part}{i}.s, %{part}{i}.z, %{part}{i}.p, %{part}{i}.p, %{part}{i}.p, %{part}{i}.p \
                 {{layer = {part}{i}, mode = midpoint, cols = 16}}",
                t.len(),
                t.len() + 1
            )
            .unwrap();
        }
        writeln!(t, "%t{i}.0 = mul %a{i}, %b{i}").unwrap();
        for j in 0..12 {
            writeln!(t, "%t{i}.{} = tanh %t{i}.{j}", j + 1).unwrap();
        }
        writeln!(t, "%x{} = add %x{i}, %t{i}.12", i + 1).unwrap();
    }
    t.push_str("return %x3\n}");
    let (before, after, report) = fused(&t, &decoding("cuda:sm_90a"));
    let layers: Vec<String> = after
        .order()
        .unwrap()
        .into_iter()
        .filter_map(|id| match &after.node(id)?.op {
            Op::NestedMatMul(nested) => Some(nested.layer.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(layers, ["a0+b0", "a1+b1", "a2+b2"], "{report}");
    assert!(report.regions.1 < report.regions.0, "{report}");
    proved(&before, &after);
}

#[test]
fn what_a_region_replaces_reaches_the_next_ones() {
    let mut t =
        String::from("graph @g(%x0: f32[n, 16]) -> (y: ?) {\nopset \"\" = 17\n%w = weight : i64[] = 4\n");
    for i in 0..4 {
        writeln!(
            t,
            "%s{i} = weight : f32[16, 1] = random({i})\n%z{i} = weight : f32[16, 1] = random(9)\n\
             %p{i} = weight : u8[16, 2] = random({i})\n%t{i}.0 = tanh %x{i}"
        )
        .unwrap();
        for j in 0..11 {
            writeln!(t, "%t{i}.{} = tanh %t{i}.{j}", j + 1).unwrap();
        }
        writeln!(
            t,
            "%a{i} = nested_mat_mul %t{i}.11, %w, %s{i}, %z{i}, %p{i}, %p{i}, %p{i}, %p{i} {{layer = a{i}, mode = midpoint, \
             cols = 16}}\n%x{} = add %x{i}, %a{i}",
            i + 1
        )
        .unwrap();
    }
    t.push_str("return %x4\n}");
    let options = FuseOptions { session: true, ..fuse_options("cpu") };
    let (before, after, report) = fused(&t, &options);
    assert!(report.regions.0 > 3, "{report}");
    assert_eq!(report.nodes, (4 * 14, 4 * 13), "{report}\n{}", text::print(&after));
    assert!(!text::print(&after).contains("= add"), "{}", text::print(&after));
    proved(&before, &after);
}

#[test]
fn parameters_of_equal_value_stay_apart() {
    let ones = Tensor::from_f32(vec![2], &[1.0, 1.0]).unwrap();
    let (_, after, _) = fused(
        "graph @g(%x: f32[2]) -> (y: ?) {\nopset \"\" = 17\n%a = weight : f32[2] = [1.0, 1.0]\n%b = weight : f32[2] = [1.0, 1.0]\n\
         %c = mul %x, %a\n%d = div %x, %b\n%y = add %c, %d\nreturn %y\n}",
        &fuse_options("cpu"),
    );
    let constants =
        after.ids().into_iter().filter(|id| after.node(*id).unwrap().op.as_constant() == Some(&ones));
    assert_eq!(constants.count(), 2);
}
