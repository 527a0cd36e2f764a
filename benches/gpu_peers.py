"""Products of other libraries on a GPU, measured as `cargo run --release -p mqc-cuda --example device -- bench` measures ours.

    python benches/gpu_peers.py                      # every peer that imports; needs torch with CUDA
    python benches/gpu_peers.py --ours FILE          # then ours / theirs, FILE being what `device bench` printed
    python benches/gpu_peers.py --theirs FILE --ours FILE   # the same from two files, nothing is measured
    python benches/gpu_peers.py --dry-run            # what would be measured, and which peers import

Prints the columns of `device bench`, then the peer and how it was timed. Activations and outputs are 16 bits wide. A graph holds launches with weights of their
own that come to 256 MiB; times are medians of 21 replays. What a peer does not serve is left out, what it fails at is a line that begins with #.
"""
import argparse
import copy
import gc
import importlib
import itertools
import statistics
import sys
import traceback

COLUMNS = ["rows", "cols", "tokens", "bits", "group", "microseconds", "of a copy's bandwidth", "TFLOP/s"]
TIMED = ["graph", "queue"]
ROTATED = 256 << 20  # bytes of weights that are read in turn: more than a cache holds
LEAST_LAUNCHES = 4  # in a graph, so that its start counts little
REPLAYS = 21
COSINE = 0.7  # to the product with the float weight; 2 bits come to 0.8, a kernel that did not run to about 0


class Cublas:
    """torch.nn.functional.linear with 16-bit weights."""

    modules, bits, groups, most_tokens, graph = ["torch"], [16], [0], None, True

    def __init__(self, torch, dtype):
        self.torch, self.dtype = torch, dtype

    def make(self, rows, cols, bits, group):
        layer = self.torch.nn.Linear(cols, rows, bias=False, dtype=self.dtype, device="cuda")
        return layer, layer.weight


class CublasF16(Cublas):
    name = "cuBLAS fp16"

    def __init__(self, torch):
        super().__init__(torch, torch.float16)


class CublasBf16(Cublas):
    name = "cuBLAS bf16"

    def __init__(self, torch):
        super().__init__(torch, torch.bfloat16)


