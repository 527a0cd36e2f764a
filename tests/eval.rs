//! `mqc eval`: what it measures is what NumPy makes of onnxruntime's logits, and mistakes are named.

use std::path::Path;
use std::process::Command;

use mqc_ir::Tensor;
use serde_json::Value;

mod common;

use common::decoder::{FORM, Form, Positions, VOCABULARY, text, write_tokenizer};
use common::python::python;
use common::{fail, mqc, repository, run, scratch, succeed, write_model};

/// The definitions, in f64, on the logits of onnxruntime. Prints one JSON object.
const REFERENCE: &str = r#"
import json, sys
import numpy as np
import onnxruntime as ort

ort.set_default_logger_severity(4)
kind, data, *rest = sys.argv[1:]
paths = rest[-2:]  # the model, and the one that it is compared with

def load(path):
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"])

def log_softmax(x):
    x = x.astype(np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))

def logits(session, ids):
    ids = np.array([ids], np.int64)
    feed = {}
    for i in session.get_inputs():
        if i.name == "input_ids": feed[i.name] = ids
        elif i.name == "attention_mask": feed[i.name] = np.ones_like(ids)
        elif i.name == "position_ids": feed[i.name] = np.arange(ids.shape[1])[None]
        else: feed[i.name] = np.zeros((1, i.shape[1], 0, i.shape[3]), np.float32)
    return log_softmax(session.run(["logits"], feed)[0][0])

def divergence(p, q):
    return float((np.exp(p) * (p - q)).sum(-1).mean())

def text(sessions, window, stride):
    ids = np.fromfile(data, np.uint16).astype(np.int64)
    targets, rows = [], [[], []]
    for start in range(0, len(ids) - window + 1, stride):
        read = ids[start:start + window]
        targets += [*read[window - stride:]]
        for own, s in zip(rows, sessions):
            own.append(logits(s, read)[window - stride - 1:-1])
    found, expected = (np.concatenate(r) for r in rows)
    loss = -found[np.arange(len(targets)), targets].mean()
    return dict(tokens=len(targets), loss=loss, perplexity=np.exp(loss), kl=divergence(expected, found),
                accuracy=(found.argmax(-1) == targets).mean(),
                top1_agreement=(found.argmax(-1) == expected.argmax(-1)).mean())

def task(sessions):
    right = per_character = bits = same = change = 0
    questions = [json.loads(line) for line in open(data)]
    encode = lambda text: [int(word[1:]) for word in text.split()]
    for q in questions:
        scores = [[], []]
        for number, continuation in enumerate(q["continuations"]):
            context = q["contexts"][number] if "contexts" in q else q["context"]
            head, tail = encode(context), encode(continuation)
            for own, s in zip(scores, sessions):
                after = logits(s, head + tail)[len(head) - 1:-1]
                own.append(after[np.arange(len(tail)), tail].sum())
        found, expected = (np.array(s) for s in scores)
        lengths = [len(c) for c in q["continuations"]]
        right += found.argmax() == q["label"]
        per_character += (found / lengths).argmax() == q["label"]
        bits -= found[q["label"]] / np.log(2) / lengths[q["label"]]
        same += expected.argmax() == found.argmax()
        change += np.abs(expected - found).mean()
    n = len(questions)
    return dict(questions=n, accuracy=right / n, accuracy_per_character=per_character / n,
                label_bits_per_character=bits / n, same_answer=same / n, log_likelihood_change=change / n)

def classes(sessions):
    arrays = np.load(data)
    raw, reference = (s.run(None, {"image": arrays["image"]})[0].astype(np.float64) for s in sessions)
    found, expected, labels = log_softmax(raw), log_softmax(reference), arrays["label"]
    best, first5 = expected.argmax(-1), np.argsort(found, -1)[:, -5:]
    norm = lambda x: np.linalg.norm(x, axis=-1)
    return dict(samples=len(labels), accuracy=(found.argmax(-1) == labels).mean(),
                top5_accuracy=(first5 == labels[:, None]).any(-1).mean(),
                loss=-found[np.arange(len(labels)), labels].mean(), kl=divergence(expected, found),
                top1_agreement=(found.argmax(-1) == best).mean(),
                reference_in_top5=(first5 == best[:, None]).any(-1).mean(),
                cosine=((raw * reference).sum(-1) / (norm(raw) * norm(reference))).mean())

