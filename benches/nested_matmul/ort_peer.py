"""onnxruntime's products beside ours: MatMulNBits in blocks of 128, MatMulInteger, and MatMulNBits with f32 activations.

A case holds as many nodes with weights of their own as fill the bytes asked for; a run is one run of its session, all nodes. What a run costs apart
from its nodes (a session with hardly any work) is taken off.
"""
import math
import statistics

import numpy
import onnx
import onnxruntime
from onnx import TensorProto, helper

import protocol

BLOCK = 128
LUT = "mlas.use_lut_gemm"

# name: (operator, bits, activations, accuracy_level, session entries)
CASES = {
    "nb8": ("MatMulNBits", 8, "int8", 4, {}),
    "nb4": ("MatMulNBits", 4, "int8", 4, {}),
    "nb2": ("MatMulNBits", 2, "int8", 4, {}),
    "nb2 lookup": ("MatMulNBits", 2, "int8", 4, {LUT: "1"}),
    "int8": ("MatMulInteger", 8, "int8", None, {}),
    "nb4 f32": ("MatMulNBits", 4, "f32", 1, {}),
}


class Weights:
    """Random initializers, made from one pool of bytes."""

    def __init__(self):
        self.pool = numpy.random.default_rng(0).integers(0, 256, 1 << 24, dtype=numpy.uint8).tobytes()
        self.made = 0

    def codes(self, name, dtype, dims):
        self.made += 1
        start = self.made * 4099 % (1 << 16)
        size = math.prod(dims)
        raw = (self.pool * ((start + size) // len(self.pool) + 1))[start : start + size]
        return TensorProto(name=name, data_type=dtype, dims=dims, raw_data=raw)

    def scales(self, name, count):
        raw = numpy.full(count, 0.002, numpy.float32).tobytes()
        return TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[count], raw_data=raw)


def weight_bytes(operator, bits, k, n):
    return k * n * bits // 8 + 4 * n * (k // BLOCK if operator == "MatMulNBits" else 1)


def model(operator, bits, level, k, n, copies):
    """A model with input A [M, k] and outputs Y0, Y1, .. [M, n]."""
    weights, nodes, initializers, outputs = Weights(), [], [], []
    if operator == "MatMulInteger":
        nodes.append(helper.make_node("DynamicQuantizeLinear", ["A"], ["q", "q_scale", "q_zero"]))
    for i in range(copies):
        outputs.append(helper.make_tensor_value_info(f"Y{i}", TensorProto.FLOAT, ["M", n]))
        if operator == "MatMulNBits":
            blocks = k // BLOCK
            initializers.append(weights.codes(f"W{i}", TensorProto.UINT8, [n, blocks, BLOCK * bits // 8]))
            initializers.append(weights.scales(f"s{i}", n * blocks))
            attributes = dict(K=k, N=n, bits=bits, block_size=BLOCK, accuracy_level=level)
            inputs = ["A", f"W{i}", f"s{i}"]
            nodes.append(helper.make_node("MatMulNBits", inputs, [f"Y{i}"], domain="com.microsoft", **attributes))
        else:
            initializers.append(weights.codes(f"W{i}", TensorProto.INT8, [k, n]))
            initializers.append(weights.scales(f"s{i}", n))
            nodes.append(helper.make_node("MatMulInteger", ["q", f"W{i}", "q_zero"], [f"i{i}"]))
            nodes.append(helper.make_node("Cast", [f"i{i}"], [f"f{i}"], to=TensorProto.FLOAT))
            nodes.append(helper.make_node("Mul", ["q_scale", f"s{i}"], [f"u{i}"]))
            nodes.append(helper.make_node("Mul", [f"f{i}", f"u{i}"], [f"Y{i}"]))
    a = helper.make_tensor_value_info("A", TensorProto.FLOAT, ["M", k])
    graph = helper.make_graph(nodes, "products", [a], outputs, initializers)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


class Case:
    """A session that is loaded."""

    def __init__(self, model, k, n, threads, entries):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        for key, value in entries.items():
            options.add_session_config_entry(key, value)
        self.session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        self.shape = (k, n)
        self.copies = len(self.session.get_outputs())
        self.stopwatch = protocol.Stopwatch(threads)
        self.bindings = {}

    def run(self, m):
        """Runs once; inputs and outputs stay where they are."""
        if m not in self.bindings:
            k, n = self.shape
            a = numpy.random.default_rng(m).standard_normal((m, k), dtype=numpy.float32)
            y = onnxruntime.OrtValue.ortvalue_from_numpy(numpy.zeros((m, n), numpy.float32))
            binding = self.session.io_binding()
            binding.bind_ortvalue_input("A", onnxruntime.OrtValue.ortvalue_from_numpy(a))
            for output in self.session.get_outputs():
                binding.bind_ortvalue_output(output.name, y)
            self.bindings = {m: binding}
        self.session.run_with_iobinding(self.bindings[m])

    def seconds(self, m):
        return self.stopwatch.seconds_per_run(m, lambda: self.run(m))


class Peer:
    def __init__(self):
        self.cases = {}
        self.overheads = {}

    def overhead(self, threads):
        """Seconds of a run that has next to nothing to multiply."""
        if threads not in self.overheads:
            tiny = Case(model("MatMulNBits", 4, 4, BLOCK, 1, 1), BLOCK, 1, threads, {})
            self.overheads[threads] = statistics.median(tiny.seconds(1) for _ in range(7))
        return self.overheads[threads]

    def load(self, case, k, n, bytes, threads):
        operator, bits, _, level, entries = CASES[case]
        copies = max(1, math.ceil(bytes / weight_bytes(operator, bits, k, n)))
        self.overhead(threads)
        self.cases[case] = (Case(model(operator, bits, level, k, n, copies), k, n, threads, entries), threads)
        return {"copies": copies}

    def turn(self, case, m):
        loaded, threads = self.cases[case]
        seconds = loaded.seconds(m) - self.overhead(threads)
        return {"micros": seconds * 1e6 / loaded.copies}

    def drop(self):
        self.cases.clear()
        return {}


DECLARED = [dict(name=name, kind=c[0], bits=c[1], activations=c[2]) for name, c in CASES.items()]
protocol.serve(f"onnxruntime {onnxruntime.__version__}", DECLARED, Peer())
