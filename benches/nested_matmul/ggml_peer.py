"""ggml's products beside ours: `ggml_mul_mat` of its formats with f32 activations, which it quantizes to int8, with and without its repacking.

    python ggml_peer.py FOLDER      where FOLDER holds libggml-base and libggml-cpu as shared libraries

A graph holds as many products with weights of their own as fill the bytes asked for; with weights in cache, the same product sixteen times.
"""
import ctypes
import math
import pathlib
import sys
from ctypes import POINTER, Structure, byref, c_bool, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_void_p

import numpy

import protocol

F32 = 0
# name: (number of the type in ggml.h, bits, repacked)
CASES = {
    "q8_0": (8, 8, False),
    "q4_0": (2, 4, False),
    "q4_0 repacked": (2, 4, True),
    "q4_K": (12, 4, False),
    "q4_K repacked": (12, 4, True),
    "q2_K": (10, 2, False),
    "q2_K repacked": (10, 2, True),
}
REPEATS = 16  # products in a graph whose weight is in cache
TILE = 64  # rows that are quantized; a weight repeats them


class InitParams(Structure):
    _fields_ = [("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool)]


class ThreadpoolParams(Structure):
    _fields_ = [("cpumask", c_bool * 512), ("n_threads", c_int), ("prio", c_int), ("poll", c_uint32)]
    _fields_ += [("strict_cpu", c_bool), ("paused", c_bool)]


def libraries(folder):
    found = [sorted(pathlib.Path(folder).glob(f"libggml-{part}.*"))[0] for part in ("base", "cpu")]
    return [ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL) for path in found]


BASE, CPU = libraries(sys.argv[1])


def function(library, name, result, *arguments):
    function = getattr(library, name)
    function.restype, function.argtypes = result, arguments
    return function


init = function(BASE, "ggml_init", c_void_p, InitParams)
free = function(BASE, "ggml_free", None, c_void_p)
new_tensor = function(BASE, "ggml_new_tensor_2d", c_void_p, c_void_p, c_int, c_int64, c_int64)
mul_mat = function(BASE, "ggml_mul_mat", c_void_p, c_void_p, c_void_p, c_void_p)
new_graph = function(BASE, "ggml_new_graph", c_void_p, c_void_p)
expand = function(BASE, "ggml_build_forward_expand", None, c_void_p, c_void_p)
row_size = function(BASE, "ggml_row_size", c_size_t, c_int, c_int64)
quantize = function(
    BASE, "ggml_quantize_chunk", c_size_t, c_int, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p
)
version = function(BASE, "ggml_version", c_char_p)
allocate = function(BASE, "ggml_backend_alloc_ctx_tensors_from_buft", c_void_p, c_void_p, c_void_p)
buffer_free = function(BASE, "ggml_backend_buffer_free", None, c_void_p)
set_tensor = function(BASE, "ggml_backend_tensor_set", None, c_void_p, c_void_p, c_size_t, c_size_t)
compute = function(BASE, "ggml_backend_graph_compute", c_int, c_void_p, c_void_p)
supports = function(BASE, "ggml_backend_dev_supports_op", c_bool, c_void_p, c_void_p)
plain_buffers = function(BASE, "ggml_backend_cpu_buffer_type", c_void_p)
device_of = function(BASE, "ggml_backend_reg_dev_get", c_void_p, c_void_p, c_size_t)
address_of = function(BASE, "ggml_backend_reg_get_proc_address", c_void_p, c_void_p, c_char_p)
set_log = function(BASE, "ggml_log_set", None, c_void_p, c_void_p)
init_threads = function(BASE, "ggml_threadpool_params_init", None, POINTER(ThreadpoolParams), c_int)
registry = function(CPU, "ggml_backend_cpu_reg", c_void_p)
new_backend = function(CPU, "ggml_backend_cpu_init", c_void_p)
set_threads = function(CPU, "ggml_backend_cpu_set_n_threads", None, c_void_p, c_int)
set_pool = function(CPU, "ggml_backend_cpu_set_threadpool", None, c_void_p, c_void_p)
new_pool = function(CPU, "ggml_threadpool_new", c_void_p, POINTER(ThreadpoolParams))


SILENT = ctypes.CFUNCTYPE(None, c_int, c_char_p, c_void_p)(lambda level, text, data: None)
set_log(SILENT, None)


def context():
    return init(InitParams(16 << 20, None, True))


def repacking_buffers():
    """The buffer types in which ggml lays weights out anew."""
    device = device_of(registry(), 0)
    extra = address_of(registry(), b"ggml_backend_dev_get_extra_bufts")
    types = ctypes.CFUNCTYPE(POINTER(c_void_p), c_void_p)(extra)(device)
    found = []
    while types[len(found)]:
        found.append(types[len(found)])
    return found


class Weights:
    """Tensors of one type in buffers of one type."""

    def __init__(self, kind, buffers, k, n, copies):
        self.kind, self.k, self.n = kind, k, n
        self.context = context()
        self.tensors = [new_tensor(self.context, kind, k, n) for _ in range(copies)]
        self.buffer = allocate(self.context, buffers)

    def multiplies(self):
        """Whether ggml can multiply with them where they are."""
        scratch = context()
        product = mul_mat(scratch, self.tensors[0], new_tensor(scratch, F32, self.k, 1))
        answer = supports(device_of(registry(), 0), product)
        free(scratch)
        return answer

    def fill(self):
        rows = math.gcd(TILE, self.n)
        values = numpy.random.default_rng(0).standard_normal((rows, self.k), dtype=numpy.float32)
        tile = numpy.zeros(rows * row_size(self.kind, self.k), numpy.uint8)
        quantize(self.kind, values.ctypes.data, tile.ctypes.data, 0, rows, self.k, None)
        whole = numpy.tile(tile, self.n // rows)
        for tensor in self.tensors:
            set_tensor(tensor, whole.ctypes.data, 0, whole.nbytes)

    def free(self):
        buffer_free(self.buffer)
        free(self.context)


class Products:
    """A graph that multiplies [m, k] by each weight."""

    def __init__(self, weights, m):
        self.m = m
        self.context = context()
        x = new_tensor(self.context, F32, weights.k, m)
        self.graph = new_graph(self.context)
        tensors = weights.tensors if len(weights.tensors) > 1 else weights.tensors * REPEATS
        self.count = len(tensors)
        for tensor in tensors:
            expand(self.graph, mul_mat(self.context, tensor, x))
        self.buffer = allocate(self.context, plain_buffers())
        values = numpy.random.default_rng(m).standard_normal((m, weights.k), dtype=numpy.float32)
        set_tensor(x, values.ctypes.data, 0, values.nbytes)

    def free(self):
        buffer_free(self.buffer)
        free(self.context)


class Case:
    """Weights and the graph of the latest number of tokens."""

    def __init__(self, weights, backend, threads):
        self.weights, self.backend = weights, backend
        self.stopwatch = protocol.Stopwatch(threads)
        self.products = None

    def micros(self, m):
        if self.products is None or self.products.m != m:
            if self.products is not None:
                self.products.free()
            self.products = Products(self.weights, m)
        seconds = self.stopwatch.seconds_per_run(m, self.run)
        return seconds * 1e6 / self.products.count

    def run(self):
        status = compute(self.backend, self.products.graph)
        if status != 0:
            raise RuntimeError(f"ggml_backend_graph_compute returned {status}")

    def free(self):
        if self.products is not None:
            self.products.free()
        self.weights.free()


class Peer:
    def __init__(self):
        self.cases = {}
        self.backends = {}

    def backend(self, threads):
        """A backend whose threads wait for the next run, as in a program that runs a model again and again."""
        if threads not in self.backends:
            parameters = ThreadpoolParams()
            init_threads(byref(parameters), threads)
            backend = new_backend()
            set_threads(backend, threads)
            set_pool(backend, new_pool(byref(parameters)))
            self.backends[threads] = backend
        return self.backends[threads]

    def load(self, case, k, n, bytes, threads):
        kind, _, repacked = CASES[case]
        copies = max(1, math.ceil(bytes / (n * row_size(kind, k))))
        for buffers in repacking_buffers() if repacked else [plain_buffers()]:
            weights = Weights(kind, buffers, k, n, copies)
            if weights.multiplies():
                weights.fill()
                self.cases[case] = Case(weights, self.backend(threads), threads)
                return {"copies": copies}
            weights.free()
        return {"copies": 0}

    def turn(self, case, m):
        return {"micros": self.cases[case].micros(m)}

    def drop(self):
        for case in self.cases.values():
            case.free()
        self.cases.clear()
        return {}


DECLARED = [dict(name=name, kind="ggml", bits=c[1], activations="int8") for name, c in CASES.items()]
protocol.serve(f"ggml {version().decode()}", DECLARED, Peer())
