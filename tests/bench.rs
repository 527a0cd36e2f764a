//! `mqc bench`: what it writes is complete and consistent, and mistakes are named. No test looks at how fast anything is.

use std::path::{Path, PathBuf};

use serde_json::Value;

mod common;

use common::python::python;
use common::{contents, fail, mqc, repository, run, scratch, succeed, write_model};

const LAYERS: usize = 6;

fn digits() -> PathBuf {
    repository("examples/digits/digits.onnx")
}

/// A folder with `m.mqc`.
fn compiled() -> tempfile::TempDir {
    let folder = scratch();
    succeed(folder.path(), &format!("compile {} -o m.mqc --bits 8,4,2 --quiet", digits().display()));
    folder
}

/// Runs `mqc bench ARGUMENTS --json out.json` on a machine without Python; returns what it printed and the JSON.
fn bench(folder: &Path, arguments: &str) -> (String, Value) {
    let arguments = format!("bench {arguments} --rounds 3 --warmup 1 --json out.json --quiet");
    let ran = run(mqc(folder).args(arguments.split_whitespace()).env("PATH", folder));
    assert_eq!(ran.code, Some(0), "mqc {arguments}\n{}{}", ran.stdout, ran.stderr);
    (ran.stdout, json(folder))
}

fn json(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("out.json")).unwrap()).unwrap()
}

fn number(value: &Value) -> f64 {
    let number = value.as_f64().unwrap_or_else(|| panic!("{value} is no number"));
    assert!(number.is_finite());
    number
}

fn positive(value: &Value) -> f64 {
    let number = number(value);
    assert!(number > 0.0, "{number}");
    number
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("{value} is no list"))
}

fn sum(values: &Value, field: &str) -> f64 {
    list(values).iter().map(|v| number(&v[field])).sum()
}

fn assert_close(a: f64, b: f64) {
    assert!((a - b).abs() <= 1e-6 * a.abs().max(b.abs()), "{a} is not {b}");
}

fn check_spread(spread: &Value) {
    let [min, median, max] = ["min", "median", "max"].map(|field| positive(&spread[field]));
    assert!(min <= median && median <= max, "{spread}");
}

/// The parts of a breakdown add up.
fn check_breakdown(breakdown: &Value) {
    let all = positive(&breakdown["micros"]);
    assert_close(sum(&breakdown["ops"], "micros"), all);
    assert_close(sum(&breakdown["ops"], "share"), 1.0);
    for op in list(&breakdown["ops"]) {
        assert!(number(&op["micros"]) >= 0.0 && positive(&op["count"]) >= 1.0, "{op}");
    }
}

/// The layers of a case at a width and a batch: rates, and the whole of them.
fn check_layers(breakdown: &Value, bits: &str, batch: f64) {
    let layers = list(&breakdown["layers"]);
    assert_eq!(layers.len(), LAYERS);
    for layer in layers {
        let [micros, bytes, operations] = ["micros", "bytes", "operations"].map(|f| positive(&layer[f]));
        assert_close(number(&layer["gb_per_s"]), bytes / micros / 1e3);
        assert_close(number(&layer["gop_per_s"]), operations / micros / 1e3);
        assert_close(number(&layer["roofline_share"]), positive(&layer["floor_micros"]) / micros);
        assert_eq!(layer["bits"].to_string(), bits);
    }
    let nested = &breakdown["nested"];
    for field in ["micros", "share", "bytes", "operations", "floor_micros"] {
        assert_close(number(&nested[field]), sum(&breakdown["layers"], field));
    }
    positive(&nested["roofline_share"]);
    let fc1 = layers.iter().find(|l| l["layer"] == "fc1.weight").unwrap();
    assert_eq!(number(&fc1["operations"]), 2.0 * 64.0 * 3136.0 * batch);
    let width: f64 = bits.parse().unwrap();
    // Planes of 64 rows of 3136 bits, a scale and a zero of four bytes for each row. Midpoint slices need one bit more.
    let planes = if width < 8.0 { [width, width + 1.0] } else { [8.0, 8.0] };
    let bytes = planes.map(|p| p * 64.0 * 3136.0 / 8.0 + 2.0 * 4.0 * 64.0);
    assert!(bytes.contains(&number(&fc1["bytes"])), "{fc1}, expected {bytes:?}");
}

