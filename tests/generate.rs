//! `mqc generate`: caches against plain recomputation, on small decoders in the spellings of exporters.

use std::collections::BTreeMap;
use std::path::Path;

use mqc::generate::{Decoder, Memory, Widths};
use mqc::precision::Precision;
use mqc::run::{Loaded, Setup};
use mqc_ir::quant::Width;
use mqc_ir::{Activations, Tensor};

mod common;

use common::decoder::{FORM, Form, Positions, Scale, Share, VOCABULARY, text, write_tokenizer};
use common::{fail, run, scratch, succeed, write_model};

/// Positions that the reference reads.
const LENGTH: usize = 24;

fn width(bits: u8) -> Width {
    Width::new(bits).unwrap()
}

/// Compiles the form as `<name>.mqc`.
fn compile(folder: &Path, name: &str, form: &Form) {
    write_model(&folder.join(format!("{name}.onnx")), &text(form));
    succeed(folder, &format!("compile {name}.onnx --bits 8,4,2 -o {name}.mqc -q"));
}

/// The graph as it is, run by its own operators: what the model means.
struct Plain {
    loaded: Loaded,
    form: Form,
    past: BTreeMap<String, Tensor>,
    read: Vec<i64>,
}

/// Float activations: rounded ones would hide what a cache loses.
fn exact() -> Setup {
    Setup { activations: Some(Activations::F32), ..Setup::default() }
}

impl Plain {
    fn open(path: &Path, form: &Form) -> Plain {
        let empty = Tensor::from_f32(vec![1, form.heads(), 0, 8], &[]).unwrap();
        let names = (0..2).flat_map(|n| [format!("{n}.key"), format!("{n}.value")]);
        let past = names.map(|name| (name, empty.clone())).collect();
        Plain { loaded: Loaded::open(path, &exact()).unwrap(), form: *form, past, read: vec![] }
    }

    /// Logits after every token: with past inputs of these tokens, without of the whole sequence.
    fn read(&mut self, tokens: &[u32], bits: u8) -> Vec<Vec<f32>> {
        let before = if self.form.past { self.read.len() } else { 0 };
        self.read.extend(tokens.iter().map(|t| i64::from(*t)));
        let row = |values: &[i64]| Tensor::from_i64(vec![1, values.len()], values).unwrap();
        let mut inputs = BTreeMap::from([("input_ids".to_owned(), row(&self.read[before..]))]);
        if self.form.positions != Positions::PastLength {
            inputs.insert("attention_mask".to_owned(), row(&vec![1; self.read.len()]));
        }
        if self.form.positions == Positions::Input {
            let positions: Vec<i64> = (before as i64..self.read.len() as i64).collect();
            inputs.insert("position_ids".to_owned(), row(&positions));
        }
        if self.form.past {
            inputs.extend(self.past.iter().map(|(name, t)| (format!("past_key_values.{name}"), t.clone())));
        }
        let outputs = self.loaded.run(&Precision::uniform(width(bits)), &inputs).unwrap();
        let outputs: BTreeMap<String, Tensor> = outputs.into_iter().collect();
        for (name, past) in &mut self.past {
            if let Some(present) = outputs.get(&format!("present.{name}")) {
                *past = present.clone();
            }
        }
        outputs["logits"].to_f32_vec().unwrap().chunks(VOCABULARY).map(<[f32]>::to_vec).collect()
    }
}

fn sequence() -> Vec<u32> {
    (0..LENGTH as u32).map(|n| (n * n * 7 + 3 * n + 5) % VOCABULARY as u32).collect()
}

/// What separates two ways to the same logits, in units of the largest: rounding of sums.
const FLOAT: f32 = 1e-4;

#[track_caller]
fn close(found: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    let largest = expected.iter().fold(0.0f32, |most, l| most.max(l.abs()));
    assert!(largest > 0.1, "{what}: logits of {largest} show nothing");
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= tolerance * largest, "{what}: {found}, expected {expected}");
    }
    let best = |logits: &[f32]| (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
    assert_eq!(best(found), best(expected), "{what}");
}

fn widths(decoder: &Decoder, bits: u8) -> Widths {
    decoder.widths(&Precision::uniform(width(bits))).unwrap()
}

