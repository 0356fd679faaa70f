"""Checks the tensors of weights.py with the consumers that are installed: PyTorch and, for host memory, NumPy.

usage: python3 check.py [--library FILE] [--device host|cuda:N] [--storage f16|native]... [MODEL...]

Without MODEL, all models of testdata/models are checked; gguf-py computed the digests of their weights. The bytes of
other models are not compared. Prints a line for each check and exits with 1 if one fails.
"""

import argparse
import gc
import hashlib
import json
import sys
from pathlib import Path

import numpy
import weights

try:
    import torch
except ImportError:
    torch = None

MODELS = Path(__file__).parent / "../../testdata/models"
HAND_OVERS = 1000
failures = 0
noted = set()


def check(what, passed, detail=""):
    """Prints the result of a check."""
    global failures
    failures += not passed
    print(f"{'ok    ' if passed else 'FAILED'} {what}{': ' if detail else ''}{detail}", flush=True)


class Torch:
    name = "torch"

    def take(tensor):
        return torch.from_dlpack(tensor)

    def address(taken):
        return taken.data_ptr()

    def data(taken):
        # The view makes bytes of any element type, also of those that NumPy does not have.
        return taken.contiguous().view(torch.uint8).cpu().numpy().tobytes()

    def accepts(slot):
        return True

    def enforces_read_only(taken):
        # Writes the same value, so that the weights stay as they are.
        try:
            taken.view(-1)[:1] = taken.view(-1)[:1].clone()
        except RuntimeError:
            return True
        return False


class Numpy:
    name = "numpy"

    def take(tensor):
        return numpy.from_dlpack(tensor)

    def address(taken):
        return taken.ctypes.data

    def data(taken):
        return taken.tobytes()

    def accepts(slot):
        return slot.ggml_type != "BF16"

    def enforces_read_only(taken):
        return not taken.flags.writeable


