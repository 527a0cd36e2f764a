#!/usr/bin/env python3
"""Quantizes one language model in several ways and prints perplexities per width: experiment B of docs/results.md.

    python3 experiments/language_model.py smollm2_135m.onnx --tokenizer tokenizer.json --text web_bible.train.txt \\
        --validation-text web_bible.valid.txt --out runs

What is done is kept in `--out`; calling it again does what is missing. Only the standard library is needed.
"""
import argparse
import json
import pathlib
import subprocess
import sys

GROUPS = "--group-size 64"
OMNIQUANT = f"train --method omniquant {GROUPS}"
SCALES = f"train --method scales {GROUPS}"
# Name -> options; those of `train` get the data.
METHODS = {
    "round to nearest": "compile",
    "round to nearest, groups of 64": f"compile {GROUPS}",
    "the same, slices of the paper": f"compile {GROUPS} --slice round",
    "groups of 64, mse": f"compile {GROUPS} --range mse",
    "groups of 64, mse, per-width maps": f"compile {GROUPS} --range mse --affine per-width",
    "groups of 64, OmniQuant": OMNIQUANT,
    "groups of 64, scales": SCALES,
}
SCOPES = {"all linear layers": "", "feed-forward only": "--include *ffn*"}
WIDTHS = "8,6,4,3,2"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--text", required=True, help="to calibrate and train on")
    parser.add_argument("--validation-text", required=True)
    parser.add_argument("--tasks", help="jsonl files, separated by commas")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--mqc", default="target/release/mqc")
    parser.add_argument("--windows", default="16", help="of 512 tokens, of which 256 are scored")
    parser.add_argument("--questions", default="100", help="of each task")
    parser.add_argument("--sequence", default="128")
    parser.add_argument("--samples", default="64", help="sequences that OmniQuant sees")
    parser.add_argument("--omniquant-steps", default="40", help="of each block")
    parser.add_argument("--scales-steps", default="40")
    parser.add_argument("--threads", default="1")
    parser.add_argument("--only", action="append", help="only the method of this name (repeatable)")
    parser.add_argument("--scope", action="append", help="only this scope (repeatable)")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    cases = [(s, m) for s in args.scope or SCOPES for m in args.only or METHODS]
    for scope, method in [] if args.table else cases:
        run(args, scope, method)
    print(table(args, cases))


def plain(name):
    return "".join(c if c.isalnum() else "-" for c in name)


def call(command):
    print(" ".join(map(str, command)), file=sys.stderr, flush=True)
    subprocess.run(list(map(str, command)), check=True)


def run(args, scope, method):
    artifact = args.out / f"{plain(scope)}-{plain(method)}.mqc"
    options = f"{METHODS[method]} {SCOPES[scope]}".split()
    if not artifact.exists():
        command = [args.mqc, options[0], args.model, "--output", artifact, "--bits", "8,4,2", "--quiet", *options[1:]]
        if options[0] == "train":
            command += ["--text", args.text, "--tokenizer", args.tokenizer, "--sequence", args.sequence, "--threads", args.threads]
            command += ["--run", artifact.with_suffix(".run"), "--resume"]
        if "omniquant" in options:
            command += ["--samples", args.samples, "--batch", "8", "--steps", args.omniquant_steps, "--lr", "0.005"]
        if "scales" in options:
            command += ["--batch", "4", "--steps", args.scales_steps, "--lr", "0.0003", "--save-every", "1000"]
        call(command)
    shared = [args.mqc, "eval", artifact, "--bits", WIDTHS, "--tokenizer", args.tokenizer, "--threads", args.threads, "--quiet"]
    texts = artifact.with_suffix(".text.json")
    if not texts.exists():
        call(shared + ["--model", args.model, "--text", args.validation_text, "--limit", args.windows, "--json", texts])
    tasks = artifact.with_suffix(".tasks.json")
    if args.tasks and not tasks.exists():
        call(shared + ["--tasks", args.tasks, "--limit", args.questions, "--json", tasks])


def table(args, cases):
    lines = []
    for scope, method in cases:
        place = args.out / f"{plain(scope)}-{plain(method)}.text.json"
        if not place.exists():
            continue
        rows = json.loads(place.read_text())["texts"][0]["results"]
        if not lines:
            names = [row["bits"] for row in rows]
            lines = [f"| layers | method | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
        lines.append(f"| {scope} | {method} | " + " | ".join(f"{row['perplexity']:.4g}" for row in rows) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