/// Every spelling once; the rest of the combinations would test the same lines.
fn forms() -> Vec<Form> {
    vec![
        FORM,
        Form { share: Share::Expand, scale: Scale::ScoresDivided, positions: Positions::Input, ..FORM },
        Form { share: Share::Own, scale: Scale::QueryAndKey, positions: Positions::PastLength, ..FORM },
        Form { share: Share::One, scale: Scale::Query, positions: Positions::MaskLength, ..FORM },
        Form { share: Share::Own, scale: Scale::None, positions: Positions::Input, ..FORM },
    ]
}

/// Reads the sequence in pieces and compares with reading it whole without a cache.
fn compare(folder: &Path, extension: &str, form: &Form, bits: &[u8], tolerance: f32) {
    let plain = Form { past: false, ..*form };
    let mut decoder = Decoder::open(&folder.join(format!("cached.{extension}")), &exact()).unwrap();
    assert_eq!(decoder.memory(), Memory::Resident, "{form:?}");
    let tokens = sequence();
    for &bits in bits {
        let expected = Plain::open(&folder.join(format!("plain.{extension}")), &plain).read(&tokens, bits);
        let widths = widths(&decoder, bits);
        decoder.reset();
        let mut read = 0;
        for count in [7, 1, 1, 3].into_iter().chain(std::iter::repeat_n(1, LENGTH - 12)) {
            let logits = decoder.read(&tokens[read..read + count], &widths).unwrap();
            read += count;
            let what = format!("{form:?}, {extension} at {bits} bits, position {read}");
            close(&logits, &expected[read - 1], tolerance, &what);
        }
        assert_eq!(decoder.positions(), LENGTH);
    }
    assert!(decoder.plan_error().is_none(), "{form:?}: {:?}", decoder.plan_error());
}

#[test]
fn token_by_token_equals_the_whole_sequence_at_every_width() {
    for form in forms() {
        let folder = scratch();
        compile(folder.path(), "cached", &form);
        compile(folder.path(), "plain", &Form { past: false, ..form });
        compare(folder.path(), "onnx", &form, &[8], FLOAT);
        compare(folder.path(), "mqc", &form, &[8, 5, 4, 2], FLOAT);
    }
}

#[test]
fn widths_change_on_the_way_as_if_past_were_fed_back() {
    let folder = scratch();
    compile(folder.path(), "m", &FORM);
    let mut decoder = Decoder::open(&folder.path().join("m.mqc"), &exact()).unwrap();
    let mut plain = Plain::open(&folder.path().join("m.mqc"), &FORM);
    let constant = {
        let widths = widths(&decoder, 8);
        sequence().iter().map(|t| decoder.read(&[*t], &widths).unwrap()).next_back().unwrap()
    };
    decoder.reset();
    let mut last = vec![];
    for (n, token) in sequence().into_iter().enumerate() {
        let bits = [8, 2, 8, 4][n / 6];
        let expected = plain.read(&[token], bits);
        last = decoder.read(&[token], &widths(&decoder, bits)).unwrap();
        close(&last, &expected[0], FLOAT, &format!("position {n} at {bits} bits"));
    }
    assert_ne!(last, constant);
}

#[test]
fn more_positions_than_a_block_of_the_cache_holds() {
    // The table of places ends at 64: the input position_ids wraps around, so that a sequence may be longer.
    let form = Form { positions: Positions::Input, ..FORM };
    let folder = scratch();
    write_model(
        &folder.path().join("m.onnx"),
        &text(&form).replace("%places = weight : f32[64,", "%places = weight : f32[400,"),
    );
    let path = folder.path().join("m.onnx");
    let (mut decoder, mut plain) = (Decoder::open(&path, &exact()).unwrap(), Plain::open(&path, &form));
    let none = Widths::new();
    let tokens: Vec<u32> = (0..300).map(|n| n * 11 % VOCABULARY as u32).collect();
    for piece in [&tokens[..125], &tokens[125..127], &tokens[127..128], &tokens[128..129], &tokens[129..300]]
    {
        let expected = plain.read(piece, 8);
        let logits = decoder.read(piece, &none).unwrap();
        close(&logits, expected.last().unwrap(), FLOAT, &format!("{} positions", decoder.positions()));
    }
    // 2 layers, 2 heads, keys of 8 and values of 8 padded to 16, 3 blocks of 128 positions, 4 bytes.
    assert_eq!(decoder.memory_bytes(), 2 * 2 * (8 + 16) * 3 * 128 * 4);
}

