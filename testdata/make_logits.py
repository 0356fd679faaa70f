#!/usr/bin/env python3
"""Writes logits.json: for each model of a folder a prompt and the logits of its last position.

usage: make_logits.py [FOLDER]      (default: models/; needs what make_decode_goldens.py needs)

The forward pass is numpy's in float64, over weights that gguf-py reads and dequantises. `last_logits` are
those of weights rounded to half precision, as the loader stores them, except RoPE factors. If a file has only
F32, F16 and BF16, `native_last_logits` are those of its weights as they are.
"""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T

from make_decode_goldens import GGML_ONLY, oracle_values

FLOATS = {T.F32, T.F16, T.BF16}
PROMPT_LENGTH = 12


def add_q2_0():
    """Adds the type that gguf-py's reader does not know."""
    number, *sizes = GGML_ONLY["Q2_0"]
    member = int.__new__(T, number)
    member._name_, member._value_ = "Q2_0", number
    T._value2member_map_[number] = member
    gguf.GGML_QUANT_SIZES[member] = tuple(sizes)


class Model:
    def __init__(self, path, *, rounded):
        reader = gguf.GGUFReader(path)
        self.fields = reader.fields
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        self.arch = self.fields["general.architecture"].contents()
        self.rounded = rounded

    def key(self, name, default=None):
        field = self.fields.get(f"{self.arch}.{name}")
        return default if field is None else field.contents()

    def weight(self, name):
        tensor = self.tensors[f"{name}.weight"]
        values = oracle_values(tensor.tensor_type.name, tensor.data).reshape(tensor.shape[::-1])
        if f"{name}.scale" in self.tensors:
            values = values * self.tensors[f"{name}.scale"].data
        if self.rounded and not name.startswith("rope_factors"):
            values = values.astype(np.float16)
        return values.astype(np.float64)

    def parts(self, fused, rows, split):
        """The parts of a fused tensor, or the tensors of a file where they are split."""
        if f"{split[0]}.weight" in self.tensors:
            return [self.weight(name) for name in split]
        return np.split(self.weight(fused), np.cumsum(rows)[:-1])


def norm(model, x, name):
    epsilon = model.key("attention.layer_norm_rms_epsilon")
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * model.weight(name)


def rotation(model, length, head_dim):
    """The complex number that turns each pair of elements, [position, 1, pair]."""
    pairs = model.key("rope.dimension_count", head_dim) // 2
    angles = model.key("rope.freq_base", 10000.0) ** (-np.arange(pairs) / pairs)
    original = model.key("rope.scaling.original_context_length", model.key("context_length"))
    factors = "rope_factors_long" if length > original else "rope_factors_short"
    if f"{factors}.weight" in model.tensors:
        angles = angles / model.weight(factors)
    turns = np.exp(1j * np.outer(np.arange(length), angles))
    return model.key("rope.scaling.attn_factor", 1.0) * turns[:, None, :]


def rotate(model, heads, turns):
    pairs = turns.shape[-1]
    if model.arch == "llama":
        real, imaginary = np.s_[..., 0 : 2 * pairs : 2], np.s_[..., 1 : 2 * pairs : 2]
    else:
        real, imaginary = np.s_[..., :pairs], np.s_[..., pairs : 2 * pairs]
    turned = (heads[real] + 1j * heads[imaginary]) * turns
    result = heads.copy()
    result[real], result[imaginary] = turned.real, turned.imag
    return result


def attention(model, blk, x):
    heads = model.key("attention.head_count")
    kv_heads = model.key("attention.head_count_kv", heads)
    head_dim = model.key("attention.key_length", model.key("embedding_length") // heads)
    rows = [heads * head_dim, kv_heads * head_dim, kv_heads * head_dim]
    q, k, v = model.parts(f"{blk}.attn_qkv", rows, [f"{blk}.attn_{name}" for name in "qkv"])
    turns = rotation(model, len(x), head_dim)
    queries = rotate(model, (x @ q.T).reshape(len(x), heads, head_dim), turns)
    keys = rotate(model, (x @ k.T).reshape(len(x), kv_heads, head_dim), turns)
    keys = keys.repeat(heads // kv_heads, axis=1)
    values = (x @ v.T).reshape(len(x), kv_heads, head_dim).repeat(heads // kv_heads, axis=1)
    scores = np.einsum("qhd,khd->hqk", queries, keys) / np.sqrt(head_dim)
    scores[:, np.triu(np.ones(scores.shape[1:], bool), 1)] = -np.inf
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    mixed = np.einsum("hqk,khd->qhd", shares, values).reshape(len(x), -1)
    return mixed @ model.weight(f"{blk}.attn_output").T


def feed_forward(model, blk, x):
    ffn = model.key("feed_forward_length")
    names = [f"{blk}.ffn_gate", f"{blk}.ffn_up"]
    gate, up = model.parts(f"{blk}.ffn_up", [ffn, ffn], names)
    gated = x @ gate.T
    return (gated / (1 + np.exp(-gated)) * (x @ up.T)) @ model.weight(f"{blk}.ffn_down").T


def last_logits(model, ids):
    x = model.weight("token_embd")[ids]
    for layer in range(model.key("block_count")):
        blk = f"blk.{layer}"
        x = x + attention(model, blk, norm(model, x, f"{blk}.attn_norm"))
        x = x + feed_forward(model, blk, norm(model, x, f"{blk}.ffn_norm"))
    output = "output" if "output.weight" in model.tensors else "token_embd"
    logits = norm(model, x[-1], "output_norm") @ model.weight(output).T
    return [float(f"{logit:.9g}") for logit in logits]


def reference(path):
    model = Model(path, rounded=True)
    vocab = int(model.tensors["token_embd.weight"].shape[1])
    ids = [(5 * i * i + 3 * i + 1) % vocab for i in range(PROMPT_LENGTH)]
    result = {"ids": ids, "last_logits": last_logits(model, ids)}
    if all(tensor.tensor_type in FLOATS for tensor in model.tensors.values()):
        result["native_last_logits"] = last_logits(Model(path, rounded=False), ids)
    return result


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "models"
    references = {path.name: reference(path) for path in sorted(folder.glob("*.gguf"))}
    rows = [f"{json.dumps(name)}: {json.dumps(of)}" for name, of in references.items()]
    (folder / "logits.json").write_text("{\n" + ",\n".join(rows) + "\n}\n")


add_q2_0()

if __name__ == "__main__":
    main()