def expected_shape(slot):
    """The shape of the tensor: bytes for blocks, elements for floats."""
    if slot.ggml_type in ("F16", "BF16", "F32", "F64"):
        return slot.shape
    if len(slot.shape) == 2:
        return (slot.shape[0], slot.bytes // slot.shape[0])
    return (slot.bytes,)


def check_slots(where, model, consumer, digests):
    """Compares place, shape and bytes of all slots."""
    moved, misshapen, different, refused = [], [], [], []
    slots = model.slots()
    for name, slot in slots.items():
        if not consumer.accepts(slot):
            refused.append(name)
            continue
        taken = consumer.take(model.tensor(name))
        if consumer.address(taken) != slot.address:
            moved.append(name)
        if tuple(taken.shape) != expected_shape(slot):
            misshapen.append(name)
        data = consumer.data(taken)
        if len(data) != slot.bytes or digests and hashlib.sha256(data).hexdigest() != digests[name]:
            different.append(name)
    note = f", {len(refused)} of bf16 are refused" if refused else ""
    count = f"{len(slots) - len(refused)} slots{note}"
    check(f"{where}: the tensors are at the addresses of the slots", not moved, ", ".join(moved) or count)
    check(f"{where}: the tensors have the shapes of the slots", not misshapen, ", ".join(misshapen) or count)
    what = "the bytes have the digests of gguf-py" if digests else "the lengths are right (no digests for this model)"
    check(f"{where}: {what}", not different, ", ".join(different) or count)
    if digests:
        check(f"{where}: all expected slots exist", set(slots) == set(digests))


def check_refusals(where, model, consumer):
    """Hands weights to a consumer that does not know the type of their elements."""
    for name, slot in model.slots().items():
        if consumer.accepts(slot):
            continue
        try:
            consumer.take(model.tensor(name))
            refusal = None
        except (BufferError, RuntimeError) as error:
            refusal = str(error)
        references = model.references()
        what = f"{where}: {name} is refused, which leaves 1 reference"
        check(what, refusal and references == 1, f"{refusal} {references}")


def note_read_only(consumer, tensor):
    """Prints once whether a consumer enforces that tensors are read-only. PyTorch 2.11 does not, so it is no check."""
    if consumer not in noted:
        noted.add(consumer)
        enforces = consumer.enforces_read_only(consumer.take(tensor))
        print(f"note   {consumer.name} {'enforces' if enforces else 'does not enforce'} that tensors are read-only")


def check_hand_overs(where, model, consumer, name, free_memory):
    """Hands a weight over many times."""
    before = free_memory()
    for _ in range(HAND_OVERS):
        consumer.take(model.tensor(name))
    gc.collect()
    after = free_memory()
    references = model.references()
    check(f"{where}: {HAND_OVERS} hand-overs leave 1 reference", references == 1, f"{references}")
    if before is not None:
        check(f"{where}: {HAND_OVERS} hand-overs leave the free memory as it was", after == before, f"{before} B, {after} B")


def check_capsules(where, model, name):
    """Makes capsules that no consumer takes."""
    tensor = model.tensor(name)
    for _ in range(HAND_OVERS):
        tensor.__dlpack__(max_version=(1, 0))
    references = model.references()
    check(f"{where}: {HAND_OVERS} unused capsules leave 1 reference", references == 1, f"{references}")

    try:
        # Python drops the capsule while the ValueError is set.
        (tensor.__dlpack__(max_version=(1, 0)), int("no number"))
        caught = False
    except ValueError:
        caught = True
    check(f"{where}: an exception frees an unused capsule and stays", caught and model.references() == 1)

    for what, arguments in [
        ("a consumer of unversioned tensors", {}),
        ("a copy", {"max_version": (1, 0), "copy": True}),
        ("another device", {"max_version": (1, 0), "dl_device": (2, 77)}),
    ]:
        try:
            tensor.__dlpack__(**arguments)
            check(f"{where}: {what} is refused", False)
        except BufferError as error:
            check(f"{where}: {what} is refused", True, str(error))


def check_life(where, model, consumer, name, digests, free_memory, free_before_load):
    """Closes the model while a tensor lives, and then drops the tensor."""
    taken = consumer.take(model.tensor(name))
    again = consumer.take(model.tensor(name))
    model.close()
    references = model.references()
    check(f"{where}: a closed model lives while tensors live", references == 2, f"{references} references")
    if digests:
        same = hashlib.sha256(consumer.data(taken)).hexdigest() == digests[name]
        check(f"{where}: the bytes are still the same", same)
    try:
        model.tensor(name).__dlpack__(max_version=(1, 0))
        check(f"{where}: a closed model hands no tensor over", False)
    except weights.Error as error:
        check(f"{where}: a closed model hands no tensor over", True, str(error))
    del again
    kept = model.references()
    del taken
    references = model.references()
    check(f"{where}: the last tensor frees the model", (kept, references) == (1, 0), f"{kept}, then {references}")
    if free_before_load is not None:
        after = free_memory()
        detail = f"{free_before_load} B before the load, {after} B after"
        check(f"{where}: all device memory is free again", after == free_before_load, detail)


def check_model(path, device, storage, consumer, library, digests):
    where = f"{path.name}, {device}, {storage}, {consumer.name}"

    def free_memory():
        if not device.startswith("cuda"):
            return None
        torch.cuda.synchronize()
        return torch.cuda.mem_get_info(device)[0]

    if device.startswith("cuda"):
        # The first load and the first tensor also set up CUDA and PyTorch, which keep that memory.
        model = weights.Model(path, device, storage, library)
        consumer.data(consumer.take(model.tensor(next(iter(model.slots())))))
        model.close()
        torch.cuda.empty_cache()
    free_before_load = free_memory()
    model = weights.Model(path, device, storage, library)
    # Every model has this weight, and every consumer knows the type of its elements.
    name = "output_norm"
    check_slots(where, model, consumer, digests)
    check_refusals(where, model, consumer)
    note_read_only(consumer, model.tensor(name))
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    check_hand_overs(where, model, consumer, name, free_memory)
    check_capsules(where, model, name)
    check_life(where, model, consumer, name, digests, free_memory, free_before_load)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--library")
    parser.add_argument("--device", default="host")
    parser.add_argument("--storage", action="append", choices=["f16", "native"])
    parser.add_argument("models", nargs="*", type=Path, metavar="MODEL")
    arguments = parser.parse_args()
    expected = json.loads((MODELS / "expected.json").read_text())
    models = arguments.models or [MODELS / name for name in expected]
    cuda = arguments.device.startswith("cuda")
    consumers = [consumer for consumer, usable in [(Torch, torch), (Numpy, not cuda)] if usable]
    versions = [f"numpy {numpy.__version__}", f"torch {torch.__version__}" if torch else "no torch"]
    print(f"python {sys.version.split()[0]}, {', '.join(versions)}")
    if not consumers:
        sys.exit("no consumer for this device: install torch")
    for path in models:
        for storage in arguments.storage or ["f16", "native"]:
            key = "sha256" if storage == "f16" else "native_sha256"
            slots = expected.get(path.name, {})
            digests = {name: slot[key] for name, slot in slots.items() if slot.get(key)}
            for consumer in consumers:
                check_model(path, arguments.device, storage, consumer, arguments.library, digests)
    print(f"{failures} checks failed" if failures else "all checks passed")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
