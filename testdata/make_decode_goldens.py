#!/usr/bin/env python3
"""Writes the golden data of the block decoders. The oracle is gguf-py; for the types that it cannot
decode, Q1_0 and Q2_0, it is ggml's own `to_float`, called in the library that xllamacpp brings.

usage: make_decode_goldens.py [--check]

needs: gguf 0.19.0, numpy 2, xllamacpp 2026.10.11549

For each type, `decode/TYPE.blocks` holds blocks as a file would, `decode/TYPE.f16` the halves they
decode to (little endian): the oracle's value in f32, rounded to nearest even. A decoder has to give
these bytes. A type whose files have one factor for a whole tensor also has `TYPE.scales`, such
factors (f32, little endian), and `TYPE.scaled.f16`, for each factor in turn the halves of all blocks:
the oracle's value times the factor in f32, rounded to nearest even. That includes NaN, for which the oracle's bits depend on the machine: computed
ones are 0x7e00; F32 and BF16 keep the sign and the top of the payload, quieted; F16 is kept as it
is.

The blocks are typical ones, extreme ones (every kind of special factor, results that overflow, that
are subnormal, that tie), bodies of one repeated byte, and for grid types every grid entry and every
sign pattern. The same blocks come out on every machine.

--check  writes nothing and fails where a file differs from what would be written
"""

import argparse
import ctypes
import sys
from importlib.util import find_spec
from pathlib import Path

import gguf
import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

SEED = 20261122
OUT = Path(__file__).parent / "decode"

# Where the half-precision factors of a block are. IQ1_M, MXFP4 and NVFP4 have none in one piece.
FACTORS = {
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q8_0": [0],
    "Q2_K": [80, 82],
    "Q3_K": [108],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
    "IQ4_NL": [0],
    "IQ4_XS": [0],
    "IQ3_S": [0],
    "IQ3_XXS": [0],
    "IQ2_S": [0],
    "IQ2_XS": [0],
    "IQ2_XXS": [0],
    "IQ1_S": [0],
    "TQ1_0": [52],
    "TQ2_0": [64],
    "Q1_0": [0],
    "Q2_0": [0],
}

# Type numbers, and elements and bytes of a block, of what gguf-py does not know.
GGML_ONLY = {"Q1_0": (41, 128, 18), "Q2_0": (42, 64, 18)}

# Of NVFP4 tensors: ordinary, 0, negative, and such that results overflow, are subnormal, or NaN.
TENSOR_SCALES = [0.00123, 1.0, 0.0, -3.7, 1e4, 1e-6, float("inf"), float("nan")]

SPECIAL_HALVES = [
    0x0000,  # zero
    0x8000,  # negative zero
    0x0001,  # least subnormal
    0x8001,
    0x03FF,  # greatest subnormal
    0x0400,  # least normal
    0x3C00,  # one
    0xBC01,  # the odd significand next to minus one: ties
    0x7BFF,  # greatest
    0xFBFF,
    0x7C00,  # infinity
    0xFC00,
    0x7E00,  # NaN
    0xFD01,  # signalling NaN
]

REPEATED_BYTES = [0x00, 0xFF, 0x0F, 0xF0, 0x55, 0xAA]


class Halves:
    """Random factors, by the magnitude of what they give."""

    def __init__(self, rng):
        self.rng = rng

    def _with_exponents(self, low, high):
        exponent = self.rng.randint(low, high + 1)
        return self.rng.randint(0, 2) << 15 | exponent << 10 | self.rng.randint(0, 1024)

    def typical(self):
        return self._with_exponents(4, 12)

    def subnormal(self):
        return self.rng.randint(0, 2) << 15 | self.rng.randint(1, 1024)

    def tiny(self):
        return self._with_exponents(0, 2)

    def large(self):
        return self._with_exponents(21, 30)


def set_half(block, offset, bits):
    block[offset : offset + 2] = np.frombuffer(np.uint16(bits).tobytes(), np.uint8)


def set_factor(name, block, index, bits):
    if name == "IQ1_M":
        # A quarter in the top nibble of each of the last four words.
        for word in range(4):
            byte = 49 + 2 * word
            block[byte] = block[byte] & 0x0F | (bits >> (4 * word) & 0xF) << 4
    else:
        set_half(block, FACTORS[name][index], bits)


