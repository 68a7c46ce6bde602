"""What a pickle's names stand for when weights are read: nothing but weights is built, all else is left out.

Scripts put settings, times, paths and NumPy's arrays beside weights. Their classes are not called: NumPy's trust the
pickle (an array of type `O` takes bytes for addresses), and sizes in it are not bounded by the file's.
"""

from __future__ import annotations

import collections
import math
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

_LONG_DOUBLE = np.dtype(np.longdouble).str[1:]  # f16 on most machines
# The plain numbers: every other type is left out.
_NUMBERS = frozenset({"b1", *(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)), "f2", "f4", "f8"})
_MOST_DIMENSIONS, _MOST_NUMBERS = 32, 2**40


class StandIn:
    """In place of an object that is no weight: takes whatever the pickle gives, and keeps none of it."""

    __slots__ = ()

    def __new__(cls, *_: object) -> StandIn:
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


class StoredType:
    """In place of `numpy.dtype`: the code and the byte order of a plain number's type, or None."""

    def __init__(self, *arguments: object) -> None:
        code = arguments[0] if arguments else None
        self.code = code if isinstance(code, str) and code in _NUMBERS | {_LONG_DOUBLE} else None
        self.order = "="

    def __setstate__(self, state: object) -> None:
        """Version, byte order, then what only other types have: sub-array, fields, sizes and flags."""
        if not isinstance(state, tuple) or len(state) < 5 or any(entry is not None for entry in state[2:5]):
            self.code = None
        elif state[1] in ("<", ">"):
            self.order = state[1]


class StoredArray:
    """In place of `numpy.ndarray`: the bytes of an array, which become a tensor only where it is a weight."""

    def __init__(self, *_: object) -> None:
        self.shape: tuple[int, ...] = ()
        self.dtype: np.dtype[Any] | None = None
        """None for types other than plain numbers."""
        self._bytes, self._by_columns = b"", False

    def __setstate__(self, state: object) -> None:
        """What `numpy.ndarray.__reduce__` writes: version, shape, type, order of the axes, bytes.

        Raises:
            pickle.UnpicklingError: an array of numbers whose bytes are not as many as its shape needs.
        """
        self.dtype = None
        if not isinstance(state, tuple) or len(state) != 5:
            return
        _, shape, kind, by_columns, content = state
        if not isinstance(kind, StoredType) or kind.code is None:
            return
        dtype = np.dtype(kind.order + kind.code)
        if not _is_shape(shape) or not isinstance(content, bytes) or len(content) != math.prod(shape) * dtype.itemsize:
            raise pickle.UnpicklingError("an array's shape and bytes do not agree")
        self.shape, self.dtype, self._bytes, self._by_columns = shape, dtype, content, bool(by_columns)

    def to_tensor(self) -> Tensor:
        """The numbers. They are shared with what was read, as an array may be named many times: do not write."""
        assert self.dtype is not None
        array: np.ndarray[Any, Any]
        array = np.ndarray(self.shape, self.dtype, self._bytes, order="F" if self._by_columns else "C")
        native = np.dtype(np.float64) if self.dtype.str[1:] == _LONG_DOUBLE else self.dtype.newbyteorder("=")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's about arrays that may not be written to
            return torch.from_numpy(array.astype(native, copy=False))

    def shape_only(self) -> Tensor:
        """A tensor of the array's shape, of one zero: for what is only compared by shape."""
        return torch.zeros(()).expand(self.shape)


def _is_shape(shape: object) -> bool:
    return (
        isinstance(shape, tuple)
        and len(shape) <= _MOST_DIMENSIONS
        and all(type(size) is int and size >= 0 for size in shape)
        and math.prod(size for size in shape if size) < _MOST_NUMBERS  # empty arrays have such sizes for no bytes
    )


def _plain_dictionary(*_: object) -> collections.OrderedDict[Any, Any]:
    """In place of a dictionary with a factory: torch fills none but plain, ordered and counting ones."""
    return collections.OrderedDict()


def _plain_list(*_: object) -> list[Any]:
    """In place of a queue."""
    return []


def _empty_bytes(*_: object) -> bytes:
    """Pickles for Python 2 write empty bytes as a call; others as an encoded text."""
    return b""


def _empty_array(*_: object) -> StoredArray:
    """In place of the function that NumPy's arrays are rebuilt with; the array's state follows in the pickle."""
    return StoredArray()


_DICTIONARIES = (
    "pytorch_lightning.utilities.parsing.AttributeDict", "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict", "lightning.fabric.utilities.data.AttributeDict",
    "easydict.EasyDict", "addict.addict.Dict", "yacs.config.CfgNode", "fvcore.common.config.CfgNode",
    "mmengine.config.config.ConfigDict", "mmcv.utils.config.ConfigDict", "munch.Munch",
)  # fmt: skip
_CORES = ("numpy.core", "numpy._core")  # NumPy 1 wrote numpy.core
_NUMBER_TYPES = (
    "bool_", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32",
    "float64", "longdouble", "float128", "complex64", "complex128", "str_", "bytes_", "object_", "void",
    "datetime64", "timedelta64", "longlong", "ulonglong", "intc", "uintc",
)  # fmt: skip
# Each is named exactly: what is not named may be code, and a file that holds it is refused.
_LEFT_OUT = (
    *(f"builtins.{name}" for name in (
        "list", "dict", "tuple", "int", "float", "str", "bool", "frozenset", "range", "slice", "object",
        "Ellipsis", "NotImplemented", "type",
    )),
    *(f"numpy.{name}" for name in _NUMBER_TYPES),
    *(f"{core}.multiarray.scalar" for core in _CORES),
    "numpy.ma.core._mareconstruct", "numpy.ma.core.MaskedArray", "numpy.ma.MaskedArray",
    *(f"datetime.{name}" for name in ("datetime", "date", "time", "timedelta", "timezone")), "zoneinfo.ZoneInfo",
    *(f"{module}.{prefix}{system}Path" for module in ("pathlib", "pathlib._local") for prefix in ("", "Pure")
      for system in ("Posix", "Windows")),
    "argparse.Namespace", "types.SimpleNamespace", "uuid.UUID", "uuid.SafeUUID", "decimal.Decimal",
    "fractions.Fraction", "torch.torch_version.TorchVersion",
)  # fmt: skip


def _stand_in(name: str) -> type[StandIn]:
    """A class of its own for each name, for sentences that name it."""
    return type(name.rpartition(".")[2], (StandIn,), {"__slots__": ()})


HARMLESS_NAMES: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    *((_stand_in(name), name) for name in _LEFT_OUT),
    *((collections.OrderedDict, name) for name in _DICTIONARIES),
    (_plain_dictionary, "collections.defaultdict"),
    (_plain_list, "collections.deque"), (_empty_bytes, "builtins.bytes"),
    (StoredType, "numpy.dtype"), (StoredArray, "numpy.ndarray"),
    *((_empty_array, f"{core}.multiarray._reconstruct") for core in _CORES),
]  # fmt: skip
"""For `torch.serialization.safe_globals`."""