class Quantized:
    """What the libraries of quantized products share: fp16, widths and groups of ours."""

    bits, groups, most_tokens, graph = [8, 4, 3, 2], [0, 128], None, True

    def __init__(self, torch):
        self.torch, self.dtype = torch, torch.float16

    def codes(self, rows, cols, bits, device):
        return self.torch.randint(0, 1 << bits, (rows, cols), dtype=self.torch.uint8, device=device)

    def scales(self, rows, cols, group, device):
        return 0.01 * (1 + self.torch.rand(rows, cols // (group or cols), dtype=self.dtype, device=device))

    def dense(self, codes, scales, bits):
        """The float weight of codes whose middle stands for zero."""
        scales = scales.repeat_interleave(codes.shape[1] // scales.shape[1], 1)
        return (codes.to(self.dtype) - (1 << (bits - 1))) * scales


class Humming(Quantized):
    """humming-kernels of PyPI: compiles a kernel for a shape when it is first used, and chooses its tiles itself."""

    name, modules = "humming", ["humming", "humming.layer"]

    def make(self, rows, cols, bits, group):
        layer_of = importlib.import_module("humming.layer").HummingLayer
        weight = self.torch.randn(rows, cols, dtype=self.dtype, device="cuda")
        kind = {"dtype": f"int{bits}"} | ({"group_size": group} if group else {})
        layer = layer_of(shape_n=rows, shape_k=cols, weight_config=kind, torch_dtype=self.dtype).cuda()
        layer.load_from_unquantized(weight)
        layer.transform()
        return layer, weight


class Gemlite(Quantized):
    """gemlite of PyPI: Triton kernels, tuned when they are first used (its default, "fast")."""

    name, modules, bits = "gemlite", ["gemlite", "gemlite.helper"], [8, 4, 2]

    def make(self, rows, cols, bits, group):
        helper = importlib.import_module("gemlite.helper")
        if bits == 8 and group == 0:
            weight = self.torch.randn(rows, cols, dtype=self.dtype, device="cuda")
            return helper.A16W8_INT8(device="cuda", dtype=self.dtype).from_weights(weight.clone()), weight
        codes, scales = self.codes(rows, cols, bits, "cuda"), self.scales(rows, cols, group, "cuda")
        zeros = self.torch.full_like(scales, 1 << (bits - 1))
        weight = self.dense(codes, scales, bits)
        quantizer = helper.A16Wn(device="cuda", dtype=self.dtype)
        return quantizer.from_weights(codes, scales, zeros, bits, group or cols), weight


class MatGptq(Quantized):
    """IST-DASLab/MatGPTQ, compiled from source. Packs on the processor, which takes a while."""

    name, modules = "MatGPTQ", ["matgptq_cuda", "matgptq_cuda.matgptq_linear"]

    def make(self, rows, cols, bits, group):
        linear = importlib.import_module("matgptq_cuda.matgptq_linear").MatGPTQLinear
        codes, scales = self.codes(rows, cols, bits, "cpu"), self.scales(rows, cols, group, "cpu")
        return linear(codes, scales, bits, group or -1).cuda(), self.dense(codes.cuda(), scales.cuda(), bits)


class AnyPrecision(Quantized):
    """SNU-ARC/any-precision-llm, its extension compiled from source: bit planes and a table for each row."""

    # It launches on the legacy stream, which no graph can record.
    name, modules, groups, most_tokens, graph = "Any-Precision", ["any_precision_ext"], [0], 8, False

    def make(self, rows, cols, bits, group):
        torch, extension = self.torch, importlib.import_module("any_precision_ext")

        class Linear(torch.nn.Module):
            def __init__(self):
                super().__init__()
                planes = torch.randint(-(1 << 31), 1 << 31, (bits, rows, cols // 32), dtype=torch.int32, device="cuda")
                self.register_buffer("planes", planes)
                self.register_buffer("table", torch.randn(rows, 1 << bits, dtype=torch.float16, device="cuda"))

            def forward(self, x):
                return extension.matmul_kbit(x, self.planes, self.table, bits)

        layer = Linear()
        return layer, extension.dequant_kbit(layer.planes, layer.table, bits)


PEERS = [CublasF16, CublasBf16, Humming, Gemlite, MatGptq, AnyPrecision]


def note(text):
    print(f"# {text}", flush=True)


def reason_of(error):
    return f"{type(error).__name__}: {error}".splitlines()[0]


def why_missing(peer):
    """None if all of a peer's modules import, else the reason."""
    try:
        for module in ["torch", *peer.modules]:
            importlib.import_module(module)
    except Exception as error:  # without a device or a compiler some raise what they like
        return reason_of(error)
    return None


def version(peer):
    found = importlib.import_module(peer.modules[0])
    return getattr(found, "__version__", "of unknown version")


def bytes_of(layer):
    tensors = itertools.chain(layer.parameters(), layer.buffers())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def median_seconds(torch, once, prepare=lambda: None):
    """`once` is timed by events, after a turn that does not count."""
    times = []
    for _ in range(REPLAYS + 1):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        prepare()
        start.record()
        once()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return statistics.median(times[1:])


def copy_bandwidth(torch):
    """Bytes that a copy on the device reads and writes in a second."""
    source = torch.zeros(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / median_seconds(torch, lambda: target.copy_(source))


def rotated(layer):
    """The layer and as many copies as come to the bytes that are to be read in turn."""
    return [layer] + [copy.deepcopy(layer) for _ in range(-(-ROTATED // bytes_of(layer)) - 1)]


def check(torch, layer, weight, x):
    """Fails where a product is not the float weight's: a launch can fail in silence."""
    found, expected = layer(x).double().flatten(), torch.nn.functional.linear(x, weight).double().flatten()
    cosine = torch.nn.functional.cosine_similarity(found, expected, dim=0).item()
    if not cosine >= COSINE:
        raise RuntimeError(f"the product is wrong: cosine {cosine:.3f}")


def measure(torch, peer, layers, x):
    """Seconds of one product."""
    launches = max(len(layers), LEAST_LAUNCHES)

    def all_products():
        for i in range(launches):
            layers[i % len(layers)](x)

    if not peer.graph:
        # The device waits until everything is in its queue: what the processor takes for a launch does not count.
        return median_seconds(torch, all_products, lambda: torch.cuda._sleep(20_000_000)) / launches
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        all_products()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        all_products()
    return median_seconds(torch, graph.replay) / launches


def cases(peer, options):
    """Weights that a peer has among those that are asked for, and the numbers of tokens of each."""
    tokens = [m for m in options.tokens if peer.most_tokens is None or m <= peer.most_tokens]
    bits = [b for b in peer.bits if b in options.bits or b == 16]
    for (rows, cols), group, width in itertools.product(options.shapes, peer.groups, bits):
        yield rows, cols, width, group, tokens


def run_peer(torch, kind, options, copied):
    """Prints what a peer takes; returns its rows."""
    peer, rows_found = kind(torch), []
    for rows, cols, bits, group, all_tokens in cases(peer, options):
        layers = weight = None
        try:
            layer, weight = peer.make(rows, cols, bits, group)
            layers, size = rotated(layer), bytes_of(layer)
            for tokens in all_tokens:
                x = torch.randn(tokens, cols, dtype=peer.dtype, device="cuda")
                check(torch, layer, weight, x)
                seconds = measure(torch, peer, layers, x)
                share, operations = size / seconds / copied, 2 * rows * cols * tokens / seconds / 1e12
                case = [rows, cols, tokens, bits, group, f"{1e6 * seconds:.2f}", f"{share:.2f}", f"{operations:.1f}"]
                rows_found.append([str(value) for value in [*case, peer.name, TIMED[not peer.graph]]])
                print("\t".join(rows_found[-1]), flush=True)
        except Exception as error:  # one weight of one peer is no reason to lose the others
            place = traceback.extract_tb(error.__traceback__)[-1]
            case = f"{peer.name}, {rows}x{cols}, {bits} bits, group {group}"
            note(f"{case}: {reason_of(error)} ({place.filename}:{place.lineno})")
        layer = layers = weight = x = None
        gc.collect()
        torch.cuda.empty_cache()
    return rows_found


def table(path, columns):
    """The lines of a file that are rows of a table of so many columns, whatever stands around them."""
    with open(path, encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file]
    return [row for row in rows if len(row) == columns and all(value.isdigit() for value in row[:5])]


def bar(tokens, bits, peer):
    """What ours / theirs may be at most: `docs/cuda.md`."""
    if bits != 16 and tokens <= 16:
        return 1.0
    return 1.25 if peer == "cuBLAS bf16" and tokens >= 512 else None


def join(ours, theirs):
    """Prints ours / theirs wherever both have a product; 16-bit weights are beside all of our widths. Returns the number of rows."""
    print("\t".join(["rows", "cols", "tokens", "bits", "group", "peer", "ours", "theirs", "ours / theirs", "at most"]))
    count = missed = 0
    for mine, other in itertools.product(ours, theirs):
        (rows, cols, tokens, bits, group), peer = mine[:5], other[8]
        if mine[:3] != other[:3] or (other[3] != "16" and mine[3:5] != other[3:5]):
            continue
        ratio, most = float(mine[5]) / float(other[5]), bar(int(tokens), int(other[3]), peer)
        is_missed = most is not None and ratio > most
        limit = "" if most is None else f"{most}{' missed' if is_missed else ''}"
        print("\t".join([rows, cols, tokens, bits, group, peer, mine[5], other[5], f"{ratio:.2f}", limit]))
        count, missed = count + 1, missed + is_missed
    note(f"{count} products of both, {missed} miss their bar")
    return count


def dry_run(options):
    for kind in PEERS:
        reason = why_missing(kind)
        note(f"{kind.name}: missing: {reason}" if reason else f"{kind.name}: {version(kind)}")
        for rows, cols, bits, group, tokens in cases(kind, options):
            print(f"{kind.name}\t{rows}x{cols}\t{bits} bits\tgroup {group}\ttokens {','.join(map(str, tokens))}")


def measured(options):
    """The rows of all peers that are there; None if none is."""
    reasons = {kind: why_missing(kind) for kind in PEERS}
    for kind, reason in reasons.items():
        note(f"{kind.name}: missing: {reason}" if reason else f"{kind.name}: {version(kind)}")
    present = [kind for kind, reason in reasons.items() if reason is None]
    torch = importlib.import_module("torch") if present else None
    if torch is None or not torch.cuda.is_available():
        return note(f"nothing is measured: {'no peer imports' if torch is None else 'torch finds no CUDA device'}")
    torch.manual_seed(0)
    with torch.no_grad():
        copied = copy_bandwidth(torch)
        note(f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}; a copy reads and writes {copied / 1e12:.2f} TB/s")
        print("\t".join([*COLUMNS, "peer", "timed"]))
        return [row for kind in present for row in run_peer(torch, kind, options, copied)]


def main():
    def shape(text):
        rows, cols = text.split("x")
        return int(rows), int(cols)

    def numbers(text):
        return [int(value) for value in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shapes = [(14336, 4096), (28672, 8192)]
    parser.add_argument("--shapes", type=shape, nargs="+", default=shapes, help="outputs x inputs, as 14336x4096")
    parser.add_argument("--tokens", type=numbers, default=[1, 2, 4, 8, 16, 512, 2048])
    parser.add_argument("--bits", type=numbers, default=[8, 4, 3, 2])
    parser.add_argument("--ours", help="what `device bench` printed: prints ours / theirs")
    parser.add_argument("--theirs", help="what an earlier run of this printed, instead of measuring")
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    if options.dry_run:
        return dry_run(options)
    if options.theirs:
        theirs = [row for row in table(options.theirs, len(COLUMNS) + 2) if row[-1] in TIMED]
    else:
        theirs = measured(options)
    if theirs is None:
        return
    if not theirs:
        sys.exit("no peer was measured")
    if options.ours and not join(table(options.ours, len(COLUMNS)), theirs):
        sys.exit("ours and theirs have no product in common")


if __name__ == "__main__":
    main()
