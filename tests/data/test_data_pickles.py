"""The restricted unpickler: arrays and plain containers are loaded, anything else is refused."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from dapt.data.pickles import load_pickle
from dapt.errors import DataError


def written(tmp_path, content: bytes):
    path = tmp_path / "file.pkl"
    path.write_bytes(content)
    return path


def as_numpy_1(content: bytes) -> bytes:
    """Protocol 2 stores module names as lines, so the module's older name can be substituted."""
    assert b"numpy._core" in content
    return content.replace(b"numpy._core", b"numpy.core")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", ["f2", "<f4", ">f8", "i1", "i8", "u2", "?"])
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (4, 6)])
def test_arrays_of_every_protocol(tmp_path, protocol, dtype, shape):
    rng = np.random.default_rng()
    array = np.asarray(rng.normal(size=shape) * 50).astype(dtype)
    fortran = np.asfortranarray((rng.normal(size=(3, 4)) * 50).astype(dtype))
    content = {"a": [array, (array, 7)], "b": fortran, "scalar": np.int32(3), "text": "é"}

    loaded = load_pickle(written(tmp_path, pickle.dumps(content, protocol)))

    for got in (loaded["a"][0], loaded["a"][1][0]):
        assert type(got) is np.ndarray and got.dtype == array.dtype and got.shape == shape
        np.testing.assert_array_equal(got, array)
    np.testing.assert_array_equal(loaded["b"], fortran)
    assert loaded["scalar"] == 3 and loaded["text"] == "é" and loaded["a"][1][1] == 7


def test_numpy_1_module_names(tmp_path):
    content = [np.arange(12.0).reshape(3, 4), np.float32(2.5)]
    clouds, scalar = load_pickle(written(tmp_path, as_numpy_1(pickle.dumps(content, 2))))
    np.testing.assert_array_equal(clouds, content[0])
    assert scalar == 2.5


def test_python_2_pickle(tmp_path):
    # what Python 2.7 with numpy 1.16 writes for numpy.array([1, 2], dtype="<i4") in protocol 2
    content = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02i4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x08\x01\x00\x00\x00\xfe\xff\xff\xfftb."
    )
    loaded = load_pickle(written(tmp_path, content))
    assert loaded.dtype == np.int32 and loaded.tolist() == [1, -2]


def test_shared_and_self_containing_containers(tmp_path):
    array = np.arange(3)
    shared = [array]
    ring = [array, shared, (shared, array)]
    ring.append(ring)
    for _ in range(100):  # 2^100 paths through shared lists
        shared = [shared, shared]
    loaded = load_pickle(written(tmp_path, pickle.dumps([ring, shared])))[0]
    assert loaded[3] is loaded and loaded[1] is loaded[2][0]
    assert type(loaded[2][1]) is np.ndarray and type(loaded[1][0]) is np.ndarray


class Calls:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


