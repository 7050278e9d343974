"""Read pickles of numpy arrays and plain containers without running what they name.

A pickle is a program that may call anything. Here, the few names that arrays need stand for
functions and classes of this file, which check their arguments and build the array themselves:
nothing is imported, no numpy function is called with the file's arguments, and every other name is
refused. The cost of the program is bounded by the size of its file.
"""

import math
import os
import pickle
import struct
from pathlib import Path

import numpy as np

from dapt.errors import DataError

SPARE = 16  # bytes of arrays and text per byte of the file, which may refer to data repeatedly
PLAIN = (str, bytes, int, float, bool, type(None))  # types that are quick to compare and hash


def load_pickle(path: str | Path):
    """Load a pickle of numbers, strings, None, lists, tuples, dicts, sets and numeric numpy arrays.

    Args:
        path: The file.
    """
    try:
        with open(path, "rb") as file:
            return _Unpickler(file).content()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # hostile bytes can make the unpickler raise anything
        raise DataError(
            f"cannot read {path}: {str(error) or type(error).__name__:.200}; a pickle must hold "
            "only numeric numpy arrays, lists, tuples, dicts, numbers and strings"
        ) from error


class _Dtype:
    """Stands for numpy.dtype of a plain number."""

    __slots__ = ("value",)

    def __init__(self, code, align=False, copy=False):
        if not isinstance(code, str) or code[:1] not in tuple("biuf") or not code[1:].isdigit():
            named = f" {code!r:.40}" if isinstance(code, str) else ""
            raise pickle.UnpicklingError(f"array of dtype{named} refused")
        self.value = np.dtype(code)

    def set(self, state) -> None:
        _version, byte_order, subarray, names, fields, *_ = state
        if not isinstance(byte_order, str) or byte_order not in tuple("<>|="):
            raise pickle.UnpicklingError("array of structured dtype refused")
        if not subarray is names is fields is None:
            raise pickle.UnpicklingError("array of structured dtype refused")
        self.value = self.value.newbyteorder(byte_order)


class _Array:
    """Stands for a numpy.ndarray that is being built; `values` holds the array."""

    __slots__ = ("values",)

    def __init__(self, *_):
        self.values = None


class _Bounded:
    """A file that refuses reads beyond its size, so a false length allocates no memory."""

    def __init__(self, file):
        self.file = file
        self.size = os.fstat(file.fileno()).st_size
        self.readline = file.readline

    def read(self, count: int) -> bytes:
        if count > self.size:
            raise pickle.UnpicklingError(f"it promises {count} bytes and has {self.size}")
        return self.file.read(count)


