"""Scenes of any size: tiles give the same result, files stay complete, kills and sharing are
safe."""

import os
import socket
import struct
import subprocess
import sys
import time

import laspy
import numpy as np
import pytest
import torch
import yaml

import dapt
from dapt import cli
from dapt.data import las_stream, ply_stream
from dapt.data.clouds import read_cloud
from dapt.data.preprocessing import Preprocessing
from dapt.data.streams import Labels, survey
from dapt.errors import DataError, UsageError, reading
from dapt.inference import scene_files
from dapt.inference.asprs import codes_of
from dapt.inference.rooms import label_room
from dapt.inference.scene_parts import is_streamed, open_stream
from dapt.inference.scenes import SceneOptions, label_scenes
from dapt.inference.team import Team
from support.runs import TINY

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ("ground", "wall", "lamp")
TRAINED = Preprocessing(64, up="z", block=1.0)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    for module in (las_stream, ply_stream):
        monkeypatch.setattr(module, "PIECE", 700)
    monkeypatch.setattr(scene_files, "TOGETHER", 900)


@pytest.fixture
def model(small_backbone):
    torch.manual_seed(0)
    task = dapt.SemanticSegmentation(3, class_names=NAMES)
    model = dapt.attach(small_backbone(), dapt.Dapt(rank=3), task)
    layers = [m for m in model.adapter.head.modules() if isinstance(m, torch.nn.Linear)]
    for layer in layers:  # as if trained, so that nearby points differ
        torch.nn.init.normal_(layer.weight, std=2 * layer.in_features**-0.5)
    return model