def set_grid_entry(name, block, group, entry, signs):
    """Makes the eight elements of `group` use `entry` (for IQ3: its two halves) and `signs`."""

    def set_bits(byte, shift, width, value):
        mask = ((1 << width) - 1) << shift
        block[byte] = int(block[byte]) & ~mask & 0xFF | value << shift

    def set_signs_of_quarter(byte):
        shift = 7 * (group % 4)
        word = int.from_bytes(block[byte : byte + 4].tobytes(), "little")
        word = word & ~(0x7F << shift) | (signs & 0x7F) << shift
        block[byte : byte + 4] = np.frombuffer(word.to_bytes(4, "little"), np.uint8)

    quarter, position = divmod(group, 4)
    if name == "IQ2_XXS":
        block[2 + 8 * quarter + position] = entry
        set_signs_of_quarter(6 + 8 * quarter)
    elif name == "IQ2_XS":
        set_half(block, 2 + 2 * group, entry | (signs & 0x7F) << 9)
    elif name == "IQ2_S":
        block[2 + group] = entry & 0xFF
        set_bits(66 + quarter, 2 * position, 2, entry >> 8)
        block[34 + group] = signs
    elif name == "IQ3_XXS":
        block[2 + 2 * group : 4 + 2 * group] = entry & 0xFF, entry >> 8
        set_signs_of_quarter(66 + 4 * quarter)
    elif name == "IQ3_S":
        first, second = entry & 0x1FF, entry >> 9
        block[2 + 2 * group : 4 + 2 * group] = first & 0xFF, second & 0xFF
        set_bits(66 + quarter, 2 * position, 2, first >> 8 | (second >> 8) << 1)
        block[74 + group] = signs
    elif name == "IQ1_S":
        block[2 + group] = entry & 0xFF
        high = int.from_bytes(block[34 + 2 * quarter : 36 + 2 * quarter].tobytes(), "little")
        high = high & ~(7 << 3 * position) | (entry >> 8) << 3 * position
        set_half(block, 34 + 2 * quarter, high)
    elif name == "IQ1_M":
        block[group] = entry & 0xFF
        set_bits(32 + group // 2, 4 * (group % 2), 3, entry >> 8)


def grid_entries(name):
    """Every grid entry in turn; for IQ3, whose groups take two, each in both places."""
    grids = {"IQ2_XXS": 256, "IQ2_XS": 512, "IQ2_S": 1024, "IQ1_S": 2048, "IQ1_M": 2048}
    if name == "IQ3_XXS":
        return [i | (255 - i) << 8 for i in range(256)]
    if name == "IQ3_S":
        return [i | (511 - i) << 9 for i in range(512)]
    return list(range(grids.get(name, 0)))


def factor_blocks(name, size, rng):
    """Blocks of the types that are scaled by halves."""
    halves = Halves(rng)
    factors = len(FACTORS.get(name, [0]))
    blocks = []

    def add(body, values):
        block = np.frombuffer(body, np.uint8).copy()
        for index, bits in enumerate(values):
            set_factor(name, block, index, bits)
        blocks.append(block)
        return block

    repeats = 1 if size > 40 else 6
    for _ in range(4 * repeats):
        for kind in (halves.typical, halves.tiny, halves.subnormal, halves.large):
            add(rng.bytes(size), [kind() for _ in range(factors)])
    for special in SPECIAL_HALVES:
        for place in range(factors):
            values = [halves.typical() for _ in range(factors)]
            values[place] = special
            add(rng.bytes(size), values)
    if factors == 2:
        for first, second in [(0x7C00, 0x7C00), (0x7C00, 0xFC00), (0x8000, 0x0000), (0x0001, 0x0001)]:
            add(rng.bytes(size), [first, second])
    for byte in REPEATED_BYTES:
        add(bytes([byte]) * size, [halves.typical() for _ in range(factors)])
    if name in ("Q8_0", "TQ1_0"):
        # Bytes that are values, not fields: each of them, in every kind of place.
        for start in range(0, 256, 32):
            body = bytes((start + i) % 256 for i in range(size))
            add(body, [halves.typical()])

    entries = grid_entries(name)
    groups = 32
    for start in range(0, len(entries), groups):
        block = add(rng.bytes(size), [halves.typical()])
        for group, entry in enumerate(entries[start : start + groups]):
            set_grid_entry(name, block, group, entry, (start + group) * 37 % 256)
    return np.stack(blocks)


def mxfp4_blocks(size, rng):
    """Every exponent over every code."""
    codes = np.arange(16, dtype=np.uint8)
    blocks = []
    for exponent in range(256):
        quants = rng.permutation(codes) | rng.permutation(codes) << np.uint8(4)
        blocks.append(np.concatenate([[np.uint8(exponent)], quants]).astype(np.uint8))
    assert blocks[0].size == size
    return np.stack(blocks)


def nvfp4_blocks(size, rng):
    """Every scale over every code."""
    codes = np.arange(16, dtype=np.uint8)
    blocks = []
    for first in range(0, 256, 4):
        scales = np.arange(first, first + 4, dtype=np.uint8)
        quants = [rng.permutation(codes) for _ in range(4)]
        nibbles = [half[:8] | half[8:] << np.uint8(4) for half in quants]
        blocks.append(np.concatenate([scales, *nibbles]).astype(np.uint8))
    assert blocks[0].size == size
    return np.stack(blocks)


class TypeTraits(ctypes.Structure):
    """The start of ggml's `struct ggml_type_traits`."""

    _fields_ = [
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    ]


def ggml_dequantize(name, raw):
    number, block_len, block_bytes = GGML_ONLY[name]
    folder = Path(find_spec("xllamacpp").origin).parent
    ggml = ctypes.CDLL(str(next(folder.glob("xllamacpp*.so"))))
    ggml.ggml_get_type_traits.restype = ctypes.POINTER(TypeTraits)
    traits = ggml.ggml_get_type_traits(number).contents
    assert traits.type_name.decode().upper() == name
    assert (traits.blck_size, traits.type_size) == (block_len, block_bytes)
    values = np.zeros(raw.size // block_bytes * block_len, np.float32)
    traits.to_float(raw.ctypes.data, values.ctypes.data, values.size)
    return values


def oracle_values(name, raw):
    """What the blocks hold, in f32."""
    if name in GGML_ONLY:
        return ggml_dequantize(name, np.ascontiguousarray(raw))
    return gguf.quants.dequantize(raw, GGMLQuantizationType[name]).astype(np.float32, copy=False).ravel()


def f32_words(rng):
    """Floats on and beside every boundary of a half, and of every magnitude."""
    words = [0x00000000, 0x00000001, 0x007FFFFF, 0x00800000, 0x7F7FFFFF]
    words += [0x7F800000, 0x7F800001, 0x7FBFE000, 0x7FC00000, 0x7FFFFFFF]
    halves = np.concatenate([np.arange(0, 0x7C00, 61), np.arange(0x7BF8, 0x7C00), np.arange(0, 12)])
    for half in halves:
        value = np.uint16(half).view(np.float16).astype(np.float32)
        above = np.uint16(half + 1).view(np.float16).astype(np.float32)
        if half == 0x7BFF:
            above = np.float32(65536)
        middle = (value + above) / np.float32(2)
        center = int(middle.view(np.uint32))
        words += [int(value.view(np.uint32)), center - 1, center, center + 1]
    words += [exponent << 23 | int(rng.randint(0, 1 << 23)) for exponent in range(256)]
    words = np.array(words, dtype=np.uint32)
    return np.concatenate([words, words | np.uint32(0x80000000)])


def bf16_words(rng):
    """Every sign and exponent with the extreme and some other significands."""
    significands = [0, 1, 0x3F, 0x40, 0x7E, 0x7F, *rng.randint(0, 128, 2)]
    return np.array([top << 7 | s for top in range(512) for s in significands], dtype=np.uint16)


def f16_words(rng):
    """Every sign and exponent with the extreme and some other significands."""
    significands = [0, 1, 0x1FF, 0x200, 0x3FE, 0x3FF, *rng.randint(0, 1024, 10)]
    return np.array([top << 10 | s for top in range(64) for s in significands], dtype=np.uint16)


def expected_halves(name, raw, scale=None):
    with np.errstate(all="ignore"):
        values = oracle_values(name, raw)
        if scale is not None:
            values = values * np.float32(scale)
        halves = values.astype("<f2").view("<u2")
    nan = np.isnan(values)
    if name == "F16":
        stored = raw.view("<u2").ravel()
    elif name in ("F32", "BF16"):
        bits = values.view(np.uint32)
        stored = (bits >> 16 & 0x8000 | 0x7E00 | bits >> 13 & 0x03FF).astype(np.uint16)
    else:
        stored = np.full(values.shape, 0x7E00, np.uint16)
    return np.where(nan, stored, halves).astype("<u2")


def make_blocks(name):
    if name in GGML_ONLY:
        number, _, size = GGML_ONLY[name]
    else:
        number = int(GGMLQuantizationType[name])
        size = GGML_QUANT_SIZES[GGMLQuantizationType[name]][1]
    # The legacy generator: its stream never changes between versions of numpy.
    rng = np.random.RandomState([SEED, number])
    scalars = {"F32": f32_words, "F16": f16_words, "BF16": bf16_words}
    if name in scalars:
        words = scalars[name](rng)
        # Ends off every vector length.
        words = words[: words.size - (words.size + 3) % 8]
        assert words.size % 8 == 5
        return words.astype(words.dtype.newbyteorder("<")).view(np.uint8)
    if name == "MXFP4":
        return mxfp4_blocks(size, rng)
    if name == "NVFP4":
        return nvfp4_blocks(size, rng)
    return factor_blocks(name, size, rng)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args().check
    OUT.mkdir(exist_ok=True)
    stale = []
    for name in ["F32", "F16", "BF16", "MXFP4", "NVFP4", "IQ1_M", *FACTORS]:
        raw = make_blocks(name)
        files = {f"{name}.blocks": raw.tobytes(), f"{name}.f16": expected_halves(name, raw).tobytes()}
        if name == "NVFP4":
            scaled = [expected_halves(name, raw, scale).tobytes() for scale in TENSOR_SCALES]
            files[f"{name}.scales"] = np.array(TENSOR_SCALES, "<f4").tobytes()
            files[f"{name}.scaled.f16"] = b"".join(scaled)
        for file, data in files.items():
            path = OUT / file
            if not check:
                path.write_bytes(data)
            elif not path.is_file() or path.read_bytes() != data:
                stale.append(path.name)
    if stale:
        sys.exit("not what this script writes: " + ", ".join(stale))


if __name__ == "__main__":
    main()
