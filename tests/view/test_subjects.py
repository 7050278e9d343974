"""The contents of files reach the page: points, colors, normals, labels, names."""

import json
import urllib.error
import urllib.request
from threading import Thread

import laspy
import numpy as np
import pytest

from dapt import cli
from dapt.data.attributes import as_colors, read_attributes
from dapt.errors import DataError
from dapt.inference.labeling import Scan, palette, ply
from dapt.inference.rooms import PointLabels
from dapt.view.portrayal import Portrayal
from dapt.view.serving import server
from dapt.view.subjects import Subject, of_file, probable_up
from support.runs import clouds, labeled


@pytest.fixture
def points():
    return np.random.default_rng(0).normal(size=(50, 3))


def page_of(path):
    """The JSON data of a page."""
    text = path.read_text()
    begin = text.index('id="page">') + len('id="page">')
    return json.loads(text[begin : text.index("</script>", begin)])


def test_a_labeled_ply_tells_its_labels_and_their_names(tmp_path, points):
    labels = np.arange(50) % 3
    result = PointLabels(labels, np.linspace(0, 1, 50, dtype=np.float32))
    (tmp_path / "a.ply").write_bytes(ply(Scan("a", points, result, ("wall", "floor", "a chair"))))
    told = read_attributes(tmp_path / "a.ply", 50)
    assert (told.labels == labels).all() and told.label_names[2] == "a chair"
    assert (told.colors == palette(3)[labels]).all()
    np.testing.assert_allclose(told.values["confidence"], result.confidence)
    assert read_attributes(tmp_path / "a.ply", 49).labels is None  # belongs to other points


def test_las(tmp_path, points):
    file = laspy.create(point_format=3)
    file.x, file.y, file.z = points.T
    file.red = file.green = file.blue = np.arange(50) * 1300
    file.classification = np.arange(50) % 7
    file.intensity = np.arange(50)
    file.write(tmp_path / "a.las")
    told = read_attributes(tmp_path / "a.las", 50)
    assert (told.labels == np.arange(50) % 7).all() and told.label_names[6] == "building"
    assert told.colors[-1, 0] == round(49 * 1300 / 257)
    assert (told.values["intensity"] == np.arange(50)).all()


def test_pcd_with_packed_colors_and_normals(tmp_path, points):
    fields = "FIELDS x y z rgb normal_x normal_y normal_z\nSIZE 4 4 4 4 4 4 4\nTYPE F F F F F F F\n"
    rows = np.zeros(50, [("xyz", "<f4", 3), ("rgb", "<u4"), ("normal", "<f4", 3)])
    rows["xyz"], rows["rgb"], rows["normal"] = points, 200 << 16 | 100 << 8 | 7, [0, 1, 0]
    head = f"VERSION 0.7\n{fields}COUNT 1 1 1 1 1 1 1\nWIDTH 50\nHEIGHT 1\nPOINTS 50\nDATA binary\n"
    (tmp_path / "a.pcd").write_bytes(head.encode() + rows.tobytes())
    told = read_attributes(tmp_path / "a.pcd", 50)
    assert (told.colors == [200, 100, 7]).all() and (told.normals == [0, 1, 0]).all()


@pytest.mark.parametrize("suffix", [".npy", ".xyz"])
@pytest.mark.parametrize("what", ["colors", "normals", "label"])
def test_columns_without_names(tmp_path, points, suffix, what):
    more = {
        "colors": np.tile([255, 128, 0], (50, 1)),
        "normals": points / np.linalg.norm(points, axis=1, keepdims=True),
        "label": (np.arange(50) % 4)[:, None],
    }[what]
    table = np.concatenate([points, more], 1)
    path = tmp_path / f"a{suffix}"
    np.save(path, table) if suffix == ".npy" else np.savetxt(path, table)
    told = read_attributes(path, 50)
    assert (told.colors is None) == (what != "colors")
    assert (told.normals is None) == (what != "normals")
    assert (told.labels is None) == (what != "label")


def test_colors_of_all_kinds():
    assert as_colors(np.array([[0.0, 0.5, 1.0]])).tolist() == [[0, 128, 255]]
    assert as_colors(np.array([[0, 65535, 257]])).tolist() == [[0, 255, 1]]
    assert as_colors(np.array([[-1.0, 0, 0]])) is None
    assert as_colors(np.array([[np.nan, 0, 0]])) is None


def test_up_is_guessed_from_the_shape():
    assert probable_up(np.array([[0, 0, 0], [9, 7, 2.0]])) == "z"
    assert probable_up(np.array([[0, 0, 0], [1, 2, 1.0]])) == "y"


