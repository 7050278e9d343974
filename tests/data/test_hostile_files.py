"""Files that lie about themselves or lead elsewhere are refused before they cost anything."""

import zipfile

import h5py
import numpy as np
import pytest

import dapt.data
from dapt.data.arrays import H5, Npz, load_npy
from dapt.errors import DataError, reading

SECRET = b"password" * 300


def refused(message, read, *args):
    with pytest.raises(DataError, match=message) as caught:
        read(*args)
    assert "\n" not in str(caught.value)


def external(file, secret):
    file.create_dataset("data", (1, 50, 3), "f8", external=[(str(secret), 0, 1200)])


def linked(file, secret):
    file["data"] = h5py.ExternalLink(str(secret), "x")


def soft(file, secret):
    file["away"] = h5py.ExternalLink(str(secret), "/")
    file["data"] = h5py.SoftLink("/away/x")


def virtual(file, secret):
    layout = h5py.VirtualLayout((1, 50, 3), "f8")
    layout[:] = h5py.VirtualSource(str(secret), "x", (1, 50, 3))
    file.create_virtual_dataset("data", layout)


def unwritten(file, _):
    file.create_dataset("data", (10**6, 2048, 3), "f4")


def bomb(file, _):
    data = file.create_dataset("data", (10**6, 100, 3), "f4", chunks=(10**4, 100, 3), compression=9)
    data[: 10**4] = 0


def references(file, _):
    file["data"] = np.array([[[file.ref] * 3] * 50], h5py.ref_dtype)


def empty(file, _):
    file["data"] = h5py.Empty("f4")


def a_group(file, _):
    file.create_group("data")


@pytest.mark.parametrize(
    "lie", [external, linked, soft, virtual, unwritten, bomb, references, empty, a_group]
)
@pytest.mark.parametrize("dataset", ["scanobjectnn", "npz"])
def test_an_h5_file_holds_what_it_is_read_for(tmp_path, lie, dataset):
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET)
    if lie in (linked, soft, virtual):
        with h5py.File(secret, "w") as file:
            file["x"] = np.ones((1, 50, 3))
    path = tmp_path / "main_split" / "training_objectdataset.h5"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        file["label"] = np.zeros(1, np.int64)
        lie(file, secret)
    options = {"root": tmp_path, "variant": "bg"} if dataset == "scanobjectnn" else {"train": path}
    refused("its 'data'", dapt.data.load, dataset, options, "train")
    assert not list(tmp_path.rglob("points.npy"))


def zipped(path, name, content, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method, compresslevel=9) as file:
        with file.open(name, "w", force_zip64=True) as member:
            for part in content:
                member.write(part)


def header(shape, dtype="<f4"):
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
    text = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def test_an_npz_bomb_is_not_unpacked(tmp_path):
    path = tmp_path / "a.npz"
    zeros = bytes(2**20)
    zipped(path, "points.npy", [header((300, 2**18)), *[zeros] * 300])
    assert path.stat().st_size < 2**20
    with reading(path), Npz(path) as file:
        refused("unfold to", file.__getitem__, "points")


@pytest.mark.parametrize(
    "content, message",
    [
        (header((2**40, 3)) + bytes(36), "promises"),
        (header((3, 3)) + bytes(40), "promises 36 bytes of numbers and 40"),
        (header((3, 3)) + bytes(32), "promises"),
        (header((-1, 3)) + bytes(36), "promises|shape"),
        (header((3, 3), "|O") + bytes(72), "allow_pickle"),
        (b"hello", "magic"),
        (b"", "magic|EOF"),
    ],
)
def test_an_array_is_as_long_as_its_header_says(tmp_path, content, message):
    single, several = tmp_path / "a.npy", tmp_path / "a.npz"
    single.write_bytes(content)
    zipped(several, "points.npy", [content])

    def read(path):
        with reading(path):
            return load_npy(path) if path == single else Npz(path)["points"]

    refused(message, read, single)
    refused(message, read, several)


def test_arrays_come_back_as_they_were(tmp_path):
    rng = np.random.default_rng()
    arrays = {
        "points": rng.normal(size=(4, 5, 3)),
        "turned": np.asfortranarray(rng.normal(size=(4, 5))),
        "names": np.array(["a", "bc"]),
        "none": np.zeros((0, 3), np.float32),
        "one": np.array(3),
    }
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    with Npz(tmp_path / "a.npz") as file:
        assert set(file) == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(file[name], array)
            np.save(tmp_path / "b.npy", array)
            np.testing.assert_array_equal(load_npy(tmp_path / "b.npy"), array)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["points"], file["names"] = arrays["points"], ["a", "bc"]
        file.create_dataset("packed", data=np.zeros((40, 50, 3)), compression="gzip")
    with H5(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file["points"], arrays["points"])
        assert file["names"].tolist() == ["a", "bc"] and not file["packed"].any()