#[test]
fn attention_of_an_unknown_form_is_fed_back() {
    let form = Form { strange: true, ..FORM };
    let folder = scratch();
    compile(folder.path(), "m", &form);
    let mut decoder = Decoder::open(&folder.path().join("m.mqc"), &exact()).unwrap();
    assert_eq!(decoder.memory(), Memory::FedBack);
    let mut plain = Plain::open(&folder.path().join("m.mqc"), &form);
    for token in sequence() {
        let expected = plain.read(&[token], 4);
        let widths = widths(&decoder, 4);
        close(&decoder.read(&[token], &widths).unwrap(), &expected[0], FLOAT, "fed back");
    }
    assert!(decoder.plan_error().is_none(), "{:?}", decoder.plan_error());
}

#[test]
fn an_error_leaves_the_sequence_as_it_was() {
    let folder = scratch();
    write_model(&folder.path().join("m.onnx"), &text(&FORM));
    let mut decoder = Decoder::open(&folder.path().join("m.onnx"), &exact()).unwrap();
    let none = Widths::new();
    decoder.read(&[1, 2, 3], &none).unwrap();
    // A token and places outside of their tables.
    assert!(decoder.read(&[4000], &none).is_err());
    assert!(decoder.read(&[1; 70], &none).is_err());
    assert!(decoder.read(&[], &none).is_err());
    assert_eq!(decoder.positions(), 3);
    let after = decoder.read(&[4], &none).unwrap();
    decoder.reset();
    assert_eq!(decoder.read(&[1, 2, 3], &none).map(|_| ()).ok(), Some(()));
    assert_eq!(decoder.read(&[4], &none).unwrap(), after);
}

/// What `mqc generate --json` says.
fn generate(folder: &Path, model: &str, arguments: &str) -> serde_json::Value {
    let line = format!("generate {model} --tokenizer tokenizer.json --json --eos none -n 20 -q {arguments}");
    let ran = run(common::mqc(folder).args(line.split_whitespace()).args(["--prompt", "t5 t3 t1"]));
    assert_eq!(ran.code, Some(0), "mqc {line}\n{}", ran.stderr);
    serde_json::from_str(&ran.stdout).unwrap()
}

#[test]
fn the_command_generates_the_same_with_and_without_cache() {
    let folder = scratch();
    let folder = folder.path();
    compile(folder, "cached", &FORM);
    compile(folder, "plain", &Form { past: false, ..FORM });
    compile(folder, "strange", &Form { strange: true, ..FORM });
    write_tokenizer(&folder.join("tokenizer.json"), VOCABULARY);
    for bits in [8, 4, 2] {
        let cached = generate(folder, "cached.mqc", &format!("--bits {bits}"));
        let plain = generate(folder, "plain.mqc", &format!("--bits {bits}"));
        assert_eq!((&cached["memory"], &plain["memory"]), (&"resident".into(), &"none".into()));
        assert_eq!(cached["tokens"], plain["tokens"], "{bits} bits");
        assert_eq!(cached["tokens"].as_array().unwrap().len(), 20);
        assert_eq!(cached["finish"], "length");
    }
    assert_eq!(generate(folder, "strange.mqc", "")["memory"], "fed_back");

    // Until the switch the tokens are those of the first width; the same width again changes nothing.
    let constant = generate(folder, "cached.mqc", "--bits 8");
    let switched = generate(folder, "cached.mqc", "--bits 8 --switch 6:1 --switch 12:8");
    let same = generate(folder, "cached.mqc", "--bits 8 --switch 6:8");
    assert_eq!(switched["tokens"].as_array().unwrap()[..6], constant["tokens"].as_array().unwrap()[..6]);
    assert_ne!(switched["tokens"], constant["tokens"]);
    assert_eq!(same["tokens"], constant["tokens"]);
    std::fs::write(folder.join("map.toml"), "default = 4\n[layers]\n\"wq*\" = 8\n").unwrap();
    let mapped = generate(folder, "cached.mqc", "--bits 4 --switch 1:map.toml");
    assert_eq!(mapped["bits"], serde_json::json!([[0, "4"], [1, "map.toml"]]));
}

