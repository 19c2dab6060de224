"""Reads what a torch pickle describes without doing what it says.

Unpickling calls whatever the pickle names. Here no name is ever imported: the few that torch.save writes for tensors
lead to records of our own, other classes (a config object saved beside the weights) to empty stand-ins, and names of
the standard library that have no business in a checkpoint, such as ``os.system``, refuse the file.
"""

import collections
import dataclasses
import pickle
import sys
from typing import Any, ClassVar

import ml_dtypes
import numpy as np

from unitok_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Storage:
    """A run of `size` numbers in the file."""

    key: str
    dtype: np.dtype
    size: int


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A view of a storage; offset and strides count numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class StandIn(dict):
    """Stands for an object of a class that is not known: takes what the pickle hands it, does nothing."""

    __hash__ = object.__hash__

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass

    def extend(self, items: Any) -> None:
        pass

    def add(self, item: Any) -> None:
        pass


class InertUnpickler(pickle.Unpickler):
    """An unpickler that imports and calls nothing but what stands in this file.

    Raises:
        UserError: from `load`, for a pickle that names code.
    """

    # classes of the standard library that people's checkpoints hold; all but the first are replaced by stand-ins
    harmless: ClassVar = {
        "collections": ("OrderedDict", "defaultdict", "Counter", "deque"),
        "argparse": ("Namespace",),
        "types": ("SimpleNamespace",),
        "pathlib": ("Path", "PosixPath", "PurePath", "PurePosixPath", "WindowsPath"),
        "datetime": ("datetime", "date", "time", "timedelta", "timezone"),
        "_codecs": ("encode",),
        "copyreg": ("_reconstructor",),
        "copy_reg": ("_reconstructor",),
        "builtins": ("set", "frozenset", "list", "dict", "tuple", "int", "float", "complex", "bool", "str", "bytes",
                     "bytearray", "slice", "range", "object"),
        "__builtin__": ("set", "frozenset", "list", "dict", "tuple", "int", "long", "float", "complex", "bool", "str",
                        "unicode", "bytearray", "slice", "object"),
    }  # fmt: skip

    def __init__(self, file: Any, storages: dict[str, Storage] | None = None):
        super().__init__(file, encoding="utf-8")
        self._storages = {} if storages is None else storages

    def find_class(self, module: str, name: str) -> Any:
        known = KNOWN.get(f"{module}.{name}")
        if known is not None:
            return known
        top = module.split(".")[0]
        standard = top in sys.stdlib_module_names or top in ("__builtin__", "copy_reg", "nt", "posix", "__main__")
        if standard and top != "__main__" and name not in self.harmless.get(module, ()):
            raise UserError(f"holds code ({module}.{name}), which is never run; save its state dict as safetensors")
        return StandIn

    def persistent_load(self, pid: Any) -> Storage:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], np.dtype):
            raise UserError("names a storage in a way that torch.save does not")
        storage = Storage(str(pid[2]), pid[1], int(pid[4]))
        return self._storages.setdefault(storage.key, storage)


def _rebuild_tensor(storage: Storage, offset: int, shape: tuple, strides: tuple, *_: Any) -> Tensor:
    if not isinstance(storage, Storage):
        raise UserError("builds a tensor from something that is not a storage")
    return Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def _rebuild_tensor_v3(
    storage: Storage, offset: int, shape: tuple, strides: tuple, grad: bool, hooks: Any, dtype: np.dtype, *_: Any
) -> Tensor:
    size = storage.size * storage.dtype.itemsize // dtype.itemsize
    return _rebuild_tensor(Storage(storage.key, dtype, size), offset, shape, strides)


def _rebuild_parameter(data: Tensor, *_: Any) -> Tensor:
    return data


def _rebuild_from_type(rebuild: Any, kind: Any, args: tuple, state: Any) -> Tensor:
    if rebuild not in (_rebuild_tensor, _rebuild_tensor_v3, _rebuild_parameter):
        raise UserError("builds a tensor of an unknown kind")
    return rebuild(*args)


def _size(*args: Any) -> tuple:
    return tuple(args[0]) if args else ()


STORAGES = {
    "Double": np.float64, "Float": np.float32, "Half": np.float16, "BFloat16": ml_dtypes.bfloat16,
    "Long": np.int64, "Int": np.int32, "Short": np.int16, "Char": np.int8, "Byte": np.uint8, "Bool": np.bool_,
    "ComplexFloat": np.complex64, "ComplexDouble": np.complex128, "Untyped": np.uint8,
}  # fmt: skip
DTYPES = {
    "float64": np.float64, "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16,
    "int64": np.int64, "int32": np.int32, "int16": np.int16, "int8": np.int8, "bool": np.bool_,
    "uint8": np.uint8, "uint16": np.uint16, "uint32": np.uint32, "uint64": np.uint64,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn, "float8_e5m2": ml_dtypes.float8_e5m2,
}  # fmt: skip
KNOWN: dict[str, Any] = {
    "collections.OrderedDict": collections.OrderedDict,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    "torch.Size": _size,
    "torch.storage.UntypedStorage": np.dtype(np.uint8),
    **{f"torch.{name}Storage": np.dtype(dtype) for name, dtype in STORAGES.items()},
    **{f"torch.{name}": np.dtype(dtype) for name, dtype in DTYPES.items()},
}
