#!/usr/bin/env python3
"""Writes sentences of texts as inputs of an encoder, to distill it on: experiment B of docs/results.md.

    python3 experiments/sentences.py --tokenizer tokenizer.json --count 6000 -o sentences.npz brown.train.txt wordnet.train.txt

Arrays `input_ids`, `attention_mask`, `token_type_ids`, int64 [count, length]. Needs numpy and tokenizers.
"""
import argparse
import re

import numpy as np
import tokenizers

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("texts", nargs="+")
parser.add_argument("--tokenizer", required=True)
parser.add_argument("--count", type=int, default=6000, help="sentences, taken evenly from all")
parser.add_argument("--length", type=int, default=64)
parser.add_argument("-o", "--output", required=True)
args = parser.parse_args()

tokenizer = tokenizers.Tokenizer.from_file(args.tokenizer)
tokenizer.no_padding()
tokenizer.enable_truncation(args.length)
sentences = []
for path in args.texts:
    text = open(path, encoding="utf-8").read()
    found = [s.strip() for s in re.split(r"(?<=[.!?;])\s+", text)]
    found = [s for s in found if 20 <= len(s) <= 400]
    wanted = args.count // len(args.texts)
    sentences += found[:: max(1, len(found) // wanted)][:wanted]
ids = np.zeros((len(sentences), args.length), np.int64)
mask = np.zeros_like(ids)
for row, encoding in enumerate(tokenizer.encode_batch(sentences)):
    ids[row, : len(encoding.ids)], mask[row, : len(encoding.ids)] = encoding.ids, 1
np.savez(args.output, input_ids=ids, attention_mask=mask, token_type_ids=np.zeros_like(ids))
