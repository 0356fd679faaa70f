#!/usr/bin/env python3
"""Writes checkpoints.json: for each model of a folder, shape and sha256 of the tensors of its Hugging Face checkpoint.

usage: make_checkpoints.py [FOLDER]      (default: models/; needs what make_decode_goldens.py needs)

The weights are those that gguf-py reads and dequantises, rounded to half precision. The names and the fused matrices
are those of `Phi3ForCausalLM`. compare_transformers.py shows that transformers computes the right logits with them.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

from make_logits import Model


def sha256(values):
    return hashlib.sha256(values.astype(np.float16).tobytes()).hexdigest()


def unpermuted(rows, heads):
    """The inverse of `LlamaModel.permute` of llama.cpp's converter."""
    return rows.reshape(heads, -1, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def tensors(model):
    heads = model.key("attention.head_count")
    kv_heads = model.key("attention.head_count_kv", heads)
    head_dim = model.key("attention.key_length", model.key("embedding_length") // heads)
    ffn = model.key("feed_forward_length")
    yield "model.embed_tokens", model.weight("token_embd")
    for layer in range(model.key("block_count")):
        blk, prefix = f"blk.{layer}", f"model.layers.{layer}"
        rows = [heads * head_dim, kv_heads * head_dim, kv_heads * head_dim]
        q, k, v = model.parts(f"{blk}.attn_qkv", rows, [f"{blk}.attn_{name}" for name in "qkv"])
        if model.arch == "llama":
            q, k = unpermuted(q, heads), unpermuted(k, kv_heads)
        gate, up = model.parts(f"{blk}.ffn_up", [ffn, ffn], [f"{blk}.ffn_gate", f"{blk}.ffn_up"])
        yield f"{prefix}.input_layernorm", model.weight(f"{blk}.attn_norm")
        yield f"{prefix}.self_attn.qkv_proj", np.concatenate([q, k, v])
        yield f"{prefix}.self_attn.o_proj", model.weight(f"{blk}.attn_output")
        yield f"{prefix}.post_attention_layernorm", model.weight(f"{blk}.ffn_norm")
        yield f"{prefix}.mlp.gate_up_proj", np.concatenate([gate, up])
        yield f"{prefix}.mlp.down_proj", model.weight(f"{blk}.ffn_down")
    yield "model.norm", model.weight("output_norm")
    if "output.weight" in model.tensors:
        yield "lm_head", model.weight("output")


def checkpoint(path):
    of_model = tensors(Model(path, rounded=True))
    return {
        f"{name}.weight": {"shape": list(values.shape), "sha256": sha256(values)}
        for name, values in of_model
    }


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "models"
    checkpoints = {path.name: checkpoint(path) for path in sorted(folder.glob("*.gguf"))}
    (folder / "checkpoints.json").write_text(json.dumps(checkpoints, indent=1) + "\n")


if __name__ == "__main__":
    main()
