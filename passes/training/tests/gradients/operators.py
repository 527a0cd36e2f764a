"""Writes operators.txt: what onnxruntime computes for the operators that are expanded (operators.rs has the same nodes).

Needs numpy, onnx and onnxruntime. An input is sin(0.7 k (seed + 1) + seed) for its elements k = 0, 1, ..
"""

import pathlib

import numpy as np
import onnxruntime
from onnx import TensorProto, helper


def wave(seed, *shape):
    k = np.arange(int(np.prod(shape)), dtype=np.float64)
    return np.sin(0.7 * k * (seed + 1) + seed).astype(np.float32).reshape(shape)


def run(op_type, domain, inputs, outputs=1, **attributes):
    names = [f"x{i}" if x is not None else "" for i, x in enumerate(inputs)]
    # As many outputs, or for each whether it is there.
    present = [True] * outputs if isinstance(outputs, int) else outputs
    results = [f"y{i}" if there else "" for i, there in enumerate(present)]
    node = helper.make_node(op_type, names, results, domain=domain, **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
            for n, x in zip(names, inputs)
            if n
        ],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in results if n],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)],
        ir_version=10,
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    values = session.run(None, {n: x for n, x in zip(names, inputs) if n})
    return np.concatenate([v.astype(np.float64).reshape(-1) for v in values])


MS = "com.microsoft"
i32, i64 = np.int32, np.int64


def cases():
    x = wave(1, 2, 3, 8)
    yield "fast_gelu", run("FastGelu", MS, [x, wave(2, 8)])
    yield "bias_gelu", run("BiasGelu", MS, [x, wave(2, 8)])
    yield "quick_gelu", run("QuickGelu", MS, [x], alpha=1.5)
    yield "skip_layer_normalization", run(
        "SkipLayerNormalization",
        MS,
        [x, wave(2, 2, 3, 8), wave(3, 8), wave(4, 8), wave(5, 8)],
        [True, False, False, True],
        epsilon=1e-3,
    )
    yield "skip_simplified_layer_normalization", run(
        "SkipSimplifiedLayerNormalization",
        MS,
        [x, wave(2, 2, 3, 8), wave(3, 8)],
        [True, False, False, True],
        epsilon=1e-3,
    )
    yield "simplified_layer_normalization", run(
        "SimplifiedLayerNormalization", "", [x, wave(2, 8)], axis=-1, epsilon=1e-3
    )
    cache = [wave(2, 6, 2), wave(3, 6, 2)]
    positions = np.array([[0, 1, 2], [3, 1, 5]], i64)
    yield "rotary_halves", run("RotaryEmbedding", MS, [x, positions, *cache])
    yield "rotary_neighbours", run("RotaryEmbedding", MS, [x, np.array([2], i64), *cache], interleaved=1)
    yield "rotary_part", run(
        "RotaryEmbedding", MS, [wave(1, 2, 2, 3, 8), positions, *cache], rotary_embedding_dim=4, num_heads=2
    )
    yield "rotary_onnx", run("RotaryEmbedding", "", [x, *cache, positions], num_heads=2)
    yield "rotary_onnx_rows", run(
        "RotaryEmbedding",
        "",
        [wave(1, 2, 2, 3, 4), wave(2, 2, 3, 2), wave(3, 2, 3, 2)],
        interleaved=1,
    )
    yield "attention", run(
        "Attention", MS, [x, wave(2, 8, 24), wave(3, 24)], num_heads=2, unidirectional=1
    )
    mask = np.array([[1, 1, 1], [1, 1, 0]], i32)
    yield "attention_masked", run(
        "Attention", MS, [x, wave(2, 8, 20), wave(3, 20), mask], num_heads=2, qkv_hidden_sizes=[8, 8, 4]
    )
    keys = [wave(4, 2, 5, 8), wave(5, 2, 5, 8)]
    longer = np.array([[1, 1, 1, 1, 0], [1, 0, 1, 1, 1]], i32)
    yield "multi_head", run(
        "MultiHeadAttention", MS, [x, *keys, wave(6, 24), longer, wave(7, 1, 2, 3, 5)], num_heads=2, scale=0.4
    )
    yield "multi_head_causal", run(
        "MultiHeadAttention", MS, [x, wave(4, 2, 3, 8), wave(5, 2, 3, 8)], num_heads=4, unidirectional=1
    )
    lengths = [np.array([2, 2], i32), np.array(3, i32)]
    grouped = [wave(1, 2, 3, 32), wave(4, 2, 3, 16), wave(5, 2, 3, 16)]
    rotary = [wave(2, 6, 8), wave(3, 6, 8)]
    yield "group_query", run(
        "GroupQueryAttention",
        MS,
        [*grouped, None, None, *lengths, *rotary],
        3,
        num_heads=2,
        kv_num_heads=1,
        do_rotary=1,
    )
    yield "group_query_window", run(
        "GroupQueryAttention",
        MS,
        [wave(1, 2, 3, 64), None, None, None, None, *lengths],
        3,
        num_heads=4,
        kv_num_heads=2,
        local_window_size=2,
    )
    seen = np.array([[1, 0, 1, 1, 0], [1, 1, 0, 1, 1], [0, 1, 1, 1, 1]], bool)
    yield "attention_onnx", run(
        "Attention",
        "",
        [wave(1, 2, 3, 16), wave(4, 2, 5, 8), wave(5, 2, 5, 8), seen],
        q_num_heads=4,
        kv_num_heads=2,
    )
    yield "attention_onnx_causal", run(
        "Attention",
        "",
        [wave(1, 2, 2, 3, 4), wave(4, 2, 2, 3, 4), wave(5, 2, 2, 3, 4)],
        is_causal=1,
        scale=0.3,
        softcap=0.8,
    )


if __name__ == "__main__":
    lines = [f"{name} {' '.join(f'{v:.6g}' for v in values)}" for name, values in cases()]
    pathlib.Path(__file__).with_name("operators.txt").write_text("\n".join(lines) + "\n")
