#!/usr/bin/env python3
"""Trains one decoder in many ways at equal budget and prints a table: experiment A of docs/results.md.

    cargo build --release --workspace --examples --bins
    target/release/examples/decoder --layers 3 --width 256 --context 64 -o decoder.onnx
    target/release/mqc train decoder.onnx -o float.onnx --method float --loss ce --tokenizer bytes --sequence 64 \\
        --text train.txt --validation-text valid.txt --batch 16 --steps 1500 --lr 0.002 --warmup 100
    python3 experiments/decoder.py float.onnx --text train.txt --validation-text valid.txt --out runs

A configuration costs PASSES forward and backward passes for each of its widths. What is done is kept in `--out`; calling
it again does what is missing. Only the standard library is needed.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys

PAPER = "--schedule joint --ends minmax --affine shared"
JOINT = "--schedule joint"
TWO_STAGES = "--stages 2;8,4"
WIDTHS = (8, 6, 4, 3, 2)
# Name -> (options, steps of each stage as shares of the budget of one width).
CONFIGURATIONS = {
    "float, trained on": ("--method float", [1]),
    "not trained, round": (f"{PAPER} --slice round --lr 1e-20", [0]),
    "not trained, midpoint": (f"{PAPER} --lr 1e-20", [0]),
    **{f"alone int{r}, plain QAT": (f"--train-bits {r} --schedule joint --ends levels --affine shared", [1]) for r in (8, 4, 2)},
    **{f"alone int{r}, our ingredients": (f"--train-bits {r} --schedule joint", [1]) for r in (8, 4, 2)},
    "MatQuant, round": (f"{PAPER} --slice round", [1]),
    "MatQuant, midpoint": (PAPER, [1]),
    "MatQuant, extra": (f"{PAPER} --slice extra", [1]),
    "joint": (JOINT, [1]),
    "joint, codistilled 8:4,8:2": (f"{JOINT} --codistill 8:4,8:2", [1]),
    "joint, lambda .1,.1,1": (f"{JOINT} --lambda 0.1,0.1,1", [1]),
    "joint, shared map": (f"{JOINT} --affine shared", [1]),
    "in turn 2;8,4": (TWO_STAGES, [1, 1]),
    "in turn 2;8,4, thawed": (f"{TWO_STAGES} --thaw", [1, 1]),
    "in turn 2;8,4, codistilled 8:4": (f"{TWO_STAGES} --codistill 8:4", [1, 1]),
    "in turn 2;4;8": ("", [1, 1, 1]),
    "in turn 2;4;8, thawed": ("--thaw", [1, 1, 1]),
    "in turn 2;4;8, shared map": ("--affine shared", [1, 1, 1]),
    "in turn 2;4;8, min-max ranges": ("--ends minmax", [1, 1, 1]),
    "in turn 2;4;8, distilled": ("--loss distill", [1, 1, 1]),
    "in turn 2;4;8, codes at a third": ("--code-rate 333", [1, 1, 1]),
    "in turn 2;4;8, codes at three times": ("--code-rate 3000", [1, 1, 1]),
    "in turn 2;4;8, int2 longer": ("", [1.6, 0.7, 0.7]),
    "in turn 2;4;8, half the budget": ("", [0.5, 0.5, 0.5]),
    "in turn 2;4;8, twice the budget": ("", [2, 2, 2]),
    **{f"alone int{r}, our ingredients, twice the budget": (f"--train-bits {r} --schedule joint", [2]) for r in (8, 4, 2)},
    "alone int8, our ingredients, three times the budget": ("--train-bits 8 --schedule joint", [3]),
    "joint, balanced": (f"{JOINT} --balance norms", [1]),
    "joint, lambda .1,.1,1 to 1,1,1": (f"{JOINT} --lambda 0.1,0.1,1 --lambda-end 1,1,1", [1]),
    "joint, lambda 1,1,1 to .1,.1,1": (f"{JOINT} --lambda-end 0.1,0.1,1", [1]),
    "joint, shifts at 300 times": (f"{JOINT} --shift-rate 300", [1]),
    "joint, scales at three times": (f"{JOINT} --scale-rate 3", [1]),
    "joint, ranges at three times": (f"{JOINT} --range-rate 3", [1]),
    "in turn 2;8,4, balanced": (f"{TWO_STAGES} --balance norms", [1, 1]),
    "in turn 2;4;8, shifts at 300 times": ("--shift-rate 300", [1, 1, 1]),
    "in turn 2;4;8, scales at three times": ("--scale-rate 3", [1, 1, 1]),
    "in turn 2;4;8, ranges at three times": ("--range-rate 3", [1, 1, 1]),
    "in turn 2;4;8, thawed at a tenth": ("--thaw --float-rate 0.1", [1, 1, 1]),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--text", required=True)
    parser.add_argument("--validation-text", required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--mqc", default="target/release/mqc")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--passes", type=int, default=250)
    parser.add_argument("--lr", default="0.0003")
    parser.add_argument("--threads", default="1")
    parser.add_argument("--only", action="append", help="only the configuration of this name (repeatable)")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    names = [n for n in CONFIGURATIONS if args.only is None or n in args.only]
    if not args.table:
        for seed in args.seeds.split(","):
            for name in names:
                run(args, name, int(seed))
    print(table(args, names))
    print("\n" + differences(args, names))


def result(args, name, seed):
    plain = "".join(c if c.isalnum() else "-" for c in name)
    return args.out / f"{plain}-{seed}.json"


def run(args, name, seed):
    place = result(args, name, seed)
    if place.exists():
        return
    options, shares = CONFIGURATIONS[name]
    steps = [max(1, round(args.passes * share)) for share in shares]
    command = [args.mqc, "train", args.model, "--output", str(place.with_suffix(".mqc")), "--force", "--json", "--quiet"]
    command += ["--bits", "8,4,2", "--evaluate-bits", ",".join(map(str, WIDTHS)), "--lr", args.lr, "--seed", str(seed), *data(args)]
    command += ["--steps", ",".join(map(str, steps)), "--evaluate-every", str(max(steps)), "--run", str(place.with_suffix(".run"))]
    if "--lr" in options:
        command[command.index("--lr") : command.index("--lr") + 2] = []
    command += options.split()
    if "--loss" not in command:
        command += ["--loss", "ce"]
    print(" ".join(command), file=sys.stderr, flush=True)
    subprocess.run(["rm", "-rf", str(place.with_suffix(".run"))], check=True)
    summaries = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    if "--loss distill" in options:
        summaries[-1]["validation"] = [cross_entropy(args, place, width) for width in WIDTHS]
    place.write_text(json.dumps(summaries, indent=2))


def cross_entropy(args, place, width):
    """What validation without distillation would say of one width: that of its float export."""
    export, run_folder = place.with_suffix(f".{width}.onnx"), place.with_suffix(f".{width}.run")
    command = [args.mqc, "export", str(place.with_suffix(".mqc")), "--bits", str(width), "--format", "float"]
    subprocess.run([*command, "-o", str(export), "--quiet"], check=True)
    command = [args.mqc, "train", str(export), "--output", str(export), "--force", "--json", "--quiet", "--method", "float"]
    command += ["--loss", "ce", "--steps", "1", "--lr", "1e-20", "--run", str(run_folder), *data(args)]
    summaries = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    subprocess.run(["rm", "-rf", str(run_folder), str(export)], check=True)
    return {**summaries[-1]["validation"][0], "name": f"int{width}"}


def data(args):
    options = ["--text", args.text, "--validation-text", args.validation_text, "--validation-batches", "60"]
    return options + ["--tokenizer", "bytes", "--sequence", "64", "--batch", "8", "--threads", args.threads]


def losses(args, name, seed):
    place = result(args, name, seed)
    if not place.exists():
        return None
    last = json.loads(place.read_text())[-1]
    of = {w["name"]: w["loss_sum"] / w["count"] for w in last["validation"]}
    alone = name.split()[1].rstrip(",") if name.startswith("alone") else None
    return {w: loss for w, loss in of.items() if alone in (None, w)}


def table(args, names):
    widths = ["float", "int8", "int6", "int4", "int3", "int2"]
    lines = ["| configuration | seeds | " + " | ".join(widths) + " |", "|---" * (len(widths) + 2) + "|"]
    for name in names:
        found = [l for seed in args.seeds.split(",") if (l := losses(args, name, seed))]
        if not found:
            continue
        cells = []
        for width in widths:
            values = [l[width] for l in found if width in l]
            spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.4f}{spread}" if values else "")
        lines.append(f"| {name} | {len(found)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def differences(args, names):
    """Per cent above the loss of the models trained alone with our ingredients, seed by seed."""
    lines = ["| configuration | int8 | int4 | int2 |", "|---|---|---|---|"]
    for name in names:
        cells = []
        for width in ("int8", "int4", "int2"):
            pairs = [(losses(args, name, s), losses(args, f"alone {width}, our ingredients", s)) for s in args.seeds.split(",")]
            cells.append(", ".join(f"{100 * (a[width] / b[width] - 1):+.2f}" for a, b in pairs if a and b and width in a))
        if any(cells) and "not trained" not in name:
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
