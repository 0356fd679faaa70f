"""Times safetensors' load_file to a CUDA device and prints one JSON document.

Arguments: FILE DEVICE RUNS. Without arguments, prints only the versions.
"""

import json
import sys
import time

import safetensors
import torch
from safetensors.torch import load_file

answer = {
    "version": f"safetensors {safetensors.__version__}, PyTorch {torch.__version__}",
    "cuda": torch.cuda.is_available(),
}
if len(sys.argv) > 1:
    path, device, runs = sys.argv[1], sys.argv[2], int(sys.argv[3])
    # Create the context and do all other work of a first use before the measured time.
    torch.zeros(1, device=device)
    load_file(path, device=device)
    torch.cuda.synchronize(device)
    answer["seconds"] = []
    for _ in range(runs):
        torch.cuda.empty_cache()
        start = time.perf_counter()
        weights = load_file(path, device=device)
        torch.cuda.synchronize(device)
        answer["seconds"].append(time.perf_counter() - start)
        del weights
print(json.dumps(answer))
