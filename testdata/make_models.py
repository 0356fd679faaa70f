#!/usr/bin/env python3
"""Writes the small models of models/ and what each of their weight slots must become.

usage: python3 testdata/make_models.py        (needs what make_decode_goldens.py needs; run make_logits.py after it)

The oracle is gguf-py, llama.cpp's own writer, reader and dequantiser, and ggml itself for the types
that it cannot decode: expected.json holds, for each slot, its shape and the sha256 of its bytes as f16
(round to nearest even) and as stored. A slot that is there under one storage only has only one of the
two. The values
are random with a fixed seed; block scales are kept small so that no value is infinite or NaN (those
are the decode goldens' business).
"""

import hashlib
import json
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T

from make_decode_goldens import GGML_ONLY, oracle_values


OUT = Path(__file__).parent / "models"
RNG = np.random.default_rng(20261122)


class UnknownToGgufPy(int):
    """The number of such a type, as gguf-py's writer takes types."""

    name = "Q2_0"


Q2_0 = UnknownToGgufPy(GGML_ONLY["Q2_0"][0])
gguf.GGML_QUANT_SIZES[Q2_0] = GGML_ONLY["Q2_0"][1:]

# Bytes of each block that hold f16 scales.
SCALES = {Q2_0: [0], T.Q1_0: [0], T.Q4_0: [0], T.Q8_0: [0], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208]}

# The second scale of a block, divided by the first. Weights then have both signs. If gate and up had only positive ones,
# the logits would not show that they are exchanged.
SECOND_SCALES = {T.Q4_K: 7.5, T.Q5_K: 15.5}


