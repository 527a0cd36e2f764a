#!/usr/bin/env bash
# The tests of the kernels on aarch64, emulated: needs `rustup target add aarch64-unknown-linux-gnu`, qemu-user and gcc-aarch64-linux-gnu.
set -euo pipefail
cd "$(dirname "$0")/.."

target=aarch64-unknown-linux-gnu
missing() { printf 'aarch64.sh: %s is missing; nothing was tested\n' "$1" >&2; exit 1; }

compgen -G "$(rustc --print target-libdir --target $target)/libstd-*.rlib" >/dev/null || missing "the Rust target $target"
command -v qemu-aarch64 >/dev/null || missing qemu-aarch64
command -v aarch64-linux-gnu-gcc >/dev/null || missing aarch64-linux-gnu-gcc

export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export PROPTEST_CASES="${PROPTEST_CASES:-16}"
# With the dot product instructions, and on a processor from before them.
for cpu in max cortex-a72; do
    printf '\n== %s\n' "$cpu"
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -cpu $cpu -L /usr/aarch64-linux-gnu"
    cargo test --locked -p mqc-kernels --lib --target "$target" "$@"
done
