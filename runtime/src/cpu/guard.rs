//! tract asserts where we want errors: a panic of it is caught and becomes one.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use tract_onnx::tract_hir::internal::TractResult;

use super::CpuError;

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs a piece of tract: an error or a panic of it becomes an error of ours, and nothing is printed.
pub(super) fn guarded<T>(step: &'static str, work: impl FnOnce() -> TractResult<T>) -> Result<T, CpuError> {
    silence_guarded_panics();
    let outer = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(outer);
    let reason = match result {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => format!("{error:#}"),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            format!("internal failure of tract: {text}")
        }
    };
    Err(CpuError::Tract { step, reason })
}

/// Panics outside of `guarded`, and in threads that it does not know, are reported as before.
fn silence_guarded_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                report(info);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_its_message() {
        let error = guarded::<()>("run", || panic!("rank {}", 5)).unwrap_err();
        assert_eq!(error.to_string(), "tract could not run the graph: internal failure of tract: rank 5");
        assert!(!GUARDED.get());
    }
}
