"""Pickles of numpy arrays and plain containers, read without running what they name.

A pickle is a program that may call anything. Here the few names that arrays need stand for
classes of this file, which check what they are given and build the array themselves: nothing is
imported, no function of numpy is called with the file's arguments, every other name is refused.
"""

import math
import pickle
from pathlib import Path

import numpy as np

from dapt.errors import DataError


def load_pickle(path: str | Path):
    """The content: numbers, strings, None, list, tuple, dict, set and numeric numpy arrays."""
    try:
        with open(path, "rb") as file:
            return _with_arrays(_Unpickler(file, encoding="latin1").load(), {})
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # hostile bytes can make the unpickler raise anything
        raise DataError(
            f"cannot read {path}: {error or type(error).__name__}; a pickle must hold only "
            "numeric numpy arrays, lists, tuples, dicts, numbers and strings"
        ) from error


class _Dtype:
    """numpy.dtype of a plain number."""

    __slots__ = ("value",)

    def __init__(self, code, align=False, copy=False):
        if not isinstance(code, str) or code[:1] not in tuple("biuf") or not code[1:].isdigit():
            raise pickle.UnpicklingError(f"array of dtype {code!r} refused")
        self.value = np.dtype(code)

    def __setstate__(self, state):
        _version, byte_order, subarray, names, fields, *_ = state
        if byte_order not in tuple("<>|=") or (subarray, names, fields) != (None, None, None):
            raise pickle.UnpicklingError("array of structured dtype refused")
        self.value = self.value.newbyteorder(byte_order)


class _Array:
    """numpy.ndarray while it is being built; `values` holds the array."""

    __slots__ = ("values",)

    def __init__(self, *_):
        self.values = None

    def __setstate__(self, state):
        _version, shape, dtype, fortran, data = state
        self.values = _array(data, dtype, shape, "F" if fortran else "C")


def _array(data, dtype, shape, order) -> np.ndarray:
    if isinstance(data, str):  # bytes of a Python 2 pickle
        data = data.encode("latin1")
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray):
        raise pickle.UnpicklingError("array without plain numbers refused")
    if not all(type(size) is int and size >= 0 for size in shape):
        raise pickle.UnpicklingError("array without a shape refused")
    if len(data) != math.prod(shape) * dtype.value.itemsize:
        raise pickle.UnpicklingError(f"array of shape {shape} does not fit its {len(data)} bytes")
    return np.ndarray(shape, dtype.value, buffer=data, order=order)


def _from_buffer(data, dtype, shape, order) -> _Array:
    array = _Array()
    array.values = _array(data, dtype, shape, order)
    return array


def _scalar(dtype, data):
    return _array(data, dtype, (), "C")[()]


def _encode(text, encoding) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding!r} refused")
    return text.encode("latin1")


def _empty_bytes() -> bytes:
    return b""


class _Unpickler(pickle.Unpickler):
    NAMES = {
        ("numpy", "dtype"): _Dtype,
        ("numpy", "ndarray"): None,  # only ever an argument of _reconstruct, which ignores it
        ("_codecs", "encode"): _encode,  # bytes, in pickles of protocols 0 to 2
        ("__builtin__", "bytes"): _empty_bytes,
        ("builtins", "set"): set,
        ("builtins", "frozenset"): frozenset,
        ("__builtin__", "set"): set,
        ("__builtin__", "frozenset"): frozenset,
    } | {
        (f"numpy.{core}.{module}", name): builder
        for core in ("core", "_core")
        for module, name, builder in (
            ("multiarray", "_reconstruct", _Array),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    }

    def find_class(self, module, name):
        if (module, name) not in self.NAMES:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is refused")
        return self.NAMES[module, name]


def _with_arrays(value, done: dict[int, tuple]):
    """`value` with every _Array in its containers replaced by the numpy array.

    done: id -> (container, result); shared and self-containing containers are visited once.
    """
    if isinstance(value, _Array):
        if value.values is None:
            raise pickle.UnpicklingError("array without content refused")
        return value.values
    if type(value) not in (list, tuple, dict):
        return value
    if id(value) not in done:
        done[id(value)] = value, value
        if type(value) is tuple:
            done[id(value)] = value, tuple(_with_arrays(item, done) for item in value)
        else:
            for key, item in list(value.items() if type(value) is dict else enumerate(value)):
                value[key] = _with_arrays(item, done)
    return done[id(value)][1]