#[test]
fn sampling_is_reproducible_and_stops_where_it_should() {
    let folder = scratch();
    let folder = folder.path();
    compile(folder, "m", &FORM);
    write_tokenizer(&folder.join("tokenizer.json"), VOCABULARY);
    let tokens = |arguments: &str| generate(folder, "m.mqc", arguments)["tokens"].clone();
    let hot = "--temperature 1.5 --top-k 30 --top-p 0.95 --min-p 0.001 --repetition-penalty 1.1 --seed";
    assert_eq!(tokens(&format!("{hot} 1")), tokens(&format!("{hot} 1")));
    assert_ne!(tokens(&format!("{hot} 1")), tokens(&format!("{hot} 2")));
    assert_eq!(tokens("--temperature 2 --top-k 1"), tokens(""));

    let all = generate(folder, "m.mqc", &format!("{hot} 1"));
    let text = all["text"].as_str().unwrap();
    let words: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(words.len(), 20);
    let stop = words[5];
    let first = words.iter().position(|w| *w == stop).unwrap();
    let ended = generate(folder, "m.mqc", &format!("{hot} 1 --eos {stop}"));
    assert_eq!((&ended["finish"], ended["tokens"].as_array().unwrap().len()), (&"end".into(), first + 1));
    let cut = generate(folder, "m.mqc", &format!("{hot} 1 --stop {stop}"));
    assert_eq!(cut["finish"], "stop");
    assert_eq!(cut["text"].as_str().unwrap(), &text[..text.find(stop).unwrap()]);

    // As the text comes, it is the same.
    let line = format!("generate m.mqc --tokenizer tokenizer.json --eos none -n 20 {hot} 1");
    let ran = run(common::mqc(folder).args(line.split_whitespace()).args(["--prompt", "t5 t3 t1"]));
    assert_eq!(ran.stdout, format!("{text}\n"));
    assert!(ran.stderr.contains("tokens/s"), "{}", ran.stderr);
}

#[test]
fn what_cannot_work_is_said() {
    let folder = scratch();
    let folder = folder.path();
    write_model(&folder.join("m.onnx"), &text(&FORM));
    write_model(&folder.join("broken.onnx"), &text(&Form { broken: true, ..FORM }));
    let encoder = "graph @encoder(%input_ids: i64[batch, seq], %token_type_ids: i64[batch, seq]) -> (pooled: f32[batch, seq]) {\n\
        opset \"\" = 17\n %a = add %input_ids, %token_type_ids\n %pooled = cast %a {to = f32}\n return %pooled\n}";
    write_model(&folder.join("encoder.onnx"), encoder);
    write_tokenizer(&folder.join("tokenizer.json"), VOCABULARY);
    write_tokenizer(&folder.join("large.json"), VOCABULARY + 1);
    std::fs::write(folder.join("cut.json"), "{\"version\": \"1.0\", \"model\"").unwrap();
    let says = |arguments: &str, code: i32, expected: &str| {
        let error = fail(folder, &format!("generate {arguments}"), code);
        assert!(error.contains(expected), "mqc generate {arguments}\n{error}");
    };
    says("m.onnx --tokenizer tokenizer.json --prompt=", 2, "no tokens");
    says("m.onnx --tokenizer absent.json --prompt t1", 2, "absent.json");
    says("m.onnx --tokenizer cut.json --prompt t1", 1, "not a tokenizer");
    says("m.onnx --tokenizer large.json --prompt t1", 2, "41 tokens");
    says("m.onnx --tokenizer tokenizer.json --prompt t1 --context 1", 2, "no room");
    says("m.onnx --tokenizer tokenizer.json --prompt t1 --switch 20", 2, "N:BITS");
    says("m.onnx --tokenizer tokenizer.json --prompt t1 --temperature=-1", 2, "--temperature");
    says("m.onnx --tokenizer tokenizer.json --prompt t1 --eos t99", 2, "t99");
    says("m.onnx --tokenizer tokenizer.json --prompt t1 -n 100", 1, "at new token");
    says("broken.onnx --tokenizer tokenizer.json --prompt t1", 1, "NaN");
    says("encoder.onnx --tokenizer tokenizer.json --prompt t1", 1, "not a decoder");
}
