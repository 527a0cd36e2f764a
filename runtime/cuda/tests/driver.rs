//! The driver's side against a stand-in for the driver: the reasons why there is no device, planes in device memory, launches.

#![cfg(feature = "cuda")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use mqc_cuda::device::{Device, DeviceError, Operands, OutOfMemory, Program, Weights, Workspace};
use mqc_cuda::{Activation, CudaError, Element, Epilogue, Kernel, Problem, Target, Tokens, emit};
use mqc_ir::quant::{SliceMode, Width};
use mqc_kernels::nested::{self, AffineMap, NestedWeight};
use support::case::{Case, Data, Values};
use support::driver::{image, with_driver};
use support::kernels::kernel;

/// The reason why there is no device: a line.
fn reason() -> String {
    let reason = Device::open(0).unwrap_err().to_string();
    assert!(!reason.is_empty() && !reason.contains('\n'), "{reason}");
    reason
}

#[test]
fn no_driver() {
    let there = ["libcuda.so", "libcuda.so.1"].iter().any(|name| {
        // SAFETY: the driver's initialisers have no conditions.
        #[allow(unsafe_code, reason = "opening a library is unsafe")]
        let library = unsafe { libloading::Library::new(*name) };
        library.is_ok()
    });
    match Device::open(0) {
        Err(DeviceError::NoDriver) => assert!(!there),
        _ => assert!(there),
    }
    assert_eq!(
        DeviceError::NoDriver.to_string(),
        "no CUDA driver: libcuda is not found; install NVIDIA's driver or run on the CPU"
    );
}

#[test]
fn no_device() {
    with_driver("no_device", &[("FAKE_DEVICES", "0")], || {
        assert_eq!(reason(), "the CUDA driver finds no device");
    });
}

#[test]
fn a_driver_that_does_not_start() {
    with_driver("a_driver_that_does_not_start", &[("FAKE_INIT", "803")], || {
        let reason = reason();
        assert!(
            reason.starts_with("the CUDA driver finds no device: ")
                && reason.contains("SYSTEM_DRIVER_MISMATCH"),
            "{reason}"
        );
    });
}

#[test]
fn a_device_beyond_the_last() {
    with_driver("a_device_beyond_the_last", &[("FAKE_DEVICES", "2")], || {
        let error = Device::open(2).unwrap_err();
        assert!(matches!(error, DeviceError::Ordinal { asked: 2, found: 2 }), "{error}");
    });
}

#[test]
fn an_older_architecture() {
    with_driver("an_older_architecture", &[("FAKE_CAPABILITY", "75")], || {
        assert_eq!(
            reason(),
            "stand-in has compute capability 7.5; the CUDA kernels need 8.0 (Ampere) or later"
        );
    });
}

#[test]
fn an_older_driver() {
    with_driver("an_older_driver", &[("FAKE_VERSION", "12040")], || {
        assert_eq!(
            reason(),
            "the CUDA driver is made for CUDA 12.4; kernels need 13.0 or later: update the driver"
        );
    });
}

#[test]
fn later_architectures_run_what_is_not_for_hopper_alone() {
    with_driver(
        "later_architectures_run_what_is_not_for_hopper_alone",
        &[("FAKE_CAPABILITY", "120")],
        || {
            let device = Device::open(0).unwrap();
            assert_eq!((device.target(), device.architecture().as_str()), (Target::Sm80, "sm_120"));
        },
    );
}

fn width(bits: u8) -> Width {
    Width::new(bits).unwrap()
}

/// The weight of a case, as it is on the host.
fn weight(case: &Case) -> NestedWeight {
    let Problem { rows, cols, .. } = case.problem;
    let planes = nested::pack(&case.codes, rows, cols).unwrap().map(Bytes::from).to_vec();
    let map = AffineMap { scale: case.scale.clone().into(), zero: case.zero.clone().into() };
    let Kernel { grouping, mode, .. } = case.kernel;
    NestedWeight::new((rows, cols), grouping, mode, planes, map, BTreeMap::new()).unwrap()
}

