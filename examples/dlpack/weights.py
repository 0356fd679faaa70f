"""Weights of a Phi-3 model as tensors that share the loader's memory.

    model = Model("model.gguf", device="cuda:0")
    q = torch.from_dlpack(model.tensor("layers.0.attn_q"))

A tensor of PyTorch, NumPy or another consumer keeps the model in memory, also after `model.close()`. Do not write to
it: other tensors share the memory.

The environment variable PHI3_DLPACK is the path of the library. The default is a debug build in this folder.
"""

import ctypes
import dataclasses
import os
import weakref
from pathlib import Path

DEFAULT_LIBRARY = Path(__file__).parent / "target/debug/libphi3_dlpack.so"


class Error(Exception):
    """A call of the library failed. The text is the library's."""


@dataclasses.dataclass(frozen=True)
class Slot:
    """A weight's place and geometry. `shape` is in elements; `address` is on the device."""

    name: str
    ggml_type: str
    address: int
    bytes: int
    shape: tuple
    block_len: int
    block_bytes: int


class _SlotInfo(ctypes.Structure):
    """`SlotInfo` of the library. Its texts belong to the handle, so that a `Slot` copies them."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("ggml_type", ctypes.c_char_p),
        ("address", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64),
        ("shape", ctypes.c_uint64 * 2),
        ("ndim", ctypes.c_uint64),
        ("block_len", ctypes.c_uint64),
        ("block_bytes", ctypes.c_uint64),
    ]

    def slot(self):
        return Slot(
            name=self.name.decode(),
            ggml_type=self.ggml_type.decode(),
            address=self.address,
            bytes=self.bytes,
            shape=tuple(self.shape[: self.ndim]),
            block_len=self.block_len,
            block_bytes=self.block_bytes,
        )


class _Device(ctypes.Structure):
    _fields_ = [("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32)]


def _load_library(path):
    library = ctypes.CDLL(str(path))
    handle, tensor = ctypes.c_void_p, ctypes.c_void_p
    text, size = ctypes.c_char_p, ctypes.c_size_t
    for name, result, arguments in [
        ("phi3_open", handle, [text, text, text]),
        ("phi3_close", None, [handle]),
        ("phi3_free", None, [handle]),
        ("phi3_last_error", text, []),
        ("phi3_device", _Device, [handle]),
        ("phi3_slot_count", size, [handle]),
        ("phi3_slot", ctypes.c_bool, [handle, size, ctypes.POINTER(_SlotInfo)]),
        ("phi3_references", size, [handle]),
        ("phi3_dlpack", tensor, [handle, size]),
        ("phi3_delete", None, [tensor]),
        ("phi3_use_python", ctypes.c_bool, [ctypes.c_void_p, ctypes.c_void_p]),
    ]:
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    python = ctypes.pythonapi
    library.phi3_use_python(
        ctypes.cast(python.PyCapsule_IsValid, ctypes.c_void_p),
        ctypes.cast(python.PyCapsule_GetPointer, ctypes.c_void_p),
    )
    return library


# An own copy of the function, because other modules may set other types for `ctypes.pythonapi.PyCapsule_New`.
_new_capsule = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)(
    ("PyCapsule_New", ctypes.pythonapi)
)


class Model:
    """A loaded model. `device` is "host", "auto", "cuda" or "cuda:N"; `storage` is "f16" or "native"."""

    def __init__(self, path, device="auto", storage="f16", library=None):
        self._library = _load_library(library or os.environ.get("PHI3_DLPACK", DEFAULT_LIBRARY))
        arguments = [os.fsencode(path), device.encode(), storage.encode()]
        self._handle = self._library.phi3_open(*arguments)
        if not self._handle:
            raise self._error()
        weakref.finalize(self, self._library.phi3_free, self._handle)
        device = self._library.phi3_device(self._handle)
        self.device = (device.device_type, device.device_id)
        self._slots = {}
        for index in range(self._library.phi3_slot_count(self._handle)):
            info = _SlotInfo()
            if not self._library.phi3_slot(self._handle, index, info):
                raise self._error()
            slot = info.slot()
            self._slots[slot.name] = (index, slot)

    def slots(self):
        """Returns the geometry of all weights, by name."""
        return {name: slot for name, (_, slot) in self._slots.items()}

    def tensor(self, name):
        """Returns a weight for a consumer's `from_dlpack`. It raises KeyError if the model has no such weight."""
        index, _ = self._slots[name]
        return Tensor(self, index)

    def references(self):
        """Returns the number of references to the loaded model: 1 until `close`, and 1 for each consumer's tensor."""
        return self._library.phi3_references(self._handle)

    def close(self):
        """Gives up this object's reference. The last tensor of a consumer then frees the model."""
        self._library.phi3_close(self._handle)

    def _capsule(self, index):
        tensor = self._library.phi3_dlpack(self._handle, index)
        if not tensor:
            raise self._error()
        name = ctypes.addressof(ctypes.c_char.in_dll(self._library, "PHI3_CAPSULE_NAME"))
        destructor = ctypes.cast(self._library.phi3_capsule_destructor, ctypes.c_void_p)
        try:
            return _new_capsule(tensor, name, destructor)
        except BaseException:
            self._library.phi3_delete(tensor)
            raise

    def _error(self):
        return Error(self._library.phi3_last_error().decode())


class Tensor:
    """A weight that consumers of DLPack accept. Floats keep their shape; blocks are bytes, [rows, bytes of a row]."""

    def __init__(self, model, index):
        self._model = model
        self._index = index

    def __dlpack_device__(self):
        return self._model.device

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        # The weights are complete for every stream, so that `stream` does not matter.
        if max_version is None or max_version[0] < 1:
            raise BufferError("the consumer must accept DLPack 1.0 or newer: older tensors cannot be read-only")
        if dl_device is not None and tuple(dl_device) != self._model.device:
            raise BufferError(f"the weight is on device {self._model.device}, not on {tuple(dl_device)}")
        if copy:
            raise BufferError("this exporter makes no copies: copy the consumer's tensor")
        return self._model._capsule(self._index)
