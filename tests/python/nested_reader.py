"""An independent reader of the nested weights of an artifact, in numpy, written from the format's description only.

    nested_reader.py ARTIFACT_DIR --bits 4 --npz out.npz

ARTIFACT_DIR holds manifest.json, whose `layers` name the weights ({name, rows, cols, group_size, mode, map_widths};
group_size null is one group a row, map_widths absent is none), and weights.safetensors, which may be cut short: whatever planes are complete can be read. Writes every
layer's float32 weight [rows, cols] at that width under its name.
"""
import argparse
import json
import math
from pathlib import Path

import numpy as np

DTYPES = {"U8": np.uint8, "F32": np.dtype("<f4")}


class Store:
    """The tensors of a safetensors file: 8 bytes of header length (little endian), a JSON header, the data."""

    def __init__(self, path):
        self.bytes = np.memmap(path, np.uint8, "r")
        if len(self.bytes) < 8:
            raise ValueError(f"{path}: {len(self.bytes)} bytes, expected at least 8")
        self.start = 8 + int.from_bytes(self.bytes[:8].tobytes(), "little")
        if self.start > len(self.bytes):
            raise ValueError(f"{path}: the header ends at byte {self.start}, the file at {len(self.bytes)}")
        self.header = json.loads(self.bytes[8 : self.start].tobytes())

    def has(self, name):
        """Whether the tensor is listed and all its bytes are in the file."""
        return name in self.header and self.start + self.header[name]["data_offsets"][1] <= len(self.bytes)

    def tensor(self, name, dtype, shape):
        """The tensor, which must have exactly this type and shape."""
        if not self.has(name):
            raise ValueError(f"tensor {name}: not in the file, or cut off")
        entry = self.header[name]
        if (entry["dtype"], entry["shape"]) != (dtype, list(shape)):
            raise ValueError(f"tensor {name}: {entry['dtype']}{entry['shape']}, expected {dtype}{list(shape)}")
        begin, end = (self.start + offset for offset in entry["data_offsets"])
        if end - begin != math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize:
            raise ValueError(f"tensor {name}: {end - begin} bytes do not fit {dtype}{list(shape)}")
        return self.bytes[begin:end].view(DTYPES[dtype]).reshape(shape)


def planes_in(store, name):
    """How many planes of this weight are complete, counted from the most significant."""
    return next((p for p in range(8) if not store.has(f"{name}.plane{p}")), 8)


def prefix(store, name, rows, cols, count):
    """The first `count` planes as one number per weight: code >> (8 - count), int64 [rows, cols]."""
    value = np.zeros((rows, cols), np.int64)
    for p in range(count):
        plane = store.tensor(f"{name}.plane{p}", "U8", (rows, -(-cols // 8)))
        value = value * 2 + np.unpackbits(plane, axis=1, bitorder="little")[:, :cols]
    return value


def sliced_level(store, name, rows, cols, bits, mode):
    """The position of every weight on the 8-bit grid, before zero point and scale, float32 [rows, cols]."""
    step = 2 ** (8 - bits)
    planes = bits if mode == "midpoint" or bits == 8 else bits + 1
    if (found := planes_in(store, name)) < planes:
        raise ValueError(f"layer {name}: {bits} bits by {mode} need {planes} planes, the file holds {found}")
    code = prefix(store, name, rows, cols, planes)
    if mode == "midpoint":
        return (step * (code + 0.5) - 0.5).astype(np.float32)
    rounded = code if bits == 8 else (code + 1) // 2  # the bit after the prefix decides: half up
    if mode == "round":
        rounded = np.minimum(rounded, 2**bits - 1)
    elif mode != "extra":
        raise ValueError(f"layer {name}: mode {mode!r}, expected midpoint, round or extra")
    return (rounded * step).astype(np.float32)


def weight(store, name, rows, cols, bits, mode, group_size=None, map_widths=()):
    """The float32 weight [rows, cols] at `bits`: scale * (level - zero), with the map of the nearest wider width."""
    group = group_size or max(cols, 1)
    shape = (rows, -(-cols // group) if cols else 1)
    stacked = (1 + len(map_widths), *shape) if map_widths else shape
    scale, zero = (store.tensor(f"{name}.{kind}", "F32", stacked) for kind in ("scale", "zero"))
    place = sum(width >= bits for width in map_widths)
    scale, zero = (maps[place] if map_widths else maps for maps in (scale, zero))
    scale, zero = (np.repeat(map_, group, axis=1)[:, :cols] for map_ in (scale, zero))
    return scale * (sliced_level(store, name, rows, cols, bits, mode) - zero)


def read(artifact, bits):
    """{layer name: float32 [rows, cols]} of an artifact folder at one width."""
    manifest = json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))
    store = Store(artifact / "weights.safetensors")
    return {
        layer["name"]: weight(
            store,
            layer["name"],
            layer["rows"],
            layer["cols"],
            bits,
            layer["mode"],
            layer.get("group_size"),
            layer.get("map_widths", ()),
        )
        for layer in manifest["layers"]
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT_DIR")
    parser.add_argument("--bits", type=int, choices=range(1, 9), required=True)
    parser.add_argument("--npz", type=Path, required=True, help="the file to write")
    arguments = parser.parse_args()
    weights = read(arguments.artifact, arguments.bits)
    # Layer names may hold "/" and ":", which are plain text inside the archive; a stream keeps the file name as given.
    with open(arguments.npz, "wb") as file:
        np.savez(file, **weights)


if __name__ == "__main__":
    main()
