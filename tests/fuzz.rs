//! Fuzzing for a bounded time: mutated inputs, a fixed seed, `MQC_FUZZ_SECONDS` for each target (5 if not set).
//!
//! Every target runs in a process of its own with 4 GB of address space, so that an abort, an endless loop or an
//! allocation of whatever a header claims fails the test too. The input at fault stays in `target/fuzz-failures`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use mqc::artifact::{Artifact, Manifest};
use mqc_ir::text::{NoWeights, WeightsOf, parse, print};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

mod common;

use common::{paths, repository, scratch, succeed, target};

/// Set in the process that runs a target: the folder of its input.
const INSIDE: &str = "MQC_FUZZ_INSIDE";

/// Longer than any input may take.
const PATIENCE: Duration = Duration::from_secs(20);

fn time() -> Duration {
    let seconds =
        std::env::var("MQC_FUZZ_SECONDS").ok().map(|s| s.parse().expect("MQC_FUZZ_SECONDS is a number"));
    Duration::from_secs(seconds.unwrap_or(5))
}

/// Runs `round` on fresh random numbers, in a process of its own. It writes its input into the folder that it is given
/// before it reads it.
fn fuzz(test: &str, round: impl FnOnce(&Path) -> Box<dyn FnMut(&mut ChaCha8Rng)>) {
    if let Some(folder) = std::env::var_os(INSIDE) {
        let mut round = round(Path::new(&folder));
        let mut random = ChaCha8Rng::seed_from_u64(2502_06786);
        let started = Instant::now();
        let mut rounds = 0;
        while started.elapsed() < time() {
            let before = Instant::now();
            round(&mut random);
            assert!(before.elapsed() < PATIENCE, "this input took {:?}", before.elapsed());
            rounds += 1;
        }
        assert!(rounds >= 20, "only {rounds} rounds in {:?}", time());
        return;
    }
    let folder = target().join("fuzz-failures").join(test);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    let limited = "ulimit -v 4000000; exec \"$0\" --exact --nocapture \"$1\"";
    let log = fs::File::create(folder.join("log")).unwrap();
    let mut child = Command::new("sh")
        .args(["-c", limited])
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .env(INSIDE, &folder)
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    let deadline = Instant::now() + time() + 3 * PATIENCE;
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break Some(status),
            None if Instant::now() > deadline => break None,
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    if status.is_none() {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let how = status.map_or("endless".to_owned(), |s| s.to_string());
    let log = fs::read_to_string(folder.join("log")).unwrap();
    assert!(status.is_some_and(|s| s.success()), "{how}; the input is in {}\n{log}", folder.display());
    fs::remove_dir_all(&folder).unwrap();
}

/// One to eight changes of bytes, biased to what breaks parsers: lengths, counts, ends.
fn mutate(random: &mut ChaCha8Rng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = corpus[random.random_range(0..corpus.len())].clone();
    for _ in 0..random.random_range(1..=8) {
        let at = random.random_range(0..=bytes.len());
        let end = (at + random.random_range(1..=32)).min(bytes.len());
        match random.random_range(0..8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            1 if at < bytes.len() => bytes[at] = random.random(),
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            5 => {
                // The largest lengths as varints and as integers.
                let large: [&[u8]; 4] =
                    [&[0xff, 0xff, 0xff, 0xff, 0x0f], &[0xff; 8], &[0x80; 10], b"99999999999"];
                bytes.splice(at..end, large[random.random_range(0..4)].iter().copied());
            }
            6 => {
                let other = &corpus[random.random_range(0..corpus.len())];
                let from = random.random_range(0..=other.len());
                let to = (from + random.random_range(1..=64)).min(other.len());
                bytes.splice(at..at, other[from..to].iter().copied());
            }
            _ => drop(bytes.splice(at..end, std::iter::repeat_n(random.random::<u8>(), end - at))),
        }
    }
    bytes
}

/// The inputs of the file tests.
fn texts() -> Vec<Vec<u8>> {
    paths(&repository("tests/ir")).into_iter().map(|path| fs::read(path).unwrap()).collect()
}

/// The models that the texts describe, and the one that the repository ships.
fn models() -> Vec<Vec<u8>> {
    let graphs = texts().into_iter().filter_map(|t| parse(std::str::from_utf8(&t).unwrap(), &NoWeights).ok());
    let exported = graphs.map(|graph| mqc_onnx::export::to_bytes(&mqc_onnx::Model::from_graph(graph)));
    let mut models: Vec<Vec<u8>> = exported.filter_map(Result::ok).collect();
    assert!(models.len() > 20);
    models.push(fs::read(repository("examples/digits/digits.onnx")).unwrap());
    models
}

#[test]
fn onnx_models() {
    fuzz("onnx_models", |folder| {
        let (corpus, path) = (models(), folder.join("input.onnx"));
        Box::new(move |random| {
            fs::write(&path, mutate(random, &corpus)).unwrap();
            let Ok(mut model) = mqc_onnx::import::import(&path) else { return };
            if mqc_ir::verify::verify(&model.graph).is_empty() {
                // Whether the types fit is no matter here.
                let _ = mqc_ir::infer::infer(&mut model.graph);
            }
            let text = print(&model.graph);
            let back = parse(&text, &WeightsOf::new(&model.graph));
            assert!(back.is_ok_and(|back| back == model.graph), "does not parse back:\n{text}");
            let _ = mqc_onnx::export::to_bytes(&model);
        })
    });
}

#[test]
fn compilations() {
    fuzz("compilations", |folder| {
        let (corpus, path, output) = (models(), folder.join("input.onnx"), folder.join("output.mqc"));
        let options = mqc_passes::Options::default();
        let debug = mqc_passes::Debug::default();
        Box::new(move |random| {
            fs::write(&path, mutate(random, &corpus)).unwrap();
            let request = mqc::compile::Request {
                model: &path,
                output: &output,
                force: true,
                options: &options,
                affine: mqc_ir::quant::Affine::PerWidth,
                trained: None,
                activations: mqc_ir::Activations::default(),
                target: None,
                debug: &debug,
            };
            if mqc::compile::compile(&request, &mut |_, _| {}).is_ok() {
                Artifact::open(&output).unwrap().verify_all().unwrap();
            }
        })
    });
}

#[test]
fn texts_of_graphs() {
    fuzz("texts_of_graphs", |folder| {
        let (corpus, path) = (texts(), folder.join("input.mqir"));
        Box::new(move |random| {
            let bytes = mutate(random, &corpus);
            let text = String::from_utf8_lossy(&bytes);
            fs::write(&path, text.as_bytes()).unwrap();
            let Ok(graph) = parse(&text, &NoWeights) else { return };
            let printed = print(&graph);
            let back = parse(&printed, &WeightsOf::new(&graph));
            assert!(back.is_ok_and(|back| back == graph), "does not parse back:\n{printed}");
            let mut graph = graph;
            if mqc_ir::verify::verify(&graph).is_empty() {
                let _ = mqc_ir::infer::infer(&mut graph);
            }
        })
    });
}

/// An artifact in `folder`, and its files.
fn artifact(folder: &Path) -> (PathBuf, Vec<(PathBuf, Vec<u8>)>) {
    let scratch = scratch();
    let model = repository("tests/ir/matquant/shared.mqir");
    succeed(scratch.path(), &format!("ir {} --onnx m.onnx", model.display()));
    succeed(scratch.path(), &format!("compile m.onnx --quiet -o {}/m.mqc", folder.display()));
    let place = folder.join("m.mqc");
    let files = paths(&place).into_iter().filter(|p| !p.ends_with("report.html"));
    let files = files.map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    (place, files)
}

#[test]
fn artifacts() {
    fuzz("artifacts", |folder| {
        let (place, files) = artifact(folder);
        let corpus: Vec<Vec<u8>> = files.iter().map(|(_, bytes)| bytes.clone()).collect();
        Box::new(move |random| {
            let which = random.random_range(0..files.len());
            let (path, original) = &files[which];
            let mut bytes = mutate(random, &corpus[which..=which]);
            if path.ends_with(mqc::artifact::manifest::FILE) && random.random() {
                sign(&mut bytes);
            }
            fs::write(path, &bytes).unwrap();
            if let Ok(artifact) = Artifact::open(&place) {
                let _ = artifact.verify_all();
                let _ = mqc::load::artifact_model(&artifact);
            }
            // Other readers of the same bytes.
            let _ = Manifest::parse(&bytes, path);
            fs::write(path, original).unwrap();
        })
    });
}

/// Makes the manifest's own checksum right again, so that what lies behind it is read.
fn sign(manifest: &mut Vec<u8>) {
    const KEY: &[u8] = b"\"checksum\": \"";
    let Some(at) = manifest.windows(KEY.len()).rposition(|w| w == KEY).map(|at| at + KEY.len()) else {
        return;
    };
    if at + 64 > manifest.len() {
        return;
    }
    let rest = [&manifest[..at], &manifest[at + 64..]].concat();
    let digest: String = Sha256::digest(&rest).iter().map(|b| format!("{b:02x}")).collect();
    manifest.splice(at..at + 64, digest.bytes());
}
