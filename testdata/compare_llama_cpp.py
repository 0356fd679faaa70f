#!/usr/bin/env python3
"""Compares the logits of a logits.json with those of llama.cpp, in the library that xllamacpp brings.

usage: compare_llama_cpp.py [FOLDER]      (default: models/; needs what make_decode_goldens.py needs)

"as F32": llama.cpp computes with an F32 copy of the model. The copy has the weights that a load to half
precision gives. Only the precision of the computation differs: at most 1e-5 is accepted.

"as it is": llama.cpp reads the file itself, if that has a tokenizer. llama.cpp keeps norms in F32, and rounds
activations to 8 bits if weights are quantised: at most 3e-2 is accepted.

A difference is the norm of the difference divided by the norm of the reference. If one is not accepted, the
exit code is 1.
"""

import ctypes
import json
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import gguf
import numpy as np

from make_logits import Model

AS_F32, AS_IT_IS = 1e-5, 3e-2
# llama.cpp chooses RoPE factors by the size of its context, not by the length of the prompt. This is the least size.
CONTEXT = 256


class Parameters(ctypes.Structure):
    """The parameters of a model or of a context, with more room than they need."""

    _fields_ = [("words", ctypes.c_int32 * 64)]


# Words of a context's parameters in xllamacpp 2026.10.11549, and their defaults.
N_CTX, FLASH_ATTENTION, TYPE_K, TYPE_V = 0, 13, 26, 27
DEFAULTS = [512, -1, 1, 1]


class Batch(ctypes.Structure):
    """`llama_batch`."""

    _fields_ = [("count", ctypes.c_int32), ("arrays", ctypes.c_void_p * 6)]


LOG_NOTHING = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)


def open_library():
    folder = Path(find_spec("xllamacpp").origin).parent
    llama = ctypes.CDLL(str(next(folder.glob("xllamacpp*.so"))))
    signatures = {
        "llama_log_set": (None, type(LOG_NOTHING), ctypes.c_void_p),
        "llama_model_default_params": (Parameters,),
        "llama_context_default_params": (Parameters,),
        "llama_model_load_from_file": (ctypes.c_void_p, ctypes.c_char_p, Parameters),
        "llama_model_free": (None, ctypes.c_void_p),
        "llama_init_from_model": (ctypes.c_void_p, ctypes.c_void_p, Parameters),
        "llama_free": (None, ctypes.c_void_p),
        "llama_batch_get_one": (Batch, ctypes.POINTER(ctypes.c_int32), ctypes.c_int32),
        "llama_decode": (ctypes.c_int, ctypes.c_void_p, Batch),
        "llama_get_logits_ith": (ctypes.POINTER(ctypes.c_float), ctypes.c_void_p, ctypes.c_int32),
    }
    for name, (result, *arguments) in signatures.items():
        function = getattr(llama, name)
        function.restype, function.argtypes = result, arguments
    llama.llama_log_set(LOG_NOTHING, None)
    return llama


def last_logits(llama, path, ids, vocab):
    model = llama.llama_model_load_from_file(str(path).encode(), llama.llama_model_default_params())
    if not model:
        sys.exit(f"llama.cpp does not load {path}")
    parameters = llama.llama_context_default_params()
    words = parameters.words
    assert [words[at] for at in (N_CTX, FLASH_ATTENTION, TYPE_K, TYPE_V)] == DEFAULTS, "another xllamacpp"
    words[N_CTX] = CONTEXT
    # No flash attention, and a cache in F32.
    words[FLASH_ATTENTION] = words[TYPE_K] = words[TYPE_V] = 0
    context = llama.llama_init_from_model(model, parameters)
    tokens = (ctypes.c_int32 * len(ids))(*ids)
    if llama.llama_decode(context, llama.llama_batch_get_one(tokens, len(ids))) != 0:
        sys.exit(f"llama.cpp does not decode with {path}")
    logits = np.array(llama.llama_get_logits_ith(context, -1)[:vocab])
    llama.llama_free(context)
    llama.llama_model_free(model)
    return logits


def is_loadable(model):
    hidden, heads = model.key("embedding_length"), model.key("attention.head_count")
    head_dim = model.key("attention.key_length", hidden // heads)
    return model.arch != "phi3" or heads * head_dim == hidden


def write_as_f32(model, copy):
    writer = gguf.GGUFWriter(copy, model.arch)
    for name, field in model.fields.items():
        if name.startswith(f"{model.arch}."):
            writer.add_key_value(name, field.contents(), field.types[0])
    writer.add_tokenizer_model("no_vocab")
    if model.key("vocab_size") is None:
        writer.add_vocab_size(int(model.tensors["token_embd.weight"].shape[1]))
    weights = {name: model.weight(name[:-7]) for name in model.tensors if name.endswith(".weight")}
    if model.arch == "phi3":
        # llama.cpp reads gate and up of this architecture from one tensor only.
        for gate in [name for name in weights if name.endswith("ffn_gate.weight")]:
            up = gate.replace("ffn_gate", "ffn_up")
            weights[up] = np.concatenate([weights.pop(gate), weights[up]])
    for name, values in weights.items():
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "models"
    llama = open_library()
    accepted = True

    def compare(path, reference, what, tolerance):
        nonlocal accepted
        right = np.array(reference["last_logits"])
        error = last_logits(llama, path, reference["ids"], len(right)) - right
        difference = np.linalg.norm(error) / np.linalg.norm(right)
        print(f"{path.name} {what}: {difference:.1e}")
        accepted = accepted and difference <= tolerance

    for name, reference in json.loads((folder / "logits.json").read_text()).items():
        model = Model(folder / name, rounded=True)
        if not is_loadable(model):
            print(f"{name}: not compared, because llama.cpp needs heads * head_dim = hidden in phi3")
            continue
        with tempfile.TemporaryDirectory() as temporary:
            copy = Path(temporary) / name
            write_as_f32(model, copy)
            compare(copy, reference, "as F32", AS_F32)
        if "tokenizer.ggml.model" in model.fields:
            compare(folder / name, reference, "as it is", AS_IT_IS)
    sys.exit(0 if accepted else "a difference is too large")


if __name__ == "__main__":
    main()
