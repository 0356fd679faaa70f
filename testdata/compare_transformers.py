#!/usr/bin/env python3
"""Loads the small models in transformers, from dumps with `--names hf`, and compares logits with logits.json.

usage: compare_transformers.py PROGRAM [FOLDER] [--device cpu|cuda]

PROGRAM is phi3-loader, FOLDER has models and logits.json (default: models/). Needs torch, transformers 4.56 or later,
safetensors, and what make_decode_goldens.py needs.

For each model: `load --dump DUMP --names hf`; `config.json` is the entry `config` of the dump. No weight may be missing
or unexpected, nor may transformers warn. It computes in F32. A difference is the norm of the difference divided by the
norm of the reference: at most 1e-5 is accepted. If one is not accepted, the exit code is 1.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from compare_llama_cpp import is_loadable
from make_logits import Model

ACCEPTED = 1e-5


def load(program, model, folder, device):
    """The model as transformers loads it, from files in an empty folder."""
    dump = folder / "model.safetensors"
    where = "cuda:0" if device == "cuda" else "host"
    command = [program, "load", model, "--device", where, "--quiet", "--dump", dump, "--names", "hf"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    with safe_open(dump, "pt") as file:
        (folder / "config.json").write_text(file.metadata()["config"])
    loaded, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    for faults in ["missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"]:
        assert not info[faults], f"{model}: {faults}: {info[faults]}"
    return loaded.to(device).eval()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent / "models")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    arguments = parser.parse_args()
    accepted = True
    for name, reference in json.loads((arguments.folder / "logits.json").read_text()).items():
        if not is_loadable(Model(arguments.folder / name, rounded=True)):
            print(f"{name}: not compared, because transformers checks RoPE factors with hidden / heads")
            continue
        with tempfile.TemporaryDirectory() as folder:
            model = load(arguments.program, arguments.folder / name, Path(folder), arguments.device)
        ids = torch.tensor([reference["ids"]], device=arguments.device)
        with torch.no_grad():
            logits = model(ids).logits[0, -1].double().cpu()
        right = torch.tensor(reference["last_logits"], dtype=torch.float64)
        difference = float((logits - right).norm() / right.norm())
        print(f"{type(model).__name__} {name}: {difference:.1e}")
        accepted = accepted and difference <= ACCEPTED
    raise SystemExit(0 if accepted else "a difference is too large")


if __name__ == "__main__":
    main()
