//! NVIDIA's compiler as the device's side calls it, and the cache of what it made.

#![cfg(feature = "cuda")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use mqc_cuda::device::{Cache, Compiler, DeviceError};
use mqc_cuda::{Element, Tokens, emit};
use mqc_cuda_standin::build;
use mqc_ir::quant::SliceMode;
use support::kernels::kernel;

/// Files of a folder with an ending.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let found = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    found.filter(|path| path.extension().is_some_and(|extension| extension == ending)).collect()
}

#[test]
fn kernels_are_compiled_once() {
    let compiler = Compiler::load(&support::nvrtc::library()).unwrap();
    assert_eq!(compiler.version(), (13, 0));
    let emitted = emit(&kernel(2, SliceMode::Midpoint, 0, Element::F16, Tokens::Four));
    let image = compiler.compile(&emitted.text, "sm_90a").unwrap();
    assert!(image.cubin.starts_with(b"\x7fELF"));
    let ptx = String::from_utf8(image.ptx).unwrap();
    assert!(ptx.contains(".target sm_90a") && ptx.contains(&format!(".entry {}", emitted.name)), "{ptx}");

    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(&folder.path().join("made when it is needed"));
    let get = |architecture| cache.cubin(&compiler, &emitted.name, &emitted.text, architecture).unwrap();
    assert_eq!(get("sm_90a"), image.cubin);
    let kept = files(&folder.path().join("made when it is needed"), "cubin");
    assert_eq!(kept.len(), 1);
    // What is there is used: nothing is compiled or written.
    let before = fs::metadata(&kept[0]).unwrap().modified().unwrap();
    assert_eq!(get("sm_90a"), image.cubin);
    assert_eq!(fs::metadata(&kept[0]).unwrap().modified().unwrap(), before);
    // A damaged file is not.
    let mut damaged = fs::read(&kept[0]).unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    fs::write(&kept[0], damaged).unwrap();
    assert_eq!(get("sm_90a"), image.cubin);
    fs::write(&kept[0], b"short").unwrap();
    assert_eq!(get("sm_90a"), image.cubin);
    // Another architecture is another file.
    assert_ne!(get("sm_80"), image.cubin);
    assert_eq!(files(&folder.path().join("made when it is needed"), "cubin").len(), 2);
}

#[test]
fn a_text_that_does_not_compile_is_kept_and_the_log_shown() {
    let compiler = Compiler::load(&support::nvrtc::library()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path());
    let wrong = "extern \"C\" __global__ void wrong() { int i = nothing_of_that_name; }\n";
    let error = cache.cubin(&compiler, "wrong", wrong, "sm_80").unwrap_err();
    let DeviceError::Compile { name, architecture, text, log } = &error else { panic!("{error}") };
    assert_eq!((name.as_str(), architecture.as_str()), ("wrong", "sm_80"));
    assert_eq!(fs::read_to_string(text).unwrap(), wrong);
    assert!(log.contains("nothing_of_that_name") && error.to_string().contains(log), "{error}");
    // An architecture that the compiler does not know.
    let error = cache.cubin(&compiler, "wrong", wrong, "sm_10").unwrap_err();
    assert!(error.to_string().contains("NVRTC_ERROR_INVALID_OPTION"), "{error}");
    assert!(files(folder.path(), "cubin").is_empty());
}

#[test]
fn a_cache_that_cannot_be_written_says_so() {
    let compiler = Compiler::load(&support::nvrtc::library()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a file");
    fs::write(&file, "").unwrap();
    let text = "extern \"C\" __global__ void nothing() {}\n";
    let error = Cache::new(&file).cubin(&compiler, "nothing", text, "sm_80").unwrap_err();
    assert!(error.to_string().contains("a file"), "{error}");
}

#[test]
fn a_compiler_that_is_missing_or_of_another_version() {
    let folder = tempfile::tempdir().unwrap();
    let missing = Compiler::load(&folder.path().join("libnvrtc.so.13")).unwrap_err().to_string();
    assert!(missing.starts_with("NVRTC is not found (") && !missing.contains('\n'), "{missing}");
    assert!(missing.contains("MQC_NVRTC"), "{missing}");

    let library = |name: &str, text: &str| {
        let (source, library) = (folder.path().join(format!("{name}.cpp")), folder.path().join(name));
        fs::write(&source, text).unwrap();
        build(&source, &library, &["-shared", "-fPIC"]);
        Compiler::load(&library).unwrap_err()
    };
    let older = library(
        "older",
        "extern \"C\" int nvrtcVersion(int* major, int* minor) { *major = 12, *minor = 4; return 0; }\n",
    );
    assert!(matches!(older, DeviceError::CompilerVersion { major: 12, minor: 4, .. }), "{older}");
    assert!(older.to_string().contains("is NVRTC 12.4; expected version 13"), "{older}");
    let other = library("other", "extern \"C\" int something() { return 0; }\n");
    assert!(matches!(other, DeviceError::NoCompiler { .. }), "{other}");
}

#[test]
fn kernels_of_an_artifact_are_taken_where_they_fit() {
    let compiler = Compiler::load(&support::nvrtc::library()).unwrap();
    let emitted = emit(&kernel(3, SliceMode::Midpoint, 0, Element::F16, Tokens::Four));
    let image = compiler.compile(&emitted.text, "sm_90a").unwrap();
    let [own, given] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let place = |ending: &str| given.path().join(format!("{}.{ending}", emitted.name));
    fs::write(place("cu"), &emitted.text).unwrap();
    fs::write(place("ptx"), &image.ptx).unwrap();
    // Anything: it is not looked into.
    fs::write(place("cubin"), "given").unwrap();
    let cache = Cache::new(own.path()).before(given.path());
    let cubin = |text: &str, architecture| cache.cubin(&compiler, &emitted.name, text, architecture).unwrap();
    assert_eq!(cubin(&emitted.text, "sm_90a"), b"given");
    assert!(cubin(&emitted.text, "sm_80").starts_with(b"\x7fELF"));
    let other = format!("{}\n", emitted.text);
    assert!(cubin(&other, "sm_90a").starts_with(b"\x7fELF"));
    assert_eq!(files(given.path(), "cubin").len(), 1);
}
