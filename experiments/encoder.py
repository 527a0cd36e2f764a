#!/usr/bin/env python3
"""How good a sentence encoder is at each width: retrieval of parallel sentences, human similarity, distance from the float model.

    python3 experiments/encoder.py minilm.mqc --float all_minilm_l6_v2.onnx --tokenizer tokenizer.json \\
        --pairs verses.jsonl --similarities simlex999.tsv,wordsim353.tsv

`--pairs` has an object with two texts a line (fields `kjv` and `web`); the second is to be found by the first among all of
the `--limit` that are taken evenly. `--similarities` are lines `word word score`. Widths are exported as float models and run
in onnxruntime. Needs numpy, onnxruntime, tokenizers. Prints one row of a table a width.
"""
import argparse
import json
import pathlib
import subprocess
import tempfile

import numpy as np
import onnxruntime
import tokenizers


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact")
    parser.add_argument("--float", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--pairs", required=True)
    parser.add_argument("--similarities", default="")
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--bits", default="8,6,4,3,2")
    parser.add_argument("--mqc", default="target/release/mqc")
    args = parser.parse_args()
    tokenizer = tokenizers.Tokenizer.from_file(args.tokenizer)
    tokenizer.no_padding()
    tokenizer.enable_truncation(128)
    pairs = [json.loads(line) for line in open(args.pairs, encoding="utf-8")]
    pairs = pairs[:: max(1, len(pairs) // args.limit)][: args.limit]
    words = {path: [line.split() for line in open(path, encoding="utf-8")] for path in args.similarities.split(",") if path}
    names = " | ".join(pathlib.Path(path).stem for path in words)
    print(f"| bits | cosine to float | acc@1 | MRR | {names} |\n" + "|---" * (4 + len(words)) + "|")
    with tempfile.TemporaryDirectory() as folder:
        expected = None
        for bits in ["float", *args.bits.split(",")]:
            path = args.float
            if bits != "float":
                path = f"{folder}/{bits}.onnx"
                export = [args.mqc, "export", args.artifact, "--bits", bits, "--format", "float", "-o", path, "--quiet"]
                subprocess.run(export, check=True)
            encoder = Encoder(path, tokenizer)
            queries, gallery = (encoder.embed([p[side] for p in pairs]) for side in ("kjv", "web"))
            expected = queries if expected is None else expected
            accuracy, reciprocal = retrieval(queries, gallery)
            cells = [(queries * expected).sum(1).mean(), accuracy, reciprocal]
            for rows in words.values():
                first, second = (encoder.embed([r[side] for r in rows]) for side in (0, 1))
                cells.append(spearman((first * second).sum(1), np.array([float(r[2]) for r in rows])))
            print(f"| {bits} | " + " | ".join(f"{cell:.4f}" for cell in cells) + " |", flush=True)


class Encoder:
    def __init__(self, path, tokenizer):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.tokenizer = tokenizer

    def embed(self, texts, batch=32):
        """Unit vectors [texts, width]; sorted by length so that little is padding."""
        sequences = [e.ids for e in self.tokenizer.encode_batch(texts)]
        order = sorted(range(len(texts)), key=lambda i: len(sequences[i]))
        vectors = [None] * len(texts)
        for start in range(0, len(order), batch):
            part = order[start : start + batch]
            ids = np.zeros((len(part), max(len(sequences[i]) for i in part)), np.int64)
            mask = np.zeros_like(ids)
            for row, i in enumerate(part):
                ids[row, : len(sequences[i])], mask[row, : len(sequences[i])] = sequences[i], 1
            feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
            for i, vector in zip(part, self.session.run(["sentence_embedding"], feed)[0]):
                vectors[i] = vector / np.linalg.norm(vector)
        return np.stack(vectors)


def retrieval(queries, gallery):
    """Share of queries whose own partner is the nearest, and the mean reciprocal rank."""
    scores = queries @ gallery.T
    ranks = 1 + (scores > np.diag(scores)[:, None]).sum(1)
    return (ranks == 1).mean(), (1 / ranks).mean()


def spearman(a, b):
    """Correlation of ranks; equal values share their mean rank."""

    def ranks(values):
        _, place, count = np.unique(values, return_inverse=True, return_counts=True)
        return (np.cumsum(count) - (count - 1) / 2)[place]

    return np.corrcoef(ranks(a), ranks(b))[0, 1]


if __name__ == "__main__":
    main()