sessions = [load(p) for p in paths]
if kind == "text": result = text(sessions, *map(int, rest[:2]))
elif kind == "task": result = task(sessions)
else: result = classes(sessions)
print(json.dumps({k: float(v) for k, v in result.items()}))
"#;

fn reference(folder: &Path, arguments: &str) -> Value {
    let mut command = Command::new(python());
    let ran = run(command.current_dir(folder).args(["-c", REFERENCE]).args(arguments.split_whitespace()));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    serde_json::from_str(&ran.stdout).unwrap()
}

/// Runs `mqc eval ARGUMENTS`, whose JSON is returned.
fn eval(folder: &Path, arguments: &str) -> Value {
    succeed(folder, &format!("eval {arguments} --json out.json --quiet"));
    serde_json::from_slice(&std::fs::read(folder.join("out.json")).unwrap()).unwrap()
}

/// Every number of `expected` is that of `found`.
fn assert_same(found: &Value, expected: &Value) {
    for (name, value) in expected.as_object().unwrap() {
        let (a, b) = (found[name].as_f64(), value.as_f64().unwrap());
        let close = a.is_some_and(|a| (a - b).abs() <= 2e-5 * b.abs().max(0.1));
        assert!(close, "{name}: {a:?} is not {b}\n{found}\n{expected}");
    }
}

fn bits(results: &Value) -> Vec<&str> {
    results.as_array().unwrap().iter().map(|r| r["bits"].as_str().unwrap()).collect()
}

/// Tokens of a text that repeats itself with variations.
fn ids(count: usize) -> Vec<u16> {
    (0..count).map(|i| ((i * 7 + i * i / 3) % VOCABULARY) as u16).collect()
}

