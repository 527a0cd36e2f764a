//! Stand-ins for the driver and the compiler.

use std::path::Path;

use mqc_cuda::Emitted;
use mqc_cuda::device::Compiler;

/// Runs `body` in a process of its own that finds the stand-ins, with these settings. `test` is the path of the test function
/// that calls, which that process runs again.
pub fn with_driver(test: &str, settings: &[(&str, &str)], body: impl FnOnce()) {
    mqc_cuda_standin::with_device(Path::new(env!("CARGO_TARGET_TMPDIR")), test, settings, body);
}

/// What the stand-in loads as a kernel.
pub fn image(emitted: &Emitted) -> Vec<u8> {
    Compiler::find().unwrap().compile(&emitted.text, "sm_90a").unwrap().cubin
}
