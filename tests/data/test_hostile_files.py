"""Files that misstate their contents or point elsewhere are refused before they cost anything."""

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
        refused("expand to", file.__getitem__, "points")


@pytest.mark.parametrize(
    "content, message",
    [
        (header((2**40, 3)) + bytes(36), "promises"),
        (header((3, 3)) + bytes(40), "promises 36 bytes of numbers, but it has 40"),
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


TRIANGLES = "0 0 0\n1 0 0\n0 1 0\n0 0 1\n"
FACES = "3 0 1 2\n3 0 1 3\n"
PLY = (
    "ply\nformat ascii 1.0\nelement vertex {}\nproperty float x\nproperty float y\n"
    "property float z\nelement face {}\nproperty list uchar int vertex_indices\nend_header\n"
)
PCD = (
    "FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH {0}\nHEIGHT 1\nPOINTS {0}\nDATA {1}\n"
)


def las(count=3, tables=0, records=3):
    import laspy

    path = laspy.LasHeader(point_format=0, version="1.2")
    content = bytearray(227)
    content[:4], content[24], content[25] = b"LASF", 1, 2
    content[94:111] = (
        np.array([227], "<u2").tobytes()
        + np.array([227, tables], "<u4").tobytes()
        + bytes([0, 20, 0])
        + np.array([count], "<u4").tobytes()
    )
    assert path.point_format.size == 20
    content[131:155] = np.ones(3).tobytes()
    return bytes(content) + bytes(20 * records)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.ply", PLY.format(4, 2) + TRIANGLES + "3 0 1 2\n", "promises 6 lines, but it has 5"),
        ("a.ply", PLY.format(3, 2) + TRIANGLES + FACES, "promises 5 lines, but it has 6"),
        ("a.ply", PLY.format(4, 0) + TRIANGLES[:-6], "promises 4 lines, but it has 3"),
        ("a.ply", PLY.format(4, 1) + TRIANGLES + "3 0 1 9\n", "corner"),
        ("a.ply", PLY.format(4, 1).replace("ascii", "binary_little_endian") + "x", "do not fit"),
        ("a.ply", PLY.format(10**12, 0) + TRIANGLES, "promises"),
        ("a.ply", PLY.format(4, 0) + TRIANGLES.replace("1 0 0", "1 0"), "has 2 numbers, not 3"),
        ("a.off", "OFF\n4 2 0\n" + TRIANGLES + "3 0 1 2\n", "promises 4 points and 2 faces"),
        ("a.off", "OFF\n4 1 0\n" + TRIANGLES + FACES, "promises 4 points and 1 faces"),
        ("a.off", "OFF\n4 1 0\n" + TRIANGLES + "3 0 1\n", "lacks corners"),
        ("a.off", "OFF\n99999999999 1 0\n" + TRIANGLES, "promises"),
        ("a.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 4\n", "corner|index|out of bounds"),
        ("a.pcd", PCD.format(2, "binary") + "x" * 36, "promises 2 points, but it has 3"),
        ("a.pcd", PCD.format(2, "ascii") + "1 2 3\n1 2 3\n4 5 6\n", "promises 2 points, but"),
        ("a.pcd", PCD.format(1, "ascii") + "1 2 3 4\n", "promises 3 numbers per line, got 4"),
        ("a.pcd", PCD.format(-1, "binary"), "below 0"),
        ("a.pcd", PCD.replace("COUNT 1", "COUNT 2").format(1, "binary") + "x" * 16, "COUNT"),
        ("a.las", las(count=4_000_000_000), "promises 4000000000 points, but it has 3"),
        ("a.las", las(tables=4_000_000_000), "promises 4000000000 tables"),
        ("a.las", las()[:100], "no las header"),
    ],
)
def test_a_cloud_has_what_its_header_says(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("latin1"))
    refused(message, dapt.data.read_cloud, path)


def test_whole_files_are_read(tmp_path):
    wholes = {"a.ply": PLY.format(4, 2) + TRIANGLES + FACES, "a.las": las()}
    wholes["a.off"] = "OFF # a comment\n4 2 0\n\n" + TRIANGLES + FACES
    wholes["b.off"] = "OFF\n5 1 0\n" + TRIANGLES + "1 1 0\n5 0 1 4 2 3\n"
    for name, content in wholes.items():
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        assert len(dapt.data.read_cloud(path, 50)) == (3 if name == "a.las" else 50)


def test_many_materials_cost_nothing(tmp_path):
    path = tmp_path / "a.obj"
    points = "".join(f"v {i} {i * i} 0\nvt 0 0\n" for i in range(6002))
    faces = "".join(f"usemtl m{i}\nf {i + 1}/1 {i + 2}/2 {i + 3}/3\n" for i in range(6000))
    path.write_text("mtllib /etc/passwd\n" + points + faces)
    assert len(dapt.data.read_cloud(path, 50)) == 50


def test_points_that_unfold_from_next_to_nothing(tmp_path):
    path = tmp_path / "a.pcd"
    head = PCD.format(2**28, "binary_compressed").encode()
    path.write_bytes(head + np.array([8, 12 * 2**28], "<u4").tobytes() + bytes(8))
    refused("expand to", dapt.data.read_cloud, path)


def test_names_and_labels_that_are_none(tmp_path):
    path = tmp_path / "a.npz"
    clouds = np.random.default_rng().normal(size=(3, 9, 3))
    labels = np.array([0, 1, 2])
    np.savez(path, points=clouds, labels=np.array([0, 1, 2**64 - 1], np.uint64))
    refused("at most 2", dapt.data.load, "npz", {"train": path}, "train")
    np.savez(path, points=clouds, labels=labels, class_names=np.array(["a", "b", "a"]))
    refused("'a' occurs twice", dapt.data.load, "npz", {"train": path}, "train")
    np.savez(path, points=clouds, labels=labels, class_names=np.array([b"\xff", b"b", b"c"]))
    assert dapt.data.load("npz", {"train": path}, "train").class_names == ["\ufffd", "b", "c"]


def test_one_label_far_away_is_no_long_list(tmp_path, caplog):
    path = tmp_path / "a.npz"
    names = np.array([f"class {i}" for i in range(100_001)])
    clouds = np.random.default_rng().normal(size=(2, 9, 3))
    np.savez(path, points=clouds, labels=np.array([0, 100_000]), class_names=names)
    dapt.data.load("npz", {"train": path}, "train")
    [warning] = [each.getMessage() for each in caplog.records if "no cloud of" in each.getMessage()]
    assert "class 20 and 99,979 more" in warning and len(warning) < 600