fn write_tokens(path: &Path, ids: &[u16]) {
    std::fs::write(path, ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
}

fn words(ids: &[u16]) -> String {
    ids.iter().map(|id| format!("t{id}")).collect::<Vec<_>>().join(" ")
}

/// Questions whose choices differ in length, some with a context for each.
fn write_questions(path: &Path) {
    let ids = ids(400);
    let line = |n: usize| {
        let part = |from: usize, count: usize| words(&ids[(n * 11 + from) % 300..][..count]);
        let choices: Vec<String> =
            (0..2 + n % 3).map(|c| format!(" {}", part(50 * c, 1 + (n + c) % 4))).collect();
        let label = n % choices.len();
        let contexts: Vec<String> = (0..choices.len()).map(|c| part(20 + c, 4 + n % 5 + c)).collect();
        match n % 2 {
            0 => {
                serde_json::json!({"id": n, "context": contexts[0], "continuations": choices, "label": label})
            }
            _ => serde_json::json!({"contexts": contexts, "continuations": choices, "label": label}),
        }
    };
    let lines: Vec<String> = (0..12).map(|n| line(n).to_string()).collect();
    std::fs::write(path, lines.join("\n")).unwrap();
}

/// A folder with `m.onnx`, `m.mqc`, `map.toml`, the model at each of `4`, `2` and `map` as a float model, a text, tokens,
/// and questions.
fn decoder(form: &Form) -> tempfile::TempDir {
    let folder = scratch();
    let path = folder.path();
    write_model(&path.join("m.onnx"), &text(form));
    write_tokenizer(&path.join("tokenizer.json"), VOCABULARY);
    write_tokens(&path.join("text.u16"), &ids(200));
    std::fs::write(path.join("text.txt"), words(&ids(200))).unwrap();
    write_questions(&path.join("ask.jsonl"));
    succeed(path, "compile m.onnx --bits 8,4,2 -o m.mqc -q");
    std::fs::write(path.join("map.toml"), "default = 2\n[layers]\n\"layer.0.*\" = 8\n").unwrap();
    for (bits, name) in [("4", "4"), ("2", "2"), ("map.toml", "map")] {
        succeed(path, &format!("export m.mqc --bits {bits} --format float -o {name}.onnx -q"));
    }
    folder
}

const COMPARED: &str =
    "m.mqc --bits 4,2,map.toml --model m.onnx --activations f32 --tokenizer tokenizer.json";

#[test]
fn perplexity_is_numpys() {
    for form in [
        Form { past: false, ..FORM },
        Form { past: true, positions: Positions::PastLength, ..FORM },
        Form { past: true, positions: Positions::Input, ..FORM },
    ] {
        let folder = decoder(&form);
        let folder = folder.path();
        let report = eval(folder, &format!("{COMPARED} --tokens text.u16 --window 32 --stride 8"));
        let text = &report["texts"][0];
        assert_eq!((&text["windows"], &text["window"], &text["stride"]), (&22.into(), &32.into(), &8.into()));
        assert_eq!(bits(&text["results"]), ["float", "4", "2", "map.toml"]);
        for (index, model) in ["m", "4", "2", "map"].iter().enumerate() {
            let mut expected = reference(folder, &format!("text text.u16 32 8 {model}.onnx m.onnx"));
            if index == 0 {
                expected.as_object_mut().unwrap().retain(|name, _| name != "kl" && name != "top1_agreement");
            }
            assert_same(&text["results"][index], &expected);
        }
    }
}

#[test]
fn questions_are_numpys() {
    let folder = decoder(&FORM);
    let folder = folder.path();
    let report = eval(folder, &format!("{COMPARED} --tasks ask.jsonl"));
    let task = &report["tasks"][0];
    assert_eq!((&task["task"], bits(&task["results"])), (&"ask".into(), vec!["float", "4", "2", "map.toml"]));
    for (index, model) in ["m", "4", "2", "map"].iter().enumerate() {
        let mut expected = reference(folder, &format!("task ask.jsonl {model}.onnx m.onnx"));
        if index == 0 {
            expected
                .as_object_mut()
                .unwrap()
                .retain(|n, _| n != "same_answer" && n != "log_likelihood_change");
        }
        assert_same(&task["results"][index], &expected);
    }
}

#[test]
fn classification_is_numpys() {
    let folder = scratch();
    let folder = folder.path();
    let [model, data] = ["digits.onnx", "digits-test.npz"].map(|f| repository("examples/digits").join(f));
    let [model, data] = [model.display(), data.display()];
    succeed(folder, &format!("compile {model} -o m.mqc --bits 8,4,2 -q"));
    succeed(folder, "export m.mqc --bits 2 --format float -o 2.onnx -q");
    let options = format!("--input {data} --labels label");
    let report = eval(folder, &format!("m.mqc --bits 2 --model {model} --activations f32 {options}"));
    let found = &report["classification"]["results"];
    assert_eq!(bits(found), ["float", "2"]);
    assert_same(&found[1], &reference(folder, &format!("classes {data} 2.onnx {model}")));
    // As its README says.
    assert_eq!(found[0]["accuracy"], 0.984);

    // A float model alone, by name of the output, and beside another.
    let alone = eval(folder, &format!("{model} --output logits {options}"));
    assert_eq!(alone["classification"]["results"], serde_json::json!([found[0]]));
    let both = eval(folder, &format!("2.onnx --model {model} --input {data} --limit 50"));
    let both = &both["classification"]["results"];
    assert_eq!(bits(both), ["float", "onnx"]);
    assert_eq!((&both[1]["samples"], &both[1]["accuracy"]), (&50.into(), &Value::Null));
    assert!(both[1]["top1_agreement"].as_f64().is_some_and(|share| share > 0.2), "{both}");
}

#[test]
fn text_tokens_and_limits() {
    let folder = decoder(&FORM);
    let folder = folder.path();
    let options = "--tokenizer tokenizer.json --window 32 --stride 8";
    let report = eval(folder, &format!("m.onnx --text text.txt --tokens text.u16 {options} --limit 5"));
    let [text, tokens] = [0, 1].map(|n| report["texts"][n]["results"][0].clone());
    assert_eq!((&text["tokens"], &text["loss"]), (&40.into(), &tokens["loss"]));
    // Windows at 0, 32, 64, 96 and 128 (22 / 5 = 4 strides); each scores tokens 24 to 31 with the spaces between.
    let bytes: usize = (0..5).map(|n| words(&ids(200)[32 * n + 24..][..8]).len()).sum();
    let expected = text["loss"].as_f64().unwrap() * 40.0 / 2f64.ln() / bytes as f64;
    assert!((text["bits_per_byte"].as_f64().unwrap() - expected).abs() < 1e-9);
    assert_eq!(tokens["bits_per_byte"], Value::Null);

    // Fewer tokens than a window: all but the first are scored.
    write_tokens(&folder.join("short.u16"), &ids(20));
    let report = eval(folder, "m.onnx --tokens short.u16");
    let found = &report["texts"][0];
    assert_eq!((&found["windows"], &found["window"]), (&1.into(), &20.into()));
    assert_eq!(found["results"][0]["tokens"], 19);
}

/// The next token depends on the last alone; the inputs as given.
fn bigrams(inputs: &str, shape: &str, before: &str, ids: &str) -> String {
    format!(
        "graph @bigrams({inputs}) -> (logits: f32[{shape}, 40]) {{\n  opset \"\" = 17\n  \
         %table = weight : f32[40, 40] = random(1)\n  {before}\n  %logits = gather %table, {ids} {{axis = 0}}\n  \
         return %logits\n}}\n"
    )
}

#[test]
fn inputs_are_filled_and_fixed_sizes_kept() {
    let folder = scratch();
    let folder = folder.path();
    write_tokens(&folder.join("text.u16"), &ids(60));
    write_tokenizer(&folder.join("tokenizer.json"), VOCABULARY);
    write_questions(&folder.join("ask.jsonl"));
    let options =
        "--tokens text.u16 --window 8 --stride 4 --tasks ask.jsonl --tokenizer tokenizer.json --limit 9";
    let mut reports = vec![];
    for (name, model) in [
        ("open", bigrams("%input_ids: i64[batch, seq]", "batch, seq", "", "%input_ids")),
        ("fixed", bigrams("%input_ids: i64[4, 16]", "4, 16", "", "%input_ids")),
        (
            "types",
            bigrams(
                "%input_ids: i64[batch, seq], %token_type_ids: i64[batch, seq]",
                "batch, seq",
                "%sum = add %input_ids, %token_type_ids",
                "%sum",
            ),
        ),
        ("narrow", bigrams("%tokens: i32[batch, seq]", "batch, seq", "", "%tokens")),
    ] {
        write_model(&folder.join(format!("{name}.onnx")), &model);
        let mut report = eval(folder, &format!("{name}.onnx {options}"));
        report["model"].take();
        reports.push(report);
    }
    assert!(reports[0]["texts"][0]["results"][0]["loss"].as_f64().is_some_and(|l| l > 0.0));
    reports.iter().skip(1).for_each(|report| assert_eq!(report, &reports[0]));
}

#[test]
fn batches_of_a_fixed_size_and_probabilities() {
    let folder = scratch();
    let folder = folder.path();
    let values: Vec<f32> = (0..70).map(|i| ((i * 37 % 19) as f32 - 9.0) / 5.0).collect();
    let labels: Vec<i64> = (0..10).map(|i| i * 3 % 7).collect();
    let arrays = [
        ("x".to_owned(), Tensor::from_f32(vec![10, 7], &values).unwrap()),
        ("label".to_owned(), Tensor::from_i64(vec![10], &labels).unwrap()),
    ];
    mqc::data::write_npz(&folder.join("data.npz"), &arrays).unwrap();
    let mut reports = vec![];
    for (name, batch, softmax) in [("open", "batch", ""), ("fixed", "4", ""), ("soft", "batch", "softmax")] {
        let end = match softmax {
            "" => "%y = identity %l".to_owned(),
            _ => "%y = softmax %l {axis = -1}".to_owned(),
        };
        let model = format!(
            "graph @g(%x: f32[{batch}, 7]) -> (y: ?) {{\n  opset \"\" = 17\n  %w = weight : f32[7, 7] = random(1)\n  \
             %l = mat_mul %x, %w\n  {end}\n  return %y\n}}\n"
        );
        write_model(&folder.join(format!("{name}.onnx")), &model);
        reports.push(eval(folder, &format!("{name}.onnx --input data.npz --labels label")));
    }
    let found = reports.iter().map(|r| &r["classification"]["results"][0]).collect::<Vec<_>>();
    assert_eq!(found[0], found[1]);
    for field in ["accuracy", "top5_accuracy", "loss"] {
        let [a, b] = [found[0], found[2]].map(|f| f[field].as_f64().unwrap());
        assert!((a - b).abs() < 1e-6, "{field}: {a} is not {b}");
    }
}

#[test]
fn tables_and_files() {
    let folder = decoder(&FORM);
    let folder = folder.path();
    let options = "--text text.txt --window 32 --tasks ask.jsonl --svg chart.svg --html page.html --quiet";
    let printed = succeed(folder, &format!("eval {COMPARED} {options}"));
    let mask = |line: &str| line.trim_end().replace(|c: char| c.is_ascii_digit(), "#");
    let masked: Vec<String> = printed.lines().map(mask).collect();
    insta::assert_snapshot!(masked.join("\n"), @r"
    text.txt: ### tokens scored in ## windows of ##
    bits        loss  perplexity  bits/byte   right  KL to float  agrees
    float     #.####     ###.###     #.####  #.####            -       -
    #         #.####     ###.###     #.####  #.####      #.#####  #.####
    #         #.####     ###.###     #.####  #.####      #.#####  #.####
    map.toml  #.####     ###.###     #.####  #.####      #.#####  #.####
    ask: ## questions
    bits       right  right by character  bits/character  same answer  log-likelihood change
    float     #.####              #.####          #.####            -                      -
    #         #.####              #.####          #.####       #.####                 #.####
    #         #.####              #.####          #.####       #.####                 #.####
    map.toml  #.####              #.####          #.####       #.####                 #.####
    ");
    let svg = std::fs::read_to_string(folder.join("chart.svg")).unwrap();
    let page = std::fs::read_to_string(folder.join("page.html")).unwrap();
    assert_eq!(svg.matches("<rect ").count(), 8);
    assert!(page.contains(&svg) && page.contains("&quot;perplexity&quot;"));
}

#[test]
fn nan_is_said_and_fails() {
    let folder = scratch();
    let folder = folder.path();
    write_model(&folder.join("m.onnx"), &text(&Form { broken: true, ..FORM }));
    write_tokens(&folder.join("text.u16"), &ids(20));
    let ran = run(mqc(folder).args("eval m.onnx --tokens text.u16 --json out.json".split_whitespace()));
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stdout.contains("NaN") && ran.stdout.contains("19 of 19 tokens"), "{}", ran.stdout);
    let report: Value = serde_json::from_slice(&std::fs::read(folder.join("out.json")).unwrap()).unwrap();
    let result = &report["texts"][0]["results"][0];
    assert_eq!((&result["perplexity"], &result["not_finite"]), (&Value::Null, &19.into()));
}

#[test]
fn mistakes() {
    let folder = decoder(&FORM);
    let folder = folder.path();
    let digits = |file: &str| repository("examples/digits").join(file).display().to_string();
    let [model, data] = ["digits.onnx", "digits-test.npz"].map(digits);
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    write("empty.txt", "");
    write("one.txt", "t1");
    write("cut.u16", "abc");
    write_tokens(&folder.join("large.u16"), &[1, 2, 40, 3]);
    write(
        "bad.jsonl",
        "{\"context\": \"t1\", \"continuations\": [\" t2\", \" t3\"], \"label\": 0}\n{\"context\": \"t1\"}\n",
    );
    write("label.jsonl", "{\"context\": \"t1\", \"continuations\": [\" t2\", \" t3\"], \"label\": 2}\n");
    let strange =
        bigrams("%input_ids: i64[batch, seq], %mood: f32[batch, 3]", "batch, seq", "", "%input_ids");
    write_model(&folder.join("strange.onnx"), &strange);
    let fixed = bigrams("%input_ids: i64[4, 16]", "4, 16", "", "%input_ids");
    write_model(&folder.join("fixed.onnx"), &fixed);
    let arrays = |labels: &[i64]| {
        let image = Tensor::from_f32(vec![2, 1, 28, 28], &[0.5; 2 * 28 * 28]).unwrap();
        let label = Tensor::from_i64(vec![labels.len()], labels).unwrap();
        [("image".to_owned(), image), ("label".to_owned(), label)]
    };
    for (name, labels) in [("ten", &[3, 10][..]), ("negative", &[-1, 3]), ("three", &[1, 2, 3])] {
        mqc::data::write_npz(&folder.join(format!("{name}.npz")), &arrays(labels)).unwrap();
    }
    let says = |arguments: &str, code: i32, words: &[&str]| {
        let message = fail(folder, &format!("eval {arguments}"), code);
        for word in words {
            assert!(message.contains(word), "mqc eval {arguments}: {word:?} is not in\n{message}");
        }
    };
    let tokenizer = "--tokenizer tokenizer.json";
    says("m.mqc", 2, &["--text", "--tasks"]);
    says("m.mqc --text text.txt", 2, &["--tokenizer"]);
    says("m.onnx --bits 4 --tokens text.u16", 2, &["m.onnx", "--bits"]);
    says("m.mqc --bits 9 --tokens text.u16", 2, &["--bits 9"]);
    says("m.mqc --model m.mqc --tokens text.u16", 2, &["--model m.mqc", "artifact"]);
    says("m.mqc --tokens text.u16 --limit 0", 2, &["--limit"]);
    says("m.mqc --tokens text.u16 --window 8 --stride 9", 2, &["stride of 9", "window of 8"]);
    says("m.mqc --tokens absent.u16", 2, &["absent.u16"]);
    says("m.mqc --tokens text.txt", 2, &["text.txt", ".u16"]);
    says("m.mqc --tokens cut.u16", 2, &["cut.u16", "3 bytes"]);
    says("m.mqc --tokens large.u16", 2, &["large.u16", "token 40 at place 2", "vocabulary of 40"]);
    says(&format!("m.mqc --text empty.txt {tokenizer}"), 2, &["empty.txt", "no tokens"]);
    says(&format!("m.mqc --text one.txt {tokenizer}"), 2, &["one.txt", "1 tokens"]);
    says(&format!("m.mqc --tasks bad.jsonl {tokenizer}"), 2, &["bad.jsonl:2", "continuations"]);
    says(&format!("m.mqc --tasks label.jsonl {tokenizer}"), 2, &["label.jsonl:1", "label 2"]);
    says("strange.onnx --tokens text.u16", 1, &["strange.onnx", "mood"]);
    says("fixed.onnx --tokens text.u16 --window 17", 2, &["16 positions", "--window"]);
    says(&format!("{model} --tokens text.u16"), 1, &["digits.onnx", "image"]);
    says(&format!("{model} --input {data}"), 2, &["--labels", "--model"]);
    says(&format!("{model} --input {data} --labels absent"), 2, &["--labels absent"]);
    says(&format!("{model} --input {data} --labels image"), 2, &["--labels image", "f32"]);
    says(&format!("{model} --input {data} --labels label --output x"), 2, &["--output x", "logits"]);
    says(&format!("{model} --input ten.npz --labels label"), 2, &["label 10", "sample 1", "10 classes"]);
    says(&format!("{model} --input negative.npz --labels label"), 2, &["label -1", "sample 0"]);
    says(&format!("{model} --input three.npz --labels label"), 2, &["3 labels", "2 samples"]);
    says(&format!("{model} --input m.onnx --tokens text.u16 --labels label"), 2, &["--tokens"]);
}