def hostile_pickles(marker) -> dict[str, bytes]:
    touch = f"touch {marker}"
    code = f"open({str(marker)!r}, 'w')"
    reconstruct, arguments, state = np.arange(2).__reduce__()
    objects = np.array([Calls(os.system, touch)], dtype=object)
    structured = np.zeros(2, dtype=[("a", "f4"), ("b", "O")])
    return {
        "os.system": pickle.dumps(Calls(os.system, touch)),
        "protocol 0": pickle.dumps(Calls(os.system, touch), 0),
        "eval": pickle.dumps(Calls(eval, code)),
        "exec": pickle.dumps(Calls(exec, code)),
        "getattr": b"\x80\x04\x8c\x08builtins\x8c\x07getattr\x93.",
        "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0fndarray.__class__\x93.",
        "dotted module": b"\x80\x04\x8c\x0anumpy.core\x8c\x14multiarray.fromstring\x93.",
        "subprocess": pickle.dumps(Calls(subprocess.check_output, ["touch", str(marker)])),
        "numpy.load": pickle.dumps(Calls(np.load, str(marker), None, True)),
        "numpy.memmap": pickle.dumps(Calls(np.memmap, str(marker), "u1", "w+", 0, (4,))),
        "numpy.fromfile": pickle.dumps(Calls(np.fromfile, str(marker))),
        "savetxt": pickle.dumps(Calls(np.savetxt, str(marker), [1])),
        "nested in an object array": pickle.dumps(objects),
        "object array": pickle.dumps(np.array([1, "a"], dtype=object)),
        "structured array": pickle.dumps(structured),
        "strings": pickle.dumps(np.array(["a", "b"])),
        "nested in array state": pickle.dumps(
            Calls(reconstruct, *arguments, state=(*state[:4], Calls(os.system, touch)))
        ),
        "nested in the shape": pickle.dumps(
            Calls(reconstruct, *arguments, state=(1, Calls(os.system, touch), *state[2:]))
        ),
        "more shape than bytes": pickle.dumps(
            Calls(reconstruct, *arguments, state=(1, (2**40,), *state[2:]))
        ),
        "more bytes than shape": pickle.dumps(
            Calls(reconstruct, *arguments, state=(1, (1,), *state[2:]))
        ),
        "negative shape": pickle.dumps(
            Calls(reconstruct, *arguments, state=(1, (-2, -1), *state[2:]))
        ),
        "shape of strings": pickle.dumps(
            Calls(reconstruct, *arguments, state=(1, (2**33, "x"), *state[2:]))
        ),
        "array without content": pickle.dumps(Calls(reconstruct, *arguments)),
        "state of a name": b"\x80\x02cnumpy\ndtype\n}U\x01aU\x01bsb.",
        "instance opcode": b"(S'" + touch.encode() + b"'\nios\nsystem\n.",
        "object opcode": b"(cos\nsystem\nS'" + touch.encode() + b"'\no.",
        "extension registry": b"\x80\x02\x82\x01.",
        "persistent id": b"Pmarker\n.",
        "out-of-band buffer": b"\x80\x05\x97.",
        "deeply nested": b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000 + b".",
        "huge bytearray": b"\x80\x05\x96" + (2**60).to_bytes(8, "little") + b"abc.",
        "huge memo": b"\x80\x02Nr\xff\xff\xff\x7f.",
        "nested key": b"\x80\x02}N" + b"q\x00h\x00\x86" * 40 + b"Ns.",
        "nested set": b"\x80\x04\x8f(N" + b"q\x00h\x00\x86" * 40 + b"\x90.",
        "nested frozenset": b"\x80\x04(N" + b"q\x00h\x00\x86" * 40 + b"\x91.",
        "nested dtype": b"\x80\x02cnumpy\ndtype\nN" + b"q\x00h\x00\x86" * 40 + b"\x85R.",
        "one text a million times": b"\x80\x02c_codecs\nencode\nq\x00X\x40\x42\x0f\x00"
        + b"a" * 1_000_000
        + b"\x8c\x06latin1\x86q\x01R"
        + b"h\x00h\x01R" * 1_000_000
        + b".",
        "function changed": b"\x80\x02c_codecs\nencode\nN}\x8c\x08__name__Ns\x86b.",
        "cut off": pickle.dumps(np.arange(100))[:-20],
        "not a pickle": b"hello",
        "empty": b"",
    }


@pytest.mark.parametrize("name", hostile_pickles("x"))
def test_hostile_pickle_is_refused_not_run(tmp_path, name):
    marker = tmp_path / "ran"
    path = written(tmp_path, hostile_pickles(marker)[name])
    with pytest.raises(DataError, match="file.pkl"):
        content = load_pickle(path)
        # only arrays may be returned, and none of them is one
        assert isinstance(content, np.ndarray)
    assert not marker.exists()


def test_the_hostile_pickles_are_hostile(tmp_path):
    """Without the restriction the calls do run, so the test above is able to fail."""
    for name in ("os.system", "nested in an object array", "instance opcode", "eval"):
        marker = tmp_path / name.replace(" ", "_")
        pickle.loads(hostile_pickles(marker)[name])
        assert marker.exists()


def test_reading_imports_nothing(tmp_path):
    path = written(tmp_path, b"\x80\x02cthis\nd\n.")
    with pytest.raises(DataError, match="this.d"):
        load_pickle(path)
    assert "this" not in sys.modules