#[test]
fn every_width_batch_and_number_of_threads() {
    let folder = compiled();
    let before = contents(&folder.path().join("m.mqc"));
    let files = "--svg chart.svg --report page.html --all";
    let (printed, report) =
        bench(folder.path(), &format!("m.mqc --bits 8,4,2 --batch 1,16 --threads 1,2 {files}"));
    assert_eq!(contents(&folder.path().join("m.mqc")), before);

    let mut found = vec![];
    for case in list(&report["cases"]) {
        let (bits, batch) = (case["bits"].as_str().unwrap(), number(&case["batch"]));
        found.push(format!("{bits} {batch} {}", case["threads"]));
        assert_eq!(case["inputs"]["image"], format!("f32[{batch}, 1, 28, 28]"));
        check_spread(&case["micros"]);
        check_breakdown(&case["breakdown"]);
        check_layers(&case["breakdown"], bits, batch);
        assert_eq!(list(&case["peers"]).len(), 0);
    }
    let expected = ["8 1 1", "4 1 1", "2 1 1", "8 16 1", "4 16 1", "2 16 1"]
        .into_iter()
        .chain(["8 1 2", "4 1 2", "2 1 2", "8 16 2", "4 16 2", "2 16 2"]);
    assert_eq!(found, expected.collect::<Vec<_>>());

    let limits = list(&report["machine"]["limits"]);
    for threads in [1, 2] {
        let row = limits.iter().find(|l| l["threads"] == threads).unwrap();
        for field in ["read_gb_per_s", "int8_gop_per_s", "f32_gop_per_s"] {
            positive(&row[field]);
        }
    }

    assert_eq!(report["onnxruntime"], Value::Null);
    assert_eq!(list(&report["notes"]).len(), 1);
    let note = report["notes"][0].as_str().unwrap();
    assert!(note.starts_with("not compared with onnxruntime: python3: "), "{note}");
    for word in [note, "conv4_grouped.weight", "NestedConv", "roofline"] {
        assert!(printed.contains(word), "{word} is not in\n{printed}");
    }

    let chart = std::fs::read_to_string(folder.path().join("chart.svg")).unwrap();
    assert!(chart.starts_with("<svg ") && chart.trim_end().ends_with("</svg>"), "{chart}");
    assert_eq!(chart.matches("2 bits").count(), 4);
    let page = std::fs::read_to_string(folder.path().join("page.html")).unwrap();
    assert!(page.contains(&chart) && page.contains("python3"), "{page}");
}

#[test]
fn a_float_model() {
    let folder = scratch();
    std::fs::copy(digits(), folder.path().join("m.onnx")).unwrap();
    let (_, report) = bench(folder.path(), "m.onnx --threads 1");
    let [case] = list(&report["cases"]) else { panic!("{report}") };
    assert_eq!(case["bits"], "float");
    assert_eq!(case["batch"], 1);
    check_spread(&case["micros"]);
    check_breakdown(&case["breakdown"]);
    assert_eq!(case["breakdown"]["nested"], Value::Null);
}

#[test]
fn rows_of_given_inputs() {
    let folder = compiled();
    let input = format!("--input {}", repository("examples/digits/digits-test.npz").display());
    let (_, report) = bench(folder.path(), &format!("m.mqc --bits 4 --batch 3 --threads 1 {input}"));
    assert_eq!(report["cases"][0]["inputs"]["image"], "f32[3, 1, 28, 28]");
    let message = fail(folder.path(), &format!("bench m.mqc --bits 4 --batch 501 {input}"), 2);
    assert!(message.contains("501") && message.contains("500 rows"), "{message}");
}