fn case(kernel: Kernel, rows: usize, cols: usize, tokens: usize) -> Case {
    let problem = Problem { rows, cols, tokens, multiprocessors: 2, shared_limit: 160 << 10 };
    Case::new(kernel, problem, Data::Random, 7)
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Runs a case by a weight whose planes are loaded and compares with the definition.
fn run(
    device: &Device,
    weights: &Weights,
    case: &Case,
    workspace: &mut Workspace,
) -> Result<(), DeviceError> {
    let emitted = emit(&case.kernel);
    let program = Program::load(device, emitted.clone(), image(&emitted))?;
    let element = case.kernel.element;
    let upload = |values: &[f64]| device.upload("a test's values", &element.bytes_of(values)).unwrap();
    let (x, gate, residual) = (upload(&case.x), upload(&case.gate), upload(&case.residual));
    let bias = device.upload("a test's bias", &bytes_of(&case.bias)).unwrap();
    let epilogue = case.kernel.epilogue;
    let operands = Operands {
        x: &x,
        bias: epilogue.bias.then_some(&bias),
        gate: epilogue.gate.then_some(&gate),
        residual: epilogue.residual.then_some(&residual),
    };
    let mut y = device.zeros("a test's outputs", case.gate.len() * element.bytes())?;
    let weight = weights.get(0).unwrap();
    program.launch(device, weight, &operands, case.problem.tokens, &mut y, workspace)?;
    case.check(&device.download(&y)?).unwrap();
    // Again, recorded: what a launch leaves in the workspace is right for the next.
    let mut y = device.zeros("a test's outputs", case.gate.len() * element.bytes())?;
    let graph = device
        .record(|| program.launch(device, weight, &operands, case.problem.tokens, &mut y, workspace))?;
    assert!(device.download(&y)?.iter().all(|byte| *byte == 0));
    graph.replay()?;
    case.check(&device.download(&y)?).unwrap();
    Ok(())
}

#[test]
fn products_of_growing_and_shrinking_weights() {
    with_driver("products_of_growing_and_shrinking_weights", &[], || {
        let device = Arc::new(Device::open(0).unwrap());
        assert_eq!((device.target(), device.architecture().as_str()), (Target::Sm90a, "sm_90a"));
        let epilogue = Epilogue { bias: true, activation: Activation::Silu, gate: true, residual: true };
        let describe = |bits, tokens| Kernel {
            epilogue,
            target: device.target(),
            ..kernel(bits, SliceMode::Round, 64, Element::Bf16, tokens)
        };
        let whole = case(describe(8, Tokens::Eight), 33, 2500, 1);
        // A product with the same weight.
        let case = |kernel, tokens| Case {
            codes: whole.codes.clone(),
            scale: whole.scale.clone(),
            zero: whole.zero.clone(),
            ..case(kernel, 33, 2500, tokens)
        };
        let mut weights = Weights::new(device.clone());
        weights.add(weight(&whole)).unwrap();
        let mut workspace = Workspace::default();
        let plane = 4 * 128 * 3 * 10;
        for (bits, tokens, held) in [(2, 3, 3), (4, 20, 5), (3, 8, 5)] {
            weights.load(0, width(bits)).unwrap();
            assert_eq!(weights.held(), std::array::from_fn(|p| if p < held { plane } else { 0 }), "{bits}");
            let case = case(describe(bits, Tokens::of(tokens)), tokens);
            run(&device, &weights, &case, &mut workspace).unwrap();
        }
        weights.keep(3).unwrap();
        assert_eq!(weights.get(0).unwrap().held(), 3);
        run(&device, &weights, &case(describe(2, Tokens::Four), 4), &mut workspace).unwrap();
        // Its planes were dropped.
        let four = case(describe(4, Tokens::Four), 4);
        let error = run(&device, &weights, &four, &mut workspace).unwrap_err();
        assert_eq!(error.to_string(), "5 bit planes are read, 3 are there");
        // Operands of other sizes.
        let fewer = Case { x: whole.x[1..].to_vec(), ..case(describe(2, Tokens::Four), 1) };
        let error = run(&device, &weights, &fewer, &mut workspace).unwrap_err();
        assert!(matches!(error, DeviceError::Launch(CudaError::Length { what: "x", .. })), "{error}");
        let other = case(kernel(2, SliceMode::Round, 32, Element::Bf16, Tokens::Four), 4);
        let error = run(&device, &weights, &other, &mut workspace).unwrap_err();
        assert!(matches!(error, DeviceError::Launch(CudaError::Description { .. })), "{error}");
    });
}

#[test]
fn no_room() {
    // Planes of 1 x 2 tiles: 1 KiB each, 10 KiB in all.
    with_driver("no_room", &[("FAKE_MEMORY", "10240")], || {
        let device = Arc::new(Device::open(0).unwrap());
        let mut weights = Weights::new(device);
        let case = case(kernel(8, SliceMode::Midpoint, 0, Element::F16, Tokens::Four), 16, 512, 1);
        for _ in 0..2 {
            weights.add(weight(&case)).unwrap();
        }
        weights.load(0, width(8)).unwrap();
        let error = weights.load(1, width(2)).unwrap_err();
        let DeviceError::Memory(OutOfMemory { needed: 2048, free: 1792, read: 2, held, .. }) = &error else {
            panic!("{error}")
        };
        assert_eq!(*held, [1024; 8]);
        assert!(error.to_string().contains("dropping bit plane 7 of all weights"), "{error}");
        weights.keep(7).unwrap();
        weights.load(1, width(2)).unwrap();
        assert_eq!(weights.held(), [2048, 2048, 1024, 1024, 1024, 1024, 1024, 0]);
    });
}

#[test]
fn a_device_that_is_lost() {
    with_driver("a_device_that_is_lost", &[("FAKE_SYNCHRONIZE", "719")], || {
        let device = Device::open(0).unwrap();
        let error = device.finish().unwrap_err().to_string();
        assert!(error.starts_with("the CUDA driver fails to finish: ") && !error.contains('\n'), "{error}");
    });
}
