#!/usr/bin/env bash
# Checks and measures mqc on a machine with a CUDA device and writes a report; see "On a GPU" in docs/cuda.md.
#
#     tests/gpu.sh                                          # everything
#     PARTS="verify train" BINARIES=target/release tests/gpu.sh
#
# Variables, none of which is needed; paths are relative to the repository:
#     PARTS        check bench sanitize verify generate profile train peers: which of these
#     BINARIES     folder with mqc, examples/device and examples/decoder; they are built if it is not given
#     REPORT       the file to write
#     MINILM       all_minilm_l6_v2.onnx
#     SMOLLM2      smollm2_135m.onnx, without past keys and values
#     SMOLLM2_KV   smollm2_135m_kv.onnx, with them; tokenizer.json lies beside it
#     TOKENS, STEPS, ROUNDS   new tokens, steps of training, rounds of `mqc bench`
#     PYTHON, PEERS           the interpreter with the peers' packages, options of benches/gpu_peers.py
set -euo pipefail
cd "$(dirname "$0")/.."

all="check bench sanitize verify generate profile train peers"
parts=${PARTS:-$all}
report=${REPORT:-target/gpu-$(date -u +%Y%m%d-%H%M%S).txt}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

stop() { printf 'gpu.sh: %s\n' "$*" >&2; exit 2; }
say() { printf '%s\n' "$*"; }

for part in $parts; do
    [[ " $all " == *" $part "* ]] || stop "no part is called $part; there are $all"
done
if [ -z "${BINARIES:-}" ]; then
    cargo build --release --workspace --locked --bins --examples
    BINARIES=${CARGO_TARGET_DIR:-target}/release
fi
mqc=$BINARIES/mqc device=$BINARIES/examples/device decoder=$BINARIES/examples/decoder
for program in "$mqc" "$device" "$decoder"; do
    [ -x "$program" ] || stop "$program is missing; without BINARIES it is built"
done
# Without a command the example says what it found, or why there is nothing to run on.
name=$("$device" 2>"$work/reason") || true
[ -n "$name" ] || stop "nothing was checked: $(<"$work/reason")"

mkdir -p "$(dirname "$report")"

# What a part needs and does not have is no failure.
skip() { say "not done: $*"; exit 77; }
# A comparison that fails, after which the part goes on.
fail() { say "FAILED: $*"; touch "$work/failed"; }

# Compiles a float model once: name, model, options.
artifact() {
    [ -e "$work/$1.mqc" ] || "$mqc" compile "$2" --bits 8,4,2 -o "$work/$1.mqc" -q "${@:3}"
}

# Calls a function with name, float model and sizes of each model that is there.
each_model() {
    "$1" digits examples/digits/digits.onnx --size batch=8
    if [ -n "${MINILM:-}" ]; then
        "$1" minilm "$MINILM" --size batch=1 --size seq=32
    else
        say "MiniLM: not done, MINILM is not given"
    fi
    if [ -n "${SMOLLM2:-}" ]; then
        "$1" smollm2 "$SMOLLM2" --size batch=1 --size seq=16
    else
        say "SmolLM2: not done, SMOLLM2 is not given"
    fi
}

# Two lists of numbers in column `column` of files whose lines have the same keys before it. The first may differ by `first`,
# the others by `most`, relative to the second file if `relative`. NaN is a difference.
compare() {
    awk -v "column=$1" -v "first=$2" -v "most=$3" -v "relative=$4" '
        function key(  i, k) { for (i = 1; i < column; i++) k = k $i " "; return k }
        FNR == NR { device[key()] = $column; there++; next }
        {
            found = device[key()]
            difference = found - $column
            if (difference < 0) difference = -difference
            if (relative) difference /= ($column < 0 ? -$column : $column)
            number = found ~ /^-?[0-9.]+(e-?[0-9]+)?$/ && $column ~ /^-?[0-9.]+(e-?[0-9]+)?$/
            good = number && difference <= (count++ ? most : first)
            printf "%s device %s, processors %s, difference %.2g%s\n", key(), found, $column, difference, good ? "" : " TOO MUCH"
            bad += !good
        }
        END { exit bad > 0 || count != there || count == 0 }
    ' "$5" "$6"
}

# Every kernel against the definition.
part_check() { "$device" check; }

# Products: times, share of a copy's bandwidth.
part_bench() { "$device" bench | tee "$work/ours.tsv"; }

part_sanitize() {
    command -v compute-sanitizer >/dev/null || skip "compute-sanitizer is not on the PATH"
    local guard=(compute-sanitizer --tool memcheck --error-exitcode 9)
    artifact digits examples/digits/digits.onnx
    "${guard[@]}" "$mqc" run "$work/digits.mqc" --bits 8 --bits 4 --bits 2 --size batch=3 --device cuda -q
    "${guard[@]}" "$device" check
}

# Whole models: the cosines to the float model are those of the processors.
part_verify() { each_model verify; }
verify() {
    artifact "$1" "$2"
    local place options=(--model "$2" --min-cosine=-1 --activations f32 -q "${@:3}")
    for place in cuda cpu; do
        if ! "$mqc" verify "$work/$1.mqc" "${options[@]}" --device $place >"$work/verify.$place"; then
            fail "$1: mqc verify --device $place"
            return
        fi
        awk '/^bits/ { rows = 1; next } rows { print $1, $2, $5 }' "$work/verify.$place" >"$work/cosines.$place"
    done
    cat "$work/verify.cuda"
    compare 3 5e-5 5e-5 0 "$work/cosines.cuda" "$work/cosines.cpu" || fail "$1: other cosines than on the processors"
}