#[test]
fn against_onnxruntime() {
    let folder = compiled();
    let arguments = format!(
        "bench m.mqc --bits 4,3 --threads 1 --rounds 3 --json out.json --model {} --python {}",
        digits().display(),
        python().display()
    );
    let printed = succeed(folder.path(), &arguments);
    let report = json(folder.path());
    assert_eq!(report["onnxruntime"], "1.32.0");
    let [four, three] = list(&report["cases"]) else { panic!("{report}") };
    for (case, models) in [(four, vec!["float", "matmulnbits"]), (three, vec!["float"])] {
        let found: Vec<_> = list(&case["peers"]).iter().map(|p| p["model"].as_str().unwrap()).collect();
        assert_eq!(found, models);
        for peer in list(&case["peers"]) {
            check_spread(&peer["micros"]);
            let bound = |ours: &str, theirs: &str| {
                positive(&case["micros"][ours]) / positive(&peer["micros"][theirs])
            };
            let ratio = positive(&peer["ratio"]);
            assert!(bound("min", "max") <= ratio && ratio <= bound("max", "min"), "{case}");
        }
    }
    let [note] = list(&report["notes"]) else { panic!("{report}") };
    assert!(note.as_str().unwrap().contains("at 3 bits") && printed.contains("8, 4 and 2"), "{note}");
}

#[test]
fn the_costs_of_the_machine_are_a_table_for_fuse() {
    let folder = scratch();
    let folder = folder.path();
    succeed(folder, "bench --calibrate costs.toml --threads 1 --quiet");
    std::fs::copy(repository("tests/ir/fuse/rules.mqir"), folder.join("g.mqir")).unwrap();
    let explained = succeed(folder, "ir g.mqir --pass fuse --explain --costs costs.toml");
    assert!(explained.contains("merge-transposes") || explained.contains("drop-identity"), "{explained}");
    let table = std::fs::read_to_string(folder.join("costs.toml")).unwrap();
    std::fs::write(folder.join("bad.toml"), table.replace("node_ns", "node_us")).unwrap();
    let message = fail(folder, "ir g.mqir --pass fuse --costs bad.toml", 2);
    assert!(message.contains("bad.toml") && message.contains("node_us"), "{message}");
}

#[test]
fn mistakes() {
    let folder = compiled();
    let folder = folder.path();
    write_model(
        &folder.join("fixed.onnx"),
        "graph @fixed(%x: f32[4, 16]) -> (y: ?) {\n  opset \"\" = 17\n  %y = relu %x\n  return %y\n}\n",
    );
    std::fs::copy(digits(), folder.join("d.onnx")).unwrap();
    succeed(folder, "slice m.mqc --bits 4 -o small.mqc --quiet");
    let cases: [(&str, i32, &[&str]); 12] = [
        ("m.mqc --batch x", 2, &["--batch", "x"]),
        ("m.mqc --batch 1,0", 2, &["--batch", "at least 1"]),
        ("m.mqc --threads 0", 2, &["--threads", "at least 1"]),
        ("m.mqc --rounds 0", 2, &["--rounds", "at least 1"]),
        ("m.mqc --bits 9", 2, &["--bits 9", "1 to 8"]),
        ("m.mqc --size seq=4", 2, &["--size seq", "batch"]),
        ("m.mqc --size batch=4 --batch 2", 2, &["--size batch", "--batch 2"]),
        ("m.mqc --python ./nothing", 2, &["--python ./nothing", "onnxruntime"]),
        ("fixed.onnx --batch 2", 2, &["--batch 2", "fixed", "x"]),
        ("d.onnx --bits 4", 2, &["d.onnx", "--bits"]),
        ("small.mqc --bits 8", 1, &["8 bits", "4"]),
        ("absent.mqc", 2, &["absent.mqc"]),
    ];
    for (arguments, code, words) in cases {
        let message = fail(folder, &format!("bench {arguments}"), code);
        for word in words {
            assert!(message.contains(word), "mqc bench {arguments}: {word:?} is not in\n{message}");
        }
    }
}
