"""Every file format of clouds and meshes, written here byte by byte or by its own library."""

import struct

import laspy
import numpy as np
import pytest
import trimesh

from dapt.data import read_cloud
from dapt.errors import DataError

BOX_OFF = """OFF
8 6 0
0 0 0
2 0 0
2 1 0
0 1 0
0 0 1
2 0 1
2 1 1
0 1 1
4 0 3 2 1
4 4 5 6 7
4 0 1 5 4
4 1 2 6 5
4 2 3 7 6
4 3 0 4 7
"""


@pytest.fixture
def points():
    return np.random.default_rng().normal(size=(257, 3))


def pcd_header(points, data, fields="x y z", size="4 4 4", kind="F F F", count="1 1 1", height=1):
    width = len(points) // height
    return (
        f"# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\nFIELDS {fields}\nSIZE {size}\n"
        f"TYPE {kind}\nCOUNT {count}\nWIDTH {width}\nHEIGHT {height}\nVIEWPOINT 0 0 0 1 0 0 0\n"
        f"POINTS {len(points)}\nDATA {data}\n"
    ).encode()


def lzf_compress(data: bytes) -> bytes:
    """Greedy LZF: a match if the last three bytes were seen within 8191 bytes, else literals."""
    out, literals, seen, place = bytearray(), bytearray(), {}, 0

    def flush():
        for start in range(0, len(literals), 32):
            piece = literals[start : start + 32]
            out.append(len(piece) - 1)
            out.extend(piece)
        literals.clear()

    while place < len(data):
        key = data[place : place + 3]
        back = place - seen.get(key, place)
        seen[key] = place
        if len(key) == 3 and 0 < back <= 8192:
            length = 3
            while (
                length < 264
                and place + length < len(data)
                and data[place + length] == data[place + length - back]
            ):
                length += 1
            flush()
            high, low = divmod(back - 1, 256)
            if length - 2 < 7:
                out.append((length - 2) << 5 | high)
            else:
                out.append(7 << 5 | high)
                out.append(length - 9)
            out.append(low)
            place += length
        else:
            literals.append(data[place])
            place += 1
    flush()
    return bytes(out)


def test_npy_and_xyz(tmp_path, points):
    np.save(tmp_path / "a.npy", np.hstack([points, points]))
    np.savetxt(tmp_path / "a.xyz", points)
    np.savetxt(tmp_path / "b.XYZ", np.hstack([points, points]), delimiter=",", header="x,y,z")
    for name in ("a.npy", "a.xyz", "b.XYZ"):
        np.testing.assert_array_equal(read_cloud(tmp_path / name), points)


def test_las_keeps_its_precision(tmp_path, points):
    header = laspy.LasHeader(point_format=3, version="1.2")
    header.scales, header.offsets = [0.001] * 3, [500_000, 5_400_000, 0]
    las = laspy.LasData(header)
    places = points + header.offsets
    las.x, las.y, las.z = places.T
    las.write(tmp_path / "a.las")
    np.testing.assert_allclose(read_cloud(tmp_path / "a.las"), places, rtol=0, atol=0.00051)


@pytest.mark.parametrize("encoding", ["ascii", "binary"])
def test_ply_cloud(tmp_path, points, encoding):
    cloud = trimesh.PointCloud(points.astype(np.float32), colors=np.full((len(points), 4), 255))
    (tmp_path / "a.ply").write_bytes(cloud.export(file_type="ply", encoding=encoding))
    # the library writes 8 digits in ASCII
    np.testing.assert_allclose(read_cloud(tmp_path / "a.ply"), points, rtol=1e-6, atol=1e-7)


def test_pcd_ascii_with_other_fields(tmp_path, points):
    rows = np.column_stack([points[:, :1], np.arange(len(points)), points[:, 1:], points[:, :2]])
    header = pcd_header(points, "ascii", "x rgb y z n", "4 4 4 4 4", "F U F F F", "1 1 1 1 2")
    with open(tmp_path / "a.pcd", "wb") as file:
        file.write(header)
        np.savetxt(file, rows)
    np.testing.assert_array_equal(read_cloud(tmp_path / "a.pcd"), points)


def record(points):
    kinds = [("x", "<f4"), ("pad", "u1", 3), ("y", "<f8"), ("z", "<f4"), ("i", "<u2"), ("p", "u1")]
    table = np.zeros(len(points), dtype=kinds)
    for axis, name in enumerate("xyz"):
        table[name] = points[:, axis]
    table["i"] = np.arange(len(points)) % 7
    return table, ("x _ y z i _", "4 1 8 4 2 1", "F U F F U U", "1 3 1 1 1 1")


def test_pcd_binary_with_padding(tmp_path, points):
    table, fields = record(points)
    path = tmp_path / "a.pcd"
    path.write_bytes(pcd_header(points, "binary", *fields) + table.tobytes())
    expected = np.stack([table[axis] for axis in "xyz"], axis=1)
    np.testing.assert_array_equal(read_cloud(path), expected)