def places(rng, count=2500):
    """A hall with a dense corner, far from the origin, and a single distant point."""
    dense = rng.uniform(0, 1, (count // 2, 3)) * (1.3, 0.9, 1.0)
    wide = rng.uniform(0, 1, (count - count // 2 - 1, 3)) * (7.3, 4.1, 2.0)
    return np.concatenate([dense, wide, [[5000.0, 2.0, 0.0]]]).round(3) + (500_000, 5_000_000, 40)


def las_of(path, rng, version="1.4", point_format=7, points=None):
    points = places(rng) if points is None else points
    header = laspy.LasHeader(version=version, point_format=point_format)
    header.scales, header.offsets = (0.001, 0.001, 0.002), (500_000, 5_000_000, 0)
    header.system_identifier = "a scanner"
    header.add_extra_dim(laspy.ExtraBytesParams("reflectance", "float32", "of the beam"))
    header.vlrs.append(laspy.VLR("somebody", 7, "a table", b"content"))
    header.vlrs.append(laspy.vlrs.known.WktCoordinateSystemVlr('PROJCS["UTM 33N"]'))
    las = laspy.LasData(header)
    las.xyz = points
    las.reflectance = rng.normal(size=len(points))
    las.intensity = rng.integers(0, 2**16, len(points))
    las.classification = rng.integers(0, 20, len(points))
    las.gps_time = rng.uniform(0, 1e6, len(points))
    las.return_number = rng.integers(1, 4, len(points))
    las.user_data = rng.integers(0, 256, len(points))
    if "red" in las.point_format.dimension_names:
        las.red, las.green, las.blue = rng.integers(0, 2**16, (3, len(points)))
    if version == "1.4":
        las.evlrs = laspy.vlrs.vlrlist.VLRList([laspy.VLR("somebody", 9, "after", b"x" * 70_000)])
    las.write(path)
    return las


def ply_of(path, rng, order="<", colors=True):
    """Writes a binary file with unusual properties among the common ones; returns its rows."""
    points = places(rng)
    fields = [("scan", order + "u2"), ("x", order + "f8"), ("y", order + "f8"), ("z", order + "f8")]
    fields += [("red", "u1"), ("green", "u1"), ("blue", "u1")] if colors else []
    rows = np.zeros(len(points), [*fields, ("time", order + "f4")])
    for axis, name in enumerate("xyz"):
        rows[name] = points[:, axis]
    for name in set(rows.dtype.names) - {"x", "y", "z"}:
        rows[name] = rng.integers(0, 255, len(points))
    words = {"u2": "ushort", "f8": "double", "f4": "float", "u1": "uchar"}
    head = ["ply", f"format binary_{'little' if order == '<' else 'big'}_endian 1.0"]
    head += ["comment of a scanner", f"element vertex {len(points)}"]
    head += [f"property {words[rows.dtype[n].str[1:]]} {n}" for n in rows.dtype.names]
    path.write_bytes("\n".join([*head, "end_header", ""]).encode() + rows.tobytes())
    return rows


def label(model, path, out, tile=2_000_000, trained=TRAINED, team=None, **options):
    options = SceneOptions(out=out, block=1.0, stride=0.5, tile=tile, **options)
    [found] = label_scenes(model, [path], trained, options, team or Team())
    if isinstance(found, DataError):
        raise found
    return found


@pytest.mark.parametrize("suffix", [".las", ".laz", ".ply"])
def test_tiles_change_no_bit(model, tmp_path, rng, suffix):
    """Tiles of any size give the same as the whole scene in memory, even at their borders."""
    path = tmp_path / f"hall{suffix}"
    rows = ply_of(path, rng) if suffix == ".ply" else las_of(path, rng)
    whole = label_room(model, read_cloud(path), 64, 1.0, 0.5)
    counts = np.bincount(whole.labels, minlength=3)
    assert counts.sum() == len(rows)
    for tile in (10_000, 400):
        out = tmp_path / str(tile)
        found = label(model, path, out, tile)
        assert (np.load(out / "hall_labels.npy") == whole.labels).all()
        assert found.counts.tolist() == counts.tolist()
        assert sorted(p.name for p in out.iterdir()) == sorted({p.name for p in found.written})
    if suffix == ".ply":
        got = laspy_like(out / "hall_labels.ply")
    else:
        got = laspy.read(out / f"hall_labels{suffix}")
    assert (np.asarray(got["label"]) == whole.labels).all()
    assert (np.asarray(got["confidence"]) == whole.confidence.astype(np.float32)).all()


def laspy_like(path):
    """Rows of a binary ply file, read by its header alone."""
    head, _, body = path.read_bytes().partition(b"end_header\n")
    order = "<" if b"little" in head else ">"
    types = {"ushort": "u2", "double": "f8", "float": "f4", "uchar": "u1", "int": "i4"}
    words = [line.split() for line in head.decode().splitlines()]
    fields = [(w[2], order + types[w[1]]) for w in words if w[0] == "property"]
    return np.frombuffer(body, fields)


@pytest.mark.parametrize(
    "suffix, version, point_format", [(".las", "1.4", 7), (".laz", "1.4", 6), (".laz", "1.2", 3)]
)
def test_all_of_a_las_file_stays(model, tmp_path, rng, suffix, version, point_format):
    path, out = tmp_path / f"a{suffix}", tmp_path / "out"
    before = las_of(path, rng, version, point_format)
    codes = codes_of({"ground": 2, "wall": 6}, NAMES)
    label(model, path, out, 500)
    kept = laspy.read(out / f"a_labels{suffix}")
    label(model, path, tmp_path / "coded", 500, codes=codes)
    coded = laspy.read(tmp_path / "coded" / f"a_labels{suffix}")
    for after in (kept, coded):
        assert after.header.are_points_compressed == (suffix == ".laz")
        assert after.point_format.id == point_format and str(after.header.version) == version
        assert (after.header.scales == before.header.scales).all()
        assert (after.header.offsets == before.header.offsets).all()
        assert after.header.system_identifier == "a scanner"
        names = list(before.point_format.dimension_names)
        assert list(after.point_format.dimension_names) == [*names, "label", "confidence"]
        for name in set(names) - {"classification"}:
            assert (np.asarray(after[name]) == np.asarray(before[name])).all(), name
        tables = {(vlr.user_id, vlr.record_id): vlr.record_data_bytes() for vlr in after.vlrs}
        assert tables["somebody", 7] == b"content"
        assert b"UTM 33N" in tables["LASF_Projection", 2112]
        assert tables["dapt", 1] == b'["ground", "wall", "lamp"]'
        if version == "1.4":
            assert [(each.record_id, len(each.record_data)) for each in after.evlrs] == [
                (9, 70_000)
            ]
    assert (kept.classification == before.classification).all()
    assert (coded.classification == codes[coded["label"]]).all()
    label(model, out / f"a_labels{suffix}", tmp_path / "twice")  # new labels replace the old ones
    twice = laspy.read(tmp_path / "twice" / f"a_labels_labels{suffix}")
    assert list(twice.point_format.dimension_names) == [*names, "label", "confidence"]
    assert (twice["label"] == kept["label"]).all()


@pytest.mark.parametrize("order, colors", [("<", True), (">", False)])
def test_all_of_a_ply_file_stays(model, tmp_path, rng, order, colors):
    path = tmp_path / "a.ply"
    before = ply_of(path, rng, order, colors)
    label(model, path, tmp_path / "out", 500)
    after = laspy_like(tmp_path / "out" / "a_labels.ply")
    for name in before.dtype.names:
        assert (after[name] == before[name]).all() and after[name].dtype == before[name].dtype
    own = {"label", "confidence"} | (set() if colors else {"red", "green", "blue"})
    assert set(after.dtype.names) - set(before.dtype.names) == own
    head = (tmp_path / "out" / "a_labels.ply").read_bytes()[:600]
    assert b"comment of a scanner\ncomment label 0: ground\n" in head
    cloud = dapt.data.read_cloud(tmp_path / "out" / "a_labels.ply")
    np.testing.assert_array_equal(cloud, np.stack([before[axis] for axis in "xyz"], 1))


def test_colors_are_told_as_from_memory(small_backbone, tmp_path, rng):
    """The scale of 16-bit colors depends on the brightest point of the whole file."""
    from dapt.inference.prediction import clouds_of

    torch.manual_seed(0)
    backbone = small_backbone("uni3d_tiny")
    model = dapt.attach(backbone, dapt.Linear(), dapt.SemanticSegmentation(3))
    trained = Preprocessing(64, up="z", block=1.0, channels="color")
    las_of(tmp_path / "a.las", rng)
    [(_, points)] = clouds_of(tmp_path / "a.las", "color")
    assert points.shape[1] == 6 and points[:, 3:].max() > 0.99
    whole = label_room(model, points, 64, 1.0, 0.5)
    label(model, tmp_path / "a.las", tmp_path / "out", 500, trained)
    assert (np.load(tmp_path / "out" / "a_labels.npy") == whole.labels).all()


@pytest.mark.parametrize("away", [1e5, 1e9])
def test_a_stray_point_costs_nothing(model, tmp_path, rng, away):
    points = np.vstack([rng.uniform(0, 3, (900, 3)), [[away, -away, 0]]])
    rows = np.zeros(len(points), [(axis, "<f8") for axis in "xyz"])
    for axis, name in enumerate("xyz"):
        rows[name] = points[:, axis]
    head = "ply\nformat binary_little_endian 1.0\nelement vertex 901\n"
    head += "".join(f"property double {axis}\n" for axis in "xyz") + "end_header\n"
    (tmp_path / "a.ply").write_bytes(head.encode() + rows.tobytes())
    begun = time.monotonic()
    label(model, tmp_path / "a.ply", tmp_path / "out", 300)
    assert time.monotonic() - begun < 30
    assert len(np.load(tmp_path / "out" / "a_labels.npy")) == 901


class _Kill(BaseException):
    pass


def test_what_was_labeled_before_a_kill_stays(model, tmp_path, rng, monkeypatch, caplog):
    from dapt.inference import scenes

    las_of(tmp_path / "a.las", rng)
    label(model, tmp_path / "a.las", tmp_path / "at_once", 500)
    region, calls = scenes.label_region, []

    def killed(*args, **options):
        calls.append(1)
        if len(calls) == 4:
            raise _Kill
        return region(*args, **options)

    monkeypatch.setattr(scenes, "label_region", killed)
    with pytest.raises(_Kill):
        label(model, tmp_path / "a.las", tmp_path / "out", 500)
    assert not list((tmp_path / "out").glob("a_labels.*s")) or len(calls) == 4
    parts = tmp_path / "out" / "a_labels.parts"
    assert len(list(parts.glob("tile_*.npy"))) == 3
    with caplog.at_level("INFO", "dapt"):
        label(model, tmp_path / "a.las", tmp_path / "out", 500)
    assert "resuming, 3 of " in caplog.text and not parts.exists()
    for name in ("a_labels.las", "a_labels.npy", "a_labels.ply"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "at_once" / name).read_bytes()
    calls.clear()  # another model starts over
    with pytest.raises(_Kill):
        label(model, tmp_path / "a.las", tmp_path / "out", 500)
    with torch.no_grad():
        next(model.adapter.head.parameters()).mul_(2)
    caplog.clear()
    with caplog.at_level("INFO", "dapt"):
        label(model, tmp_path / "a.las", tmp_path / "out", 500)
    assert "starting over" in caplog.text


@pytest.fixture
def run(tmp_path, rng):
    """A run of a tiny scene model."""
    scenes = tmp_path / "scenes"
    scenes.mkdir()
    (scenes / "classes.txt").write_text("\n".join(NAMES) + "\n")
    for number in range(3):
        points = rng.uniform(0, 1, (600, 3)) * (2.0, 2.0, 1.0)
        np.savez(scenes / f"{number}.npz", points=points, labels=(3 * points[:, 2]).astype(int))
    tree = TINY | {"task": "semantic_segmentation", "epochs": 1, "num_points": 32}
    tree |= {"method": "linear", "data": {"name": "scenes", "num_points": 64, "min_points": 10}}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(tree))
    words = ["--data.train", str(scenes), "--out", str(tmp_path / "run")]
    assert cli.main(["train", "--config", str(tmp_path / "a.yaml"), *words]) == 0
    return tmp_path / "run"


def test_processes_share_tiles_and_files_and_a_kill_loses_none(run, tmp_path, rng, capfd, caplog):
    """The command in one process and in two that are killed and resumed gives the same bytes."""
    for name in ("a.las", "b.laz"):
        las_of(tmp_path / name, rng)
    ply_of(tmp_path / "c.ply", rng)
    np.save(tmp_path / "d.npy", rng.uniform(0, 2, (300, 3)))
    (tmp_path / "e.las").write_bytes(b"LASF of no use")
    files = [str(tmp_path / name) for name in ("a.las", "b.laz", "c.ply", "d.npy", "e.las")]
    words = ["predict", str(run), *files, "--asprs", "names", "--accelerator", "cpu"]
    assert cli.main([*words, "--out", str(tmp_path / "one")]) == 1
    alone = capfd.readouterr()
    assert "1 file was skipped" in alone.err and "e.las" in caplog.text
    words += ["--out", str(tmp_path / "two"), "--tile", "60"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    team = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "dapt", *words],
            env=environment | team | {"RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.DEVNULL,
        )
        for rank in ("0", "1")
    ]
    try:
        end = time.monotonic() + 120
        while len(list((tmp_path / "two").glob("*.parts/tile_*.npy"))) < 4:
            assert time.monotonic() < end and workers[0].poll() is None
            time.sleep(0.01)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert list((tmp_path / "two").glob("*.parts"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "dapt", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert " tiles are labeled" in done.stderr and "1 file was skipped" in done.stderr
    assert done.stdout.replace("/two/", "/one/") == alone.out
    one, two = (sorted((tmp_path / name).iterdir()) for name in ("one", "two"))
    assert [path.name for path in one] == [path.name for path in two]
    for first, second in zip(one, two, strict=True):
        assert first.read_bytes() == second.read_bytes(), first.name


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("ground=2,door=3", "unknown label 'door'"),
        ("ground=300", "must be a number from 0 to 255"),
        ("ground=two", "--asprs takes names, label=code,... or a YAML file, got ground=two"),
        ("nothing.yaml", "nothing.yaml"),
    ],
)
def test_codes_that_are_none(run, tmp_path, rng, capsys, text, sentence):
    las_of(tmp_path / "a.las", rng)
    assert cli.main(["predict", str(run), str(tmp_path / "a.las"), "--asprs", text]) != 0
    assert sentence in capsys.readouterr().err


def test_codes_go_by_the_labels_names():
    assert codes_of(None, ("High_Vegetation", "chair", "water")).tolist() == [5, 1, 9]
    with pytest.raises(UsageError, match="no label has the name of an ASPRS class"):
        codes_of(None, ("chair", "table"))


def test_a_code_too_large_for_an_old_file(model, tmp_path, rng):
    las_of(tmp_path / "a.las", rng, "1.2", 3)
    codes = codes_of({"lamp": 64}, NAMES)
    with pytest.raises(DataError, match="point format 3, whose classes end with 31: code 64"):
        label(model, tmp_path / "a.las", tmp_path / "out", codes=codes)


def test_files_that_are_damaged(tmp_path, rng):
    """A wrong or missing byte is reported in one sentence or does not matter; never worse."""
    las_of(tmp_path / "a.laz", rng)
    ply_of(tmp_path / "a.ply", rng)
    labels = Labels(NAMES, None, np.zeros((3, 3), np.uint8))

    def nothing(start, stop):
        return np.zeros(stop - start, int), np.zeros(stop - start)

    for suffix in (".laz", ".ply"):
        content = (tmp_path / f"a{suffix}").read_bytes()
        for number in range(30):
            damaged = bytearray(content)
            at = int(rng.integers(len(content) if number % 2 else 400))
            damaged[at] ^= int(rng.integers(1, 256))
            path = tmp_path / f"damaged{suffix}"
            path.write_bytes(bytes(damaged) if number % 3 else content[: max(at, 300)])
            try:
                if is_streamed(path):
                    stream = open_stream(path)
                    survey(stream, "xyz")
                    with reading(path):
                        stream.write(
                            tmp_path / "out", lambda i, j: (np.zeros(j - i, int), 0), labels
                        )
            except DataError as error:
                assert str(path) in str(error) and "\n" not in str(error)


def copc_of(path, rng):
    """Writes a COPC file as specified: a two-level octree with one chunk per node."""
    import lazrs

    las = las_of(path.with_suffix(".las"), rng, point_format=6)
    xyz = np.asarray(las.xyz)
    center, half = (xyz.max(0) + xyz.min(0)) / 2, np.ptp(xyz, axis=0).max() / 2 + 1
    octant = ((xyz > center) * (1, 2, 4)).sum(1)
    top = rng.random(len(xyz)) < 0.3
    nodes = [((0, 0, 0, 0), np.flatnonzero(top))]
    for each in np.unique(octant[~top]):
        key = (1, int(each & 1), int(each >> 1 & 1), int(each >> 2 & 1))
        nodes.append((key, np.flatnonzero(~top & (octant == each))))
    las.update_header()
    header = las.header
    extra = header.point_format.num_extra_bytes
    packer = lazrs.LazVlr.new_for_compression(6, extra, True)
    zipped = laspy.VLR("laszip encoded", 22204, "", bytes(packer.record_data()))

    def head(file, hierarchy, size):
        info = struct.pack("<5d2Q2d", *center, half, 1.0, hierarchy, size, 0.0, 1.0)
        tables = [laspy.VLR("copc", 1, "", info + bytes(88)), zipped]
        header.vlrs.clear()
        header.vlrs.extend([*tables, *kept])
        header.are_points_compressed = True
        header.start_of_first_evlr, header.number_of_evlrs = hierarchy - 60, 1
        file.seek(0)
        header.write_to(file)
        return file.tell()

    kept = [vlr for vlr in header.vlrs]
    with open(path, "wb+") as file:
        begin = head(file, 60, 0)
        packed = lazrs.LasZipCompressor(file, packer)
        packed.reserve_offset_to_chunk_table()
        entries, at = b"", begin + 8
        for key, rows in nodes:
            packed.compress_many(las.points.array[rows].tobytes())
            packed.finish_current_chunk()
            entries += struct.pack("<4iQ2i", *key, at, file.tell() - at, len(rows))
            at = file.tell()
        packed.done()
        end = file.seek(0, 2)
        file.write(struct.pack("<2x16sHQ32s", b"copc", 1000, len(entries), b"") + entries)
        head(file, end + 60, len(entries))
    return las.points.array[np.concatenate([rows for _, rows in nodes])]


def test_the_index_of_a_copc_file_is_used(model, tmp_path, rng, monkeypatch):
    path = tmp_path / "a.copc.laz"
    rows = copc_of(path, rng)
    assert len(laspy.CopcReader.open(path).query()) == len(rows)
    whole = label_room(model, read_cloud(path), 64, 1.0, 0.5)
    monkeypatch.setattr("dapt.data.tiles.Spill.fill", None)  # nothing may be sorted on disk
    label(model, path, tmp_path / "out", 300)
    after = laspy.read(tmp_path / "out" / "a.copc_labels.laz")
    assert (after["label"] == whole.labels).all() and (after.intensity == rows["intensity"]).all()
    assert (after["confidence"] == whole.confidence).all()
    assert not {"copc"} & {table.user_id for table in [*after.vlrs, *after.evlrs]}