# The Python implementation lets each operation be checked; the one in C allocates memory for any
# number in the file. A file has only a few dozen operations per array.
class _Unpickler(pickle._Unpickler):
    dispatch = dict(pickle._Unpickler.dispatch)

    def __init__(self, file):
        bounded = _Bounded(file)
        super().__init__(bounded, encoding="latin1")
        self.size = bounded.size
        self.left = SPARE * bounded.size
        self.names = {
            ("numpy", "dtype"): _Dtype,
            ("numpy", "ndarray"): None,  # only ever an argument of _reconstruct, which ignores it
            ("_codecs", "encode"): self._encode,  # bytes, in pickles of protocols 0 to 2
            ("__builtin__", "bytes"): _empty_bytes,
        }
        for module in ("builtins", "__builtin__"):
            self.names[module, "set"] = self._set
            self.names[module, "frozenset"] = self._frozenset
        for core in ("numpy.core", "numpy._core"):
            self.names[f"{core}.multiarray", "_reconstruct"] = _Array
            self.names[f"{core}.multiarray", "scalar"] = self._scalar
            self.names[f"{core}.numeric", "_frombuffer"] = self._from_buffer

    def content(self):
        return self._with_arrays(self.load(), {})

    def find_class(self, module, name):
        if (module, name) not in self.names:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is refused")
        return self.names[module, name]

    def _spend(self, cost: int) -> None:
        self.left -= cost
        if self.left < 0:
            raise pickle.UnpicklingError("it expands to far more than its size")

    # what the allowed names stand for

    def _encode(self, text, encoding) -> bytes:
        if encoding != "latin1":
            raise pickle.UnpicklingError("text in an encoding other than latin1 refused")
        self._spend(len(text))
        return text.encode("latin1")

    def _set(self, items=()) -> set:
        self._spend(len(items))
        _check_plain(items)
        return set(items)

    def _frozenset(self, items=()) -> frozenset:
        return frozenset(self._set(items))

    def _scalar(self, dtype, data):
        return self._array(data, dtype, (), "C")[()]

    def _from_buffer(self, data, dtype, shape, order) -> _Array:
        array = _Array()
        array.values = self._array(data, dtype, shape, order)
        return array

    def _array(self, data, dtype, shape, order) -> np.ndarray:
        if not isinstance(dtype, _Dtype) or not isinstance(data, str | bytes | bytearray):
            raise pickle.UnpicklingError("array without plain numbers refused")
        if isinstance(data, str):  # bytes of a Python 2 pickle
            data = self._encode(data, "latin1")
        if type(shape) is not tuple or not all(type(size) is int and size >= 0 for size in shape):
            raise pickle.UnpicklingError("array without a shape refused")
        if len(data) != math.prod(shape) * dtype.value.itemsize:
            raise pickle.UnpicklingError(f"array {shape} does not fit its {len(data)} bytes")
        return np.ndarray(shape, dtype.value, buffer=data, order=order)

    # operations that could cost more than their length, or change objects already built

    def _build(self):
        state, built = self.stack.pop(), self.stack[-1]
        if isinstance(built, _Dtype):
            built.set(state)
        elif isinstance(built, _Array):
            _version, shape, dtype, fortran, data = state
            built.values = self._array(data, dtype, shape, "F" if fortran else "C")
        else:
            raise pickle.UnpicklingError("state of a non-array refused")

    def _set_item(self):
        _check_plain(self.stack[-2:-1])
        pickle._Unpickler.load_setitem(self)

    def _set_items(self):
        _check_plain(self.stack[::2])  # keys and values alternate; earlier items are elsewhere
        pickle._Unpickler.load_setitems(self)

    def _dict(self):
        _check_plain(self.stack[::2])
        pickle._Unpickler.load_dict(self)

    def _add_items(self):
        _check_plain(self.stack)
        pickle._Unpickler.load_additems(self)

    def _make_frozenset(self):
        _check_plain(self.stack)
        pickle._Unpickler.load_frozenset(self)

    def _bytearray(self):
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))

    def _long_put(self):
        (place,) = struct.unpack("<I", self.read(4))
        if place > self.size:
            raise pickle.UnpicklingError(f"it numbers an object {place}, beyond its own size")
        self.memo[place] = self.stack[-1]

    dispatch |= {
        pickle.LONG_BINPUT[0]: _long_put,
        pickle.BUILD[0]: _build,
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
        pickle.DICT[0]: _dict,
        pickle.ADDITEMS[0]: _add_items,
        pickle.FROZENSET[0]: _make_frozenset,
        pickle.BYTEARRAY8[0]: _bytearray,
    }

    def _with_arrays(self, value, done: dict[int, tuple]):
        """`value` with every _Array in its containers replaced by the numpy array.

        done: id -> (container, result); shared and self-containing containers are visited once.
        """
        if isinstance(value, _Array):
            if value.values is None:
                raise pickle.UnpicklingError("array without content refused")
            self._spend(value.values.nbytes)
            return value.values
        if type(value) not in (list, tuple, dict):
            return value
        if id(value) not in done:
            done[id(value)] = value, value
            if type(value) is tuple:
                done[id(value)] = value, tuple(self._with_arrays(item, done) for item in value)
            else:
                for key, item in list(value.items() if type(value) is dict else enumerate(value)):
                    value[key] = self._with_arrays(item, done)
        return done[id(value)][1]


def _empty_bytes() -> bytes:
    return b""


def _check_plain(keys) -> None:
    """Refuse keys that are not plain: nested tuples may take forever to hash."""
    if not all(isinstance(key, PLAIN) for key in keys):
        raise pickle.UnpicklingError("keys that are neither numbers nor strings refused")