@pytest.mark.parametrize("count", [1, 257, 5000])
def test_pcd_binary_compressed(tmp_path, count):
    points = np.random.default_rng().integers(-3, 3, size=(count, 3)).astype(np.float64)
    points[count // 2 :] = 0  # long runs, which LZF encodes as overlapping copies
    table, fields = record(points)
    plain = b"".join(table[name].tobytes() for name in table.dtype.names)
    packed = lzf_compress(plain)
    assert count < 100 or len(packed) < len(plain) / 2
    path = tmp_path / "a.pcd"
    sizes = struct.pack("<II", len(packed), len(plain))
    path.write_bytes(pcd_header(points, "binary_compressed", *fields) + sizes + packed)
    np.testing.assert_array_equal(read_cloud(path), points)


def test_organized_pcd_leaves_out_missing_returns(tmp_path, points):
    image = points[:200].astype(np.float32)
    image[[3, 77]] = np.nan
    (tmp_path / "a.pcd").write_bytes(pcd_header(image, "binary", height=10) + image.tobytes())
    (tmp_path / "b.pcd").write_bytes(pcd_header(image, "binary") + image.tobytes())
    expected = np.delete(image, [3, 77], axis=0)
    np.testing.assert_array_equal(read_cloud(tmp_path / "a.pcd"), expected)
    assert np.isnan(read_cloud(tmp_path / "b.pcd")).sum() == 6  # left for the dataset to report


@pytest.mark.parametrize("suffix", ["off", "obj", "ply", "joined.off"])
def test_mesh_is_sampled_by_area(tmp_path, suffix):
    path = tmp_path / f"box.{suffix}"
    if suffix == "off":
        path.write_text(BOX_OFF)
    elif suffix == "joined.off":  # some ModelNet files have their first two lines joined
        path.write_text(BOX_OFF.replace("OFF\n", "OFF"))
    else:
        trimesh.creation.box(bounds=[[0, 0, 0], [2, 1, 1]]).export(path)
    count = 20_000
    points = read_cloud(path, surface_points=count, seed=1)
    assert points.shape == (count, 3)
    on_faces = [np.isclose(points[:, axis], side, atol=1e-9) for axis, side in FACES]
    assert np.any(on_faces, axis=0).all()
    share = np.mean(on_faces, axis=1)  # of a 2 x 1 x 1 box, whose faces have area 1 or 2 out of 10
    sigma = np.sqrt(0.2 * 0.8 / count)
    np.testing.assert_allclose(share, [0.1, 0.1, 0.2, 0.2, 0.2, 0.2], atol=6 * sigma)
    np.testing.assert_array_equal(points, read_cloud(path, surface_points=count, seed=1))
    assert not np.array_equal(points, read_cloud(path, surface_points=count, seed=2))


FACES = [(0, 0), (0, 2), (1, 0), (1, 1), (2, 0), (2, 1)]


def test_mesh_opens_no_other_file(tmp_path):
    """The material library is a folder, so an attempt to read it would fail."""
    (tmp_path / "a.mtl").mkdir()
    path = tmp_path / "a.obj"
    path.write_text("mtllib a.mtl\nusemtl b\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    assert read_cloud(path, surface_points=10).shape == (10, 3)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.stl", b"", "clouds and meshes end in"),
        ("a.npy", b"", "cannot read .*a.npy"),
        ("a.npy", "pickled", "allow_pickle"),
        ("b.npy", np.zeros((3, 2)), "must hold numbers"),
        ("c.npy", np.zeros((0, 3)), "holds no points"),
        ("d.npy", np.zeros((4, 3), dtype=complex), "must hold numbers"),
        ("a.xyz", b"1 2\n3 4\n", "cannot read .*a.xyz"),
        ("b.xyz", b"1 2 up\n", "could not convert"),
        ("a.off", b"OFF\n3 1 0\n0 0 0\n", "cannot read .*a.off"),
        ("b.off", b"OFF\n3 1 0\n0 0 0\n0 0 0\n0 0 0\n3 0 1 2\n", "no area"),
        ("a.ply", b"ply\nformat ascii 1.0\n", "cannot read .*a.ply"),
        ("a.las", b"LASF", "cannot read .*a.las"),
        ("a.pcd", b"", "header lacks"),
        ("b.pcd", b"FIELDS x y\nSIZE 4 4\nTYPE F F\nPOINTS 1\nDATA ascii\n1 2\n", "header lacks"),
        ("c.pcd", pcd_header(range(9), "binary") + bytes(20), "cannot read .*c.pcd"),
        ("d.pcd", pcd_header(range(9), "ascii") + b"1 2 3\n", "promises 9 points, but it has 1"),
        ("e.pcd", pcd_header(range(9), "zip"), "'zip'"),
        (
            "f.pcd",
            pcd_header(range(9), "binary_compressed")
            + struct.pack("<II", 3, 108)
            + b"\xff\xff\x00",
            "damaged",
        ),
        (
            "g.pcd",
            pcd_header(range(9), "binary_compressed") + struct.pack("<II", 3, 2**32 - 1) + bytes(3),
            "does not fit",
        ),
        ("missing.ply", None, "No such file"),
    ],
)
def test_bad_file_is_one_sentence(tmp_path, name, content, message):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, np.ndarray):
        np.save(path, content)
    elif content == "pickled":
        np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=message) as caught:
        read_cloud(path)
    assert name in str(caught.value) and "\n" not in str(caught.value)