def test_an_npz_of_scans_and_of_a_dataset(tmp_path, points):
    scans = {"room": points, "room_class": np.arange(50) % 2, "room_color": np.full((50, 3), 9)}
    np.savez(tmp_path / "scans.npz", **scans, other=points[:7])
    room, other = of_file(tmp_path / "scans.npz")
    assert room.name == "scans: room" and len(other.points) == 7
    assert (room.attributes.labels == np.arange(50) % 2).all()
    assert (room.attributes.colors == 9).all() and other.attributes.colors is None
    subjects = list(of_file(labeled(tmp_path / "set.npz", samples=5)))
    assert [subject.truth for subject in subjects] == ["cup", "plate", "lamp", "cup", "plate"]
    assert subjects[1].name == "set.npz[1]" and subjects[1].attributes.labels.max() <= 3
    np.savez(tmp_path / "none.npz", a=np.zeros(3))
    with pytest.raises(DataError, match="must hold points"):
        list(of_file(tmp_path / "none.npz"))


def test_labels_of_files_and_of_the_model_share_a_table(points):
    portrayal = Portrayal(["wall", "floor"])
    from dapt.data.attributes import Attributes
    from dapt.view.insight import Insight

    told = Attributes(labels=np.array([0, 1, 2, -100] + [0] * 46), label_names={2: "lamp"})
    insight = Insight(
        np.zeros(50, int), labels=np.ones(50, int), confidence=np.ones(50, np.float32)
    )
    cloud = portrayal.cloud(Subject("a", points, told), insight)
    channels = {channel.key: channel for channel in cloud.channels}
    names = [name for name, _ in portrayal.names()["labels"]]
    assert names == ["unlabeled", "wall", "floor", "lamp"]
    said = [names[number] for number in channels["label"].classes[:4]]
    assert said == ["wall", "floor", "lamp", "unlabeled"]
    assert {names[number] for number in channels["predicted"].classes} == {"floor"}
    outcomes = [portrayal.names()["outcome"][i][0] for i in channels["outcome"].classes[:4]]
    assert outcomes == ["wrong", "right", "no label", "no label"]
    assert dict(cloud.facts.lines)["points right"] == "2.1 %"  # 1 of 48 points


def test_a_large_cloud_is_thinned_and_says_so(points):
    cloud = Portrayal(max_points=20).cloud(Subject("a", points))
    assert len(cloud.points) == 20 and ("in the file", "50 points") in cloud.facts.lines


def test_the_command_shows_files_without_a_run(tmp_path, points, capsys):
    np.save(tmp_path / "<b>.npy", points)
    out = tmp_path / "page.html"
    assert cli.main(["view", str(tmp_path / "<b>.npy"), "--out", str(out)]) == 0
    assert "1 cloud, 50 points" in capsys.readouterr().out
    page = page_of(out)
    assert page["clouds"][0]["name"] == "<b>.npy" and "<b>" not in out.read_text()


def test_the_command_shows_what_a_run_says(tmp_path, run, one_thread, capsys):
    folder, code = run("r", "--with-test")
    assert code == 0
    out = tmp_path / "page.html"
    assert cli.main(["view", "--run", str(folder), "--out", str(out), "--limit", "5"]) == 0
    page = page_of(out)
    assert [cloud["name"] for cloud in page["clouds"]] == ["0 #0", "2 #2", "2 #5", "2 #8", "1 #10"]
    for cloud in page["clouds"]:
        told = cloud["facts"]["probabilities"]
        assert {channel["key"] for channel in cloud["channels"]} >= {"scale", "attention"}
        right = told[0][0] == cloud["name"].split()[0]
        assert cloud["facts"]["verdict"] == ("right" if right else "wrong")
    files = [str(clouds(tmp_path / "c.npz", samples=4)), "--run", str(folder), "--limit", "3"]
    assert cli.main(["view", *files, "--out", str(out)]) == 0
    assert len(page_of(out)["clouds"]) == 3
    assert "--limit shows more" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, sentence",
    [
        ([], "name files of points, a run"),
        (["missing.ply"], "cannot read missing.ply"),
        (["--run", "nowhere"], "is not a run folder"),
        (["a.npy", "--port", "70000"], "port must lie in"),
        (["a.npy", "--limit", "0"], "must be at least 1"),
    ],
)
def test_mistakes_are_said_in_a_sentence(words, sentence, capsys):
    assert cli.main(["view", *words]) in (1, 2)
    said = capsys.readouterr().err
    assert sentence in said and said.startswith("dapt view: ") and said.count("\n") == 1


def test_the_server_hands_out_the_page_and_nothing_else():
    with server(b"<p>page", 0) as running:
        thread = Thread(target=running.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{running.server_port}"
        try:
            assert running.server_address[0] == "127.0.0.1"
            assert urllib.request.urlopen(address).read() == b"<p>page"
            for request, code in (
                (f"{address}/etc/passwd", 404),
                (urllib.request.Request(address, headers={"Host": "evil.example:80"}), 403),
            ):
                with pytest.raises(urllib.error.HTTPError) as error:
                    urllib.request.urlopen(request)
                assert error.value.code == code
        finally:
            running.shutdown()
            thread.join()