def raw(kind, rows, cols):
    """Random stored bytes of a [rows, cols] tensor."""
    if kind == T.F32:
        return RNG.uniform(-2, 2, (rows, cols)).astype(np.float32)
    if kind == T.F16:
        return RNG.uniform(-2, 2, (rows, cols)).astype(np.float16)
    if kind == T.BF16:
        bits = RNG.uniform(-2, 2, (rows, cols)).astype(np.float32).view(np.uint32) >> 16
        return bits.astype(np.uint16).view(np.uint8)
    block_len, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = RNG.integers(0, 256, (rows * cols // block_len, block_bytes), dtype=np.uint8)
    if kind == T.NVFP4:
        # Scales from 2^-7 to 2^-4.
        blocks[:, :4] = RNG.integers(0, 32, (len(blocks), 4), dtype=np.uint8)
    for at in SCALES.get(kind, []):
        scales = RNG.uniform(2.0**-9, 2.0**-6, len(blocks)).astype(np.float16)
        blocks[:, at : at + 2] = scales.view(np.uint8).reshape(-1, 2)
    if kind in SECOND_SCALES:
        scales = blocks[:, :2].copy().view(np.float16) * SECOND_SCALES[kind]
        blocks[:, 2:4] = scales.astype(np.float16).view(np.uint8)
    return blocks.reshape(rows, cols // block_len * block_bytes)


def sha256(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


class Model:
    def __init__(self, name, arch, *, hidden, ffn, heads, kv_heads, head_dim, vocab, layers, rope_dim, types, split=False,
                 tied=False, factors=False, original_context=None, attn_factor=None, alignment=None, input_scales=()):
        self.path = OUT / f"{name}.gguf"
        self.writer = gguf.GGUFWriter(self.path, arch)
        self.types = types
        self.input_scales = input_scales
        self.slots = {}
        self.stored = {}
        writer = self.writer
        if alignment:
            writer.add_custom_alignment(alignment)
        writer.add_name(name)
        writer.add_context_length(4096)
        writer.add_embedding_length(hidden)
        writer.add_feed_forward_length(ffn)
        writer.add_block_count(layers)
        writer.add_head_count(heads)
        writer.add_head_count_kv(kv_heads)
        if head_dim * heads != hidden:
            writer.add_key_length(head_dim)
            writer.add_value_length(head_dim)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_rope_dimension_count(rope_dim)
        writer.add_rope_freq_base(10000.0)
        if original_context:
            writer.add_rope_scaling_orig_ctx_len(original_context)
        if attn_factor:
            writer.add_rope_scaling_attn_factors(attn_factor)
        q, kv = heads * head_dim, kv_heads * head_dim
        self.tensor("token_embd.weight", vocab, hidden, {"token_embedding": (0, vocab)})
        if factors:
            for which in ("long", "short"):
                self.vector(f"rope_factors_{which}.weight", rope_dim // 2, f"rope_factors_{which}", keep_f32=True)
        for i in range(layers):
            blk, slot = f"blk.{i}.", f"layers.{i}."
            self.vector(blk + "attn_norm.weight", hidden, slot + "attn_norm")
            if split:
                self.tensor(blk + "attn_q.weight", q, hidden, {slot + "attn_q": (0, q)})
                self.tensor(blk + "attn_k.weight", kv, hidden, {slot + "attn_k": (0, kv)})
                self.tensor(blk + "attn_v.weight", kv, hidden, {slot + "attn_v": (0, kv)})
            else:
                rows = {slot + "attn_q": (0, q), slot + "attn_k": (q, q + kv), slot + "attn_v": (q + kv, q + 2 * kv)}
                self.tensor(blk + "attn_qkv.weight", q + 2 * kv, hidden, rows)
            self.tensor(blk + "attn_output.weight", hidden, q, {slot + "attn_output": (0, hidden)})
            self.vector(blk + "ffn_norm.weight", hidden, slot + "ffn_norm")
            if split:
                self.tensor(blk + "ffn_gate.weight", ffn, hidden, {slot + "ffn_gate": (0, ffn)})
                self.tensor(blk + "ffn_up.weight", ffn, hidden, {slot + "ffn_up": (0, ffn)})
            else:
                rows = {slot + "ffn_gate": (0, ffn), slot + "ffn_up": (ffn, 2 * ffn)}
                self.tensor(blk + "ffn_up.weight", 2 * ffn, hidden, rows)
            self.tensor(blk + "ffn_down.weight", hidden, ffn, {slot + "ffn_down": (0, hidden)})
        self.vector("output_norm.weight", hidden, "output_norm")
        if tied:
            self.slots["output"] = self.slots["token_embedding"]
        else:
            self.tensor("output.weight", vocab, hidden, {"output": (0, vocab)})
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    def kind_of(self, name):
        stem = name.removesuffix(".weight").split(".")[-1]
        return self.types.get(stem, self.types["default"])

    def tensor(self, name, rows, cols, slots):
        kind = self.kind_of(name)
        data = raw(kind, rows, cols)
        self.writer.add_tensor(name, data, raw_dtype=kind)
        stem = name.removesuffix(".weight")
        scale = None
        if kind == T.NVFP4:
            scale = self.scale(f"{stem}.scale", [f"{slot}.scale" for slot in slots])
            if stem.split(".")[-1] in self.input_scales:
                self.scale(f"{stem}.input_scale", [f"{slot}.input_scale" for slot in slots])
        for slot, (low, high) in slots.items():
            self.expect(slot, name, kind, data[low:high], scale=scale)

    def scale(self, name, slots):
        data = RNG.uniform(0.5, 2, 1).astype(np.float32)
        self.writer.add_tensor(name, data, raw_dtype=T.F32)
        for slot in slots:
            self.slots[slot] = {
                "shape": [1],
                "dtype": "F32",
                "file_tensor": name,
                "file_type": "F32",
                "native_sha256": sha256(data),
            }
        return data[0]

    def vector(self, name, length, slot, keep_f32=False):
        data = RNG.uniform(0.5, 2, length).astype(np.float32)
        self.writer.add_tensor(name, data, raw_dtype=T.F32)
        self.expect(slot, name, T.F32, data, keep_f32)

    def expect(self, slot, tensor, kind, data, keep_f32=False, scale=None):
        values = oracle_values(kind.name, data)
        if data.ndim > 1:
            values = values.reshape(len(data), -1)
        if scale is not None:
            values = values * scale
        decoded = values if keep_f32 else values.astype(np.float16)
        self.slots[slot] = {
            "shape": list(decoded.shape),
            "dtype": "F32" if keep_f32 else "F16",
            "file_tensor": tensor,
            "file_type": kind.name,
            "sha256": sha256(decoded),
            "native_sha256": sha256(data),
        }


def main():
    OUT.mkdir(exist_ok=True)
    models = [
        Model("fused-f16", "phi3", hidden=32, ffn=64, heads=2, kv_heads=2, head_dim=16, vocab=37, layers=3, rope_dim=16,
              types={"default": T.F16}),
        Model("fused-k-quants", "phi3", hidden=256, ffn=256, heads=2, kv_heads=1, head_dim=128, vocab=11, layers=1, rope_dim=128,
              types={"default": T.Q4_K, "attn_qkv": T.Q5_K, "ffn_down": T.Q6_K, "output": T.Q6_K}),
        Model("split-q8_0", "llama", hidden=64, ffn=96, heads=4, kv_heads=4, head_dim=16, vocab=19, layers=2, rope_dim=16,
              types={"default": T.Q8_0, "token_embd": T.Q4_0}, split=True),
        Model("tied-gqa-bf16", "phi3", hidden=48, ffn=80, heads=3, kv_heads=1, head_dim=24, vocab=23, layers=2, rope_dim=12,
              types={"default": T.BF16, "ffn_down": T.F32}, tied=True, factors=True, alignment=64),
        Model("split-phi3-f16", "phi3", hidden=32, ffn=48, heads=2, kv_heads=2, head_dim=16, vocab=13, layers=1, rope_dim=16,
              types={"default": T.F16}, split=True, alignment=8),
        Model("nvfp4-scales", "phi3", hidden=64, ffn=128, heads=2, kv_heads=1, head_dim=32, vocab=17, layers=1, rope_dim=32,
              types={"default": T.NVFP4, "token_embd": T.F16}, input_scales=("attn_qkv", "ffn_down")),
        Model("one-and-two-bits", "phi3", hidden=128, ffn=128, heads=2, kv_heads=2, head_dim=64, vocab=9, layers=1, rope_dim=64,
              types={"default": Q2_0, "ffn_up": T.Q1_0, "output": T.Q1_0}),
        Model("long-context-f16", "phi3", hidden=16, ffn=24, heads=2, kv_heads=1, head_dim=8, vocab=13, layers=2, rope_dim=6,
              types={"default": T.F16}, factors=True, original_context=8, attn_factor=1.25),
    ]
    expected = {model.path.name: model.slots for model in models}
    (OUT / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
