"""Runs exported models in onnxruntime and compares them with expected outputs.

    compare_export.py --rtol 1e-3 [--qdq-exact] MODEL.onnx INPUT.npz EXPECTED.npz [MODEL INPUT EXPECTED ...]

Both archives hold one array per input or output name. Every model must pass onnx.checker. Prints one JSON line per model
with, for every expected output, the relative error ||found - expected|| / ||expected||, the largest absolute difference,
and whether it is within --rtol; an error that is not finite is null. Exit code 1 if any output is not within it, 2 for
wrong usage or input.

onnxruntime fuses DequantizeLinear and MatMul into a product with 8-bit activations; --qdq-exact keeps float activations.
"""
import argparse
import json
import sys

import numpy as np
import onnx
import onnxruntime


def compare(found, expected, rtol):
    if found.shape != expected.shape:
        return dict(ok=False, reason=f"shape {list(found.shape)}, expected {list(expected.shape)}")
    a, b = found.astype(np.float64), expected.astype(np.float64)
    difference = np.where(a == b, 0, a - b)  # equal infinities differ by nothing
    norm = np.linalg.norm(b)
    relative = 0.0 if not difference.any() else float(np.linalg.norm(difference) / norm) if norm else np.inf
    largest = float(np.abs(difference).max(initial=0))
    finite = [value if np.isfinite(value) else None for value in (relative, largest)]
    return dict(relative=finite[0], max_abs=finite[1], ok=bool(relative <= rtol))


def check(model, input_path, expected_path, arguments):
    """Whether every output is within the tolerance; prints the line. Raises ValueError for names that do not fit."""
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 2
    if arguments.qdq_exact:
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    with np.load(input_path) as inputs, np.load(expected_path) as expected:
        known = {o.name for o in session.get_outputs()}
        wanted = list(expected)
        if missing := [n for n in (i.name for i in session.get_inputs()) if n not in inputs]:
            raise ValueError(f"{input_path} lacks the inputs {missing}")
        if not wanted or any(n not in known for n in wanted):
            raise ValueError(f"{expected_path} names {wanted}, the model's outputs are {sorted(known)}")
        found = session.run(wanted, {i.name: inputs[i.name] for i in session.get_inputs()})
        outputs = {n: compare(f, expected[n], arguments.rtol) for n, f in zip(wanted, found)}
    ok = all(o["ok"] for o in outputs.values())
    print(json.dumps(dict(ok=ok, model=model, rtol=arguments.rtol, outputs=outputs)), flush=True)
    return ok


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("files", nargs="+", metavar="MODEL.onnx INPUT.npz EXPECTED.npz")
    parser.add_argument("--rtol", type=float, default=1e-3)
    parser.add_argument("--qdq-exact", action="store_true")
    arguments = parser.parse_args()
    if len(arguments.files) % 3:
        parser.error("expected three files for each model")
    try:
        every = [check(*arguments.files[i : i + 3], arguments) for i in range(0, len(arguments.files), 3)]
    except ValueError as error:
        parser.error(str(error))
    return 0 if all(every) else 1


if __name__ == "__main__":
    sys.exit(main())
