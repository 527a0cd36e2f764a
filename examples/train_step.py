"""Steps the training graph that `mqc train --graphs DIR` writes, with onnxruntime alone.

    mqc train model.onnx -o unused.mqc --loss ce --batch 16 --graphs graphs
    python train_step.py graphs data.npz --labels label --steps 100 --lr 1e-3

All samples of the data are one batch here, as many as the graphs were made for. Prints the loss of every step.
"""

import argparse
import json
import pathlib
import struct

import numpy as np
import onnxruntime


def read_safetensors(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            start, end = (8 + length + offset for offset in entry["data_offsets"])
            tensors[name] = np.frombuffer(data[start:end], np.float32).reshape(entry["shape"])
    return tensors


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("graphs", type=pathlib.Path)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--labels", default="labels")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--lr", type=float, default=1e-3)
    arguments = parser.parse_args()

    ports = json.loads((arguments.graphs / "training.json").read_text())["train"]
    state = read_safetensors(arguments.graphs / "state.safetensors")
    session = onnxruntime.InferenceSession(arguments.graphs / "train.onnx")
    arrays = np.load(arguments.data)
    kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32}
    types = {i.name: kinds[i.type] for i in session.get_inputs()}
    batch = {}
    for name in ports["feeds"]:
        if name not in ("lr", "step"):
            batch[name] = arrays[arguments.labels if name == "labels" else name].astype(types[name])
    names = [output.name for output in session.get_outputs()]
    for step in range(1, arguments.steps + 1):
        feeds = {port["input"]: state[name] for name, port in ports["state"].items()}
        feeds |= batch | {"lr": np.array(arguments.lr, np.float32), "step": np.array(step, np.int64)}
        results = dict(zip(names, session.run(names, feeds)))
        for name, port in ports["state"].items():
            if port["output"]:
                state[name] = results[port["output"]]
        print(float(results["loss"]))


if __name__ == "__main__":
    main()