# Greedy tokens, with widths that change on the way.
part_generate() {
    local vocabulary
    "$decoder" --layers 2 --width 64 --heads 2 --vocabulary 64 --context 64 -o "$work/decoder.onnx"
    vocabulary=$(for i in {0..63}; do printf '"t%d":%d,' "$i" "$i"; done)
    printf '{"version":"1.0","added_tokens":[],"pre_tokenizer":{"type":"WhitespaceSplit"},"model":{"type":"WordLevel",%s}}' \
        "\"unk_token\":\"t0\",\"vocab\":{${vocabulary%,}}" >"$work/tokenizer.json"
    generate untrained "$work/decoder.onnx" "$work/tokenizer.json" "t1 t7 t49 t23"
    if [ -n "${SMOLLM2_KV:-}" ]; then
        generate smollm2-kv "$SMOLLM2_KV" "$(dirname "$SMOLLM2_KV")/tokenizer.json" "The capital of France is" --embeddings
    else
        say "SmolLM2: not done, SMOLLM2_KV is not given"
    fi
}
generate() {
    artifact "$1" "$2" "${@:5}"
    local place count=${TOKENS:-32}
    local options=(--tokenizer "$3" --prompt "$4" -n "$count" --eos none --activations f32 --json -q)
    options+=(--bits 4 --switch $((count / 3)):8 --switch $((2 * count / 3)):2)
    for place in cuda cpu; do
        if ! "$mqc" generate "$work/$1.mqc" "${options[@]}" --device $place >"$work/generated.$place"; then
            fail "$1: mqc generate --device $place"
            return
        fi
        tr -d ' \n' <"$work/generated.$place" | grep -o '"tokens":\[[0-9,]*\]' >"$work/tokens.$place" || true
        say "$1, $place: $(<"$work/tokens.$place") $(grep -E '"(memory|decode_tokens_per_second)"' "$work/generated.$place" | tr -d '\n')"
    done
    [ -s "$work/tokens.cuda" ] && cmp -s "$work/tokens.cuda" "$work/tokens.cpu" || fail "$1: other tokens than on the processors"
}

# Whole models: times, kernels of a run, memory.
part_profile() { each_model profile; }
profile() {
    artifact "$1" "$2"
    "$mqc" bench "$work/$1.mqc" --bits 8,4,2 --rounds "${ROUNDS:-10}" --device cuda -q "${@:3}" || fail "$1: mqc bench --device cuda"
    say "without cuBLAS:"
    MQC_CUBLAS=off "$mqc" bench "$work/$1.mqc" --bits 4 --rounds "${ROUNDS:-10}" --device cuda -q "${@:3}" || fail "$1: mqc bench"
}

# Losses of a few steps, in float and in two stages. Codes are rounded: what differs in the last place before differs by a step of
# the code after.
part_train() {
    "$decoder" --layers 1 --width 32 --heads 2 --vocabulary 256 --context 32 -o "$work/bytes.onnx"
    train float 1e-3 onnx --method float
    MQC_CUBLAS=off train own 1e-3 onnx --method float
    train nested 2e-2 mqc --bits 8,4,2 --stages "2;8,4"
}
train() {
    local place options=(--loss ce --text README.md --tokenizer bytes --sequence 16 --batch 4 --steps "${STEPS:-8}" --lr 0.001)
    options+=(--warmup 2 -q "${@:4}")
    for place in cuda cpu; do
        local run=$work/run.$1.$place
        if ! "$mqc" train "$work/bytes.onnx" "${options[@]}" --device $place -o "$work/$1.$place.$3" --run "$run"; then
            fail "$1: mqc train --device $place"
            return
        fi
        find "$run" -name metrics.jsonl | sort | while read -r file; do
            sed -n "s|.*\"kind\":\"train\",\"step\":\([0-9]*\).*\"loss\":\([^,}]*\).*|$(basename "$(dirname "${file/$run/$1}")") \1 \2|p" "$file"
        done >"$work/losses.$place"
    done
    compare 3 1e-5 "$2" 1 "$work/losses.cuda" "$work/losses.cpu" || fail "$1: other losses than on the processors"
}

# Other libraries on the same device, beside what the part bench printed.
part_peers() {
    local beside=()
    [ ! -s "$work/ours.tsv" ] || beside=(--ours "$work/ours.tsv")
    # shellcheck disable=SC2086 # options are words
    "${PYTHON:-python3}" benches/gpu_peers.py "${beside[@]}" ${PEERS:-} | tee "$work/peers"
    ! grep -q '^# nothing is measured' "$work/peers" || skip "no peer is there"
}

driver() {
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader 2>/dev/null \
        || head -n 1 /proc/driver/nvidia/version 2>/dev/null || say unknown
}
{
    say "date: $(date -u '+%Y-%m-%d %H:%M UTC')"
    say "device: $name"
    say "driver: $(driver)"
    say "processors: $(nproc) x $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)"
    say "commit: $(git describe --always --dirty 2>/dev/null || say unknown)"
    say "parts: $parts"
} | tee "$report"

failed=0
for part in $parts; do
    printf '\n== %s\n' "$part" | tee -a "$report"
    start=$SECONDS
    rm -f "$work/failed"
    set +e
    (set -e; "part_$part") 2>&1 | tee -a "$report"
    code=${PIPESTATUS[0]}
    set -e
    result=ok
    if [ "$code" = 77 ]; then
        result="not done"
    elif [ "$code" != 0 ] || [ -e "$work/failed" ]; then
        result=FAILED failed=1
    fi
    say "$part: $result, $((SECONDS - start)) s" | tee -a "$work/summary"
done
printf '\n== summary\n' | tee -a "$report"
tee -a "$report" <"$work/summary"
say "the report is $report"
exit $failed
