"""Runs mqc on models and checks every export against it: `real_models.py MQC WORK MODEL.onnx... [--widths 8,4,2]`.

For each model: compile (time, peak memory: all and anonymous), run at each width, and for each export format that has the width the
relative error of onnxruntime on the export against `mqc run`, by compare_export.py. Inputs are random: token ids below 1000, masks of 1,
other floats of normal distribution, unknown sizes 1 for a batch and 16 otherwise; `sr` is 16000 and its `input` 576 samples.
Prints one JSON line per result.
"""
import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx

HERE = Path(__file__).parent
FORMATS = {
    "functions": range(1, 9),
    "float": range(1, 9),
    "qdq": (8, 4, 2),
    "matmulnbits": (8, 4, 2),
}


def inputs(path):
    model = onnx.load(path, load_external_data=False)
    weights = {t.name for t in model.graph.initializer}
    rng = np.random.default_rng(0)
    found = {}
    for value in model.graph.input:
        if value.name in weights:
            continue
        tensor = value.type.tensor_type
        speech = value.name == "input"
        dims = [d.dim_value or (1 if i == 0 or "batch" in d.dim_param or value.name == "state" else 576 if speech else 16)
                for i, d in enumerate(tensor.shape.dim)]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if value.name == "sr":
            found[value.name] = np.array(16000, dtype)
        elif "mask" in value.name:
            found[value.name] = np.ones(dims, dtype)
        elif "type" in value.name:
            found[value.name] = np.zeros(dims, dtype)
        elif np.issubdtype(dtype, np.integer):
            found[value.name] = rng.integers(0, 200, dims).astype(dtype)
        else:
            found[value.name] = rng.standard_normal(dims).astype(dtype)
    return found


def measured(command):
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    anonymous = everything = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
            anonymous = max(anonymous, int(status.split("RssAnon:")[1].split()[0]))
            everything = max(everything, int(status.split("VmHWM:")[1].split()[0]))
        except (OSError, IndexError):
            pass
        time.sleep(0.005)
    if process.returncode:
        sys.exit(f"{command} failed")
    return {"seconds": round(time.monotonic() - start, 2), "anonymous_mb": anonymous // 1024, "resident_mb": everything // 1024}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mqc")
    parser.add_argument("work", type=Path)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--widths", default="8,6,4,3,2")
    parser.add_argument("--options", default="", help="options for compile")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    widths = [int(w) for w in args.widths.split(",")]
    failed = False
    for model in args.models:
        name, given = model.stem, args.work / f"{model.stem}.npz"
        artifact = args.work / f"{name}.mqc"
        np.savez(given, **inputs(model))
        row = measured([args.mqc, "-q", "compile", model, "-o", artifact, "--force", *args.options.split()])
        row |= {"model": name, "float_mb": model.stat().st_size / 1e6, "artifact_mb": sum(f.stat().st_size for f in artifact.iterdir()) / 1e6}
        print(json.dumps(row), flush=True)

        def check(label, width, exported, exact):
            nonlocal failed
            command = [sys.executable, HERE / "compare_export.py", exported, given, args.work / f"{name}.{width}.npz", "--rtol", "1e-3"]
            done = subprocess.run([*map(str, command), *(["--qdq-exact"] if exact else [])], capture_output=True, text=True)
            try:
                result = json.loads(done.stdout.splitlines()[-1])
                worst = {n: o["relative"] for n, o in result["outputs"].items()}
                ok = result["ok"]
            except (IndexError, KeyError, ValueError):
                worst, ok = (done.stderr.strip().splitlines() or ["no output"])[-1], False
            failed |= not ok
            print(json.dumps({"model": name, "format": label, "bits": width, "ok": ok, "relative": worst}), flush=True)

        for width in widths:
            subprocess.run([args.mqc, "-q", "run", artifact, "--bits", str(width), "--input", given, "--output",
                            args.work / f"{name}.{width}.npz"], check=True, stdout=subprocess.DEVNULL)
            for label, has in FORMATS.items():
                if width in has:
                    exported = args.work / f"{name}.{label}.onnx"
                    extra = ["--activations", "f32"] if label == "matmulnbits" else []
                    subprocess.run([args.mqc, "-q", "export", artifact, "--bits", str(width), "--format", label, "-o", exported, "--force", *extra], check=True)
                    check(label, width, exported, label == "qdq")
        shared = args.work / f"{name}.shared.onnx"
        subprocess.run([args.mqc, "-q", "export", artifact, "--bits", "8,4,2", "--format", "matmulnbits", "--shared", "--activations", "f32", "-o", shared, "--force"], check=True)
        for width in {8, 4, 2} & set(widths):
            check("shared", width, shared.with_suffix(f".int{width}.onnx"), False)
    sys.exit(failed)


if __name__ == "__main__":
    main()
