#!/usr/bin/env bash
# The tests of the kernels and of the packing under the address sanitizer, on x86-64 Linux with the toolchain of the project.
set -euo pipefail
cd "$(dirname "$0")/.."

# The option is unstable; the stable toolchain has it under this variable, and ships the sanitizer's runtime.
export RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address" PROPTEST_CASES="${PROPTEST_CASES:-16}"
# Tests leak on purpose.
export ASAN_OPTIONS=detect_leaks=0
# A target directory of its own, so that the flags do not rebuild the others.
exec cargo test --locked -p mqc-kernels --lib --target x86_64-unknown-linux-gnu --target-dir target/sanitize
