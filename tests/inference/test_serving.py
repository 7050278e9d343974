"""The server over real HTTP on the loopback address: answers, batches, limits, hostile requests."""

import dataclasses
import io
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pytest
import torch

import dapt
from dapt.data.preprocessing import Preprocessing
from dapt.inference.trained import TrainedModel
from support.runs import TINY

pytest.importorskip("fastapi", reason="the extra serve is not installed")
from dapt.inference.serving import batching  # noqa: E402
from dapt.inference.serving.limits import MOST_CLOUDS, Limits  # noqa: E402
from dapt.inference.serving.running import server_of  # noqa: E402
from dapt.inference.serving.shelf import Shelf  # noqa: E402

TOKEN = "a token for the tests"
POINTS = 24  # that the networks see
LIMITS = Limits(megabytes=2, points=40_000, seconds=30, queue=32, batch=16)


def backbone(**other):
    torch.manual_seed(0)
    fields = {key: value for key, value in TINY["backbone"].items() if key != "name"} | other
    return dapt.create_backbone("point_mae", **fields)


PARTS = dapt.PartSegmentation(
    num_classes=2, num_parts=5, class_parts=((0, 1), (2, 3, 4)), class_names=("cup", "lamp")
)
ADAPTERS = {
    "a": (dapt.Dapt(rank=3), dapt.Classification(3, class_names=("x", "y", "z")), {}),
    "b": (dapt.Dapt(rank=3), dapt.Classification(5), {}),
    "upward": (dapt.Linear(), dapt.Classification(3), {"up": "z", "spacing": 1e-3, "extent": 1.0}),
    "full": (dapt.Full(), dapt.Classification(3), {}),
    "parts": (dapt.Dapt(rank=3), PARTS, {}),
    "scene": (dapt.Dapt(rank=3), dapt.SemanticSegmentation(4), {"block": 1.0, "up": "z"}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with one folder per adapter."""
    root = tmp_path_factory.mktemp("adapters")
    for seed, (name, (method, task, ready)) in enumerate(ADAPTERS.items()):
        model = dapt.attach(backbone(), method, task)
        torch.manual_seed(seed)
        with torch.no_grad():
            for _, weight in model.own_parameters():
                weight.add_(torch.randn_like(weight) * 0.3)
        model.save_adapter(root / name, preprocessing=Preprocessing(POINTS, **ready))
    return root


@pytest.fixture(scope="module")
def server(folder):
    """(port, service) of a server that runs in this process."""
    shelf = Shelf(folder)
    model = TrainedModel(backbone()).eval()
    for name in ADAPTERS:
        model.load_adapter(folder / name, name)
        shelf.put(name, model)
    running = server_of(shelf, LIMITS, TOKEN, frozenset({"127.0.0.1"}), patience=0.7)
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    yield listening.getsockname()[1], running.config.app.state.service
    running.should_exit = True
    thread.join()


@pytest.fixture
def ask(server):
    """A function that sends a request and returns (status, body)."""

    def request(path, body=b"", method="POST", **headers):
        with closing(HTTPConnection("127.0.0.1", server[0], timeout=60)) as connection:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, names)
            response = connection.getresponse()
            content = response.read()
            is_json = "json" in response.headers.get("content-type", "")
            return response.status, json.loads(content) if is_json and content else content

    return request


@pytest.fixture
def held(server, monkeypatch):
    """A context in which batches wait for more clouds."""
    monkeypatch.setattr(batching, "PATIENCE", 60.0)
    return server[1].batcher.expecting


def cloud(seed=0, count=40):
    return np.random.default_rng(seed).normal(size=(count, 3))


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def load_adapter(folder, name):
    """The model that an adapter gives on its own."""
    return dapt.load_adapter(folder / name, backbone())


def until(condition):
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < 30
        time.sleep(0.005)


def refuses(port):
    """Whether nothing listens on the port."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize("name", ["a", "b", "upward", "full"])
def test_clouds_get_the_labels_that_predict_gives(ask, folder, name):
    clouds = np.stack([cloud(seed) for seed in range(3)])
    status, told = ask(f"/predict?adapter={name}&format=npy", npy(clouds))
    assert status == 200 and told["adapter"] == name
    wanted = load_adapter(folder, name).predict(clouds)
    for got, answer in zip(told["answers"], wanted, strict=True):
        assert got["label"] == answer.label
        assert list(got["probabilities"]) == list(answer.probabilities)
        for label, chance in answer.probabilities.items():
            assert got["probabilities"][label] == pytest.approx(chance, abs=1e-5)
        assert got["probability"] == max(got["probabilities"].values())
        assert ("remark" in got) == (name == "upward")
    if name == "upward":
        assert "times as far apart as the training's clouds had" in told["answers"][0]["remark"]


def test_every_way_to_send_a_cloud(ask, tmp_path):
    import laspy
    import trimesh

    points = cloud().astype(np.float32).astype(float).round(3)
    np.savez(tmp_path / "c.npz", points=points)
    np.savetxt(tmp_path / "c.xyz", points)
    np.savetxt(tmp_path / "c.csv", points, delimiter=",", header="x,y,z", comments="")
    trimesh.PointCloud(points).export(tmp_path / "c.ply")
    las = laspy.create()
    las.xyz = points
    las.header.scales = [1e-4] * 3
    las.xyz = points
    las.write(tmp_path / "c.las")
    (tmp_path / "c.npy").write_bytes(npy(points))
    as_json = json.dumps({"points": points.tolist()}).encode()
    _, wanted = ask("/predict?adapter=a", as_json, Content_Type="application/json")
    chances = wanted["answers"][0]["probabilities"]
    for ending in ("npz", "xyz", "csv", "ply", "las", "npy"):
        content = (tmp_path / f"c.{ending}").read_bytes()
        form = b'--B\r\nContent-Disposition: form-data; name="f"; filename="../../c.%s"\r\n\r\n'
        form = form % ending.encode() + content + b"\r\n--B--\r\n"
        for answer in (
            ask(f"/predict?adapter=a&format={ending}", content),
            ask("/predict?adapter=a", form, Content_Type="multipart/form-data; boundary=B"),
        ):
            assert answer[0] == 200, answer
            assert answer[1]["answers"][0]["probabilities"] == pytest.approx(chances, abs=1e-4)
    more = np.concatenate([points, points[:, :1]], 1)  # a fourth column is ignored
    status, told = ask("/predict?adapter=a", npy(more), Content_Type="application/x-npy")
    assert status == 200 and told["answers"][0]["probabilities"] == pytest.approx(chances, abs=1e-4)


def test_labels_of_points_as_json_and_as_files(ask, folder):
    points = cloud(3, 200)
    [wanted] = load_adapter(folder, "parts").predict(points, category="lamp")
    path = "/predict?adapter=parts&category=lamp&format=npy"
    _, told = ask(path, npy(points))
    [answer] = told["answers"]
    assert answer["point_labels"] == wanted.point_labels.tolist()
    assert set(answer["point_labels"]) <= {2, 3, 4}
    assert answer["point_probabilities"] == pytest.approx(wanted.point_probabilities, abs=1e-5)
    assert answer["label"] == wanted.label

    _, content = ask(f"{path}&answer=npz", npy(points))
    with np.load(io.BytesIO(content)) as file:
        assert file["labels"].tolist() == answer["point_labels"]
        np.testing.assert_array_equal(file["points"], points)
        assert file["label_names"].tolist() == ["0", "1", "2", "3", "4"]
        np.testing.assert_allclose(file["probabilities"], wanted.point_probabilities, atol=1e-5)
    import laspy
    import trimesh

    _, content = ask(f"{path}&answer=las", npy(points))
    las = laspy.read(io.BytesIO(content))
    np.testing.assert_allclose(las.xyz, points, atol=1e-6)
    assert np.asarray(las["label"]).tolist() == answer["point_labels"]
    assert np.asarray(las.classification).tolist() == answer["point_labels"]
    np.testing.assert_allclose(las["confidence"], wanted.point_probabilities, atol=1e-5)
    _, content = ask(f"{path}&answer=ply", npy(points))
    ply = trimesh.load(io.BytesIO(content), file_type="ply")
    np.testing.assert_array_equal(ply.vertices, points)
    rows = ply.metadata["_ply_raw"]["vertex"]["data"]
    assert rows["label"].ravel().tolist() == answer["point_labels"]

    large = cloud(4, 5000)  # runs alone, split into rows of points
    [wanted] = load_adapter(folder, "parts").predict(large, category="cup")
    _, told = ask("/predict?adapter=parts&category=cup&format=npy", npy(large))
    assert told["answers"][0]["point_labels"] == wanted.point_labels.tolist()


def test_a_scene(ask, folder):
    scene = np.random.default_rng(0).uniform(0, 2, (600, 3))
    [wanted] = load_adapter(folder, "scene").predict(scene)
    status, told = ask("/predict?adapter=scene&format=npy", npy(scene))
    assert status == 200
    assert told["answers"][0]["point_labels"] == wanted.point_labels.tolist()


def test_clouds_of_several_adapters_go_through_the_network_together(ask, server, held, folder):
    service = server[1]
    batches = []
    observe, service.batcher.observe = (
        service.batcher.observe,
        lambda *counts: batches.append(counts),
    )
    names = ["a", "b", "a", "full", "b", "a"]
    try:
        with ThreadPoolExecutor(len(names)) as pool:
            with held():
                answers = [
                    pool.submit(ask, f"/predict?adapter={name}&format=npy", npy(cloud(seed)))
                    for seed, name in enumerate(names)
                ]
                until(lambda: len(service.batcher) == len(names))
            told = [answer.result() for answer in answers]
        until(lambda: len(batches) == 2)
    finally:
        service.batcher.observe = observe
    assert sorted(batches) == [(1, 1), (5, 2)]  # an adapter that changes all weights runs alone
    for seed, (name, (status, body)) in enumerate(zip(names, told, strict=True)):
        [wanted] = load_adapter(folder, name).predict(cloud(seed))
        assert status == 200
        assert body["answers"][0]["probabilities"] == pytest.approx(wanted.probabilities, abs=1e-5)


def test_one_cloud_that_fails_fails_alone(ask, server, held, folder, monkeypatch):
    service, failing = server[1], cloud(1)
    model = service.shelf.get("a").model
    forward = model.forward

    def fails_on_one(points, *inputs, **options):
        if len(points) > 1 or points[0, 0, 0] == mark:
            raise RuntimeError("of a kind that nobody knows")
        return forward(points, *inputs, **options)

    ready = service.shelf.get("a").preprocessing.ready(failing)
    mark = dapt.data.transforms.FarthestPoints(POINTS)(ready, None)[0, 0, 0]
    monkeypatch.setattr(model, "forward", fails_on_one)
    with ThreadPoolExecutor(3) as pool:
        with held():
            answers = [
                pool.submit(ask, "/predict?adapter=a&format=npy", npy(cloud(seed)))
                for seed in range(3)
            ]
            until(lambda: len(service.batcher) == 3)
        statuses = [answer.result()[0] for answer in answers]
    assert statuses == [200, 500, 200]


def test_what_the_server_says_of_itself(ask):
    status, health = ask("/health", method="GET")
    assert (status, health) == (200, {"status": "ok", "adapters": len(ADAPTERS)})
    _, adapters = ask("/adapters", method="GET")
    told = {each["name"]: each for each in adapters}
    assert told["a"]["labels"] == ["x", "y", "z"] and told["a"]["num_points"] == POINTS
    assert told["parts"]["categories"] == ["cup", "lamp"] and told["parts"]["labels_points"]
    ask("/predict?adapter=a&format=npy", npy(cloud()))
    ask("/predict?adapter=a&format=npy", b"")
    _, metrics = ask("/metrics", method="GET")
    counts = dict(re.findall(rb"^([^# ][^ ]*) (\S+)$", metrics, re.MULTILINE))
    assert float(counts[b'dapt_requests_total{adapter="a",status="200"}']) >= 1
    assert float(counts[b'dapt_requests_total{adapter="a",status="422"}']) >= 1
    assert float(counts[b"dapt_batch_clouds_count"]) >= 1
    assert float(counts[b"dapt_requests_in_progress"]) == 0
    assert float(counts[b"dapt_adapters"]) == len(ADAPTERS)

    _, described = ask("/openapi.json", method="GET")
    assert set(described["paths"]) == {
        "/predict", "/adapters", "/adapters/{name}", "/health", "/metrics",
    }  # fmt: skip
    assert {"413", "422", "429", "503"} <= set(described["paths"]["/predict"]["post"]["responses"])
    _, page = ask("/docs", method="GET")
    assert b"swagger-ui" in page and b"http" not in page.replace(b"http-equiv", b"")
    for name in re.findall(rb'(?:src|href)="([^"]+)"', page):
        status, content = ask("/" + name.decode(), method="GET")
        assert status == 200 and content, name


def test_adapters_are_loaded_and_unloaded_by_whoever_has_the_token(ask, folder, server, held):
    right = {"Authorization": f"Bearer {TOKEN}"}
    for wrong in ({}, {"Authorization": "Bearer no"}, {"Authorization": f"Basic {TOKEN}"}):
        for method in ("PUT", "DELETE"):
            status, told = ask("/adapters/b", method=method, **wrong)
            assert status == 401 and "needs the server's token" in told["detail"], method
    # a call in progress is answered by the adapter that it started with
    with ThreadPoolExecutor(1) as pool:
        with held():
            answer = pool.submit(ask, "/predict?adapter=b&format=npy", npy(cloud()))
            until(lambda: len(server[1].batcher) == 1)
            assert ask("/adapters/b", method="DELETE", **right)[0] == 204
            status, told = ask("/predict?adapter=b&format=npy", npy(cloud()))
            assert status == 404 and "there is no adapter 'b' here" in told["detail"]
        status, told = answer.result()
    [wanted] = load_adapter(folder, "b").predict(cloud())
    assert status == 200
    assert told["answers"][0]["probabilities"] == pytest.approx(wanted.probabilities, abs=1e-5)
    assert ask("/adapters/b", method="DELETE", **right)[0] == 404
    for _ in range(2):  # the second time, it replaces the first
        status, told = ask("/adapters/b", method="PUT", **right)
        assert status == 200 and told["name"] == "b" and len(told["labels"]) == 5
    assert ask("/predict?adapter=b&format=npy", npy(cloud()))[0] == 200


@pytest.mark.parametrize(
    "name",
    [
        "..%2f..%2fetc", "%2e%2e", "..", ".", "%2fetc%2fpasswd", "a%2f..%2fb", "a%00", "nowhere",
        "C:%5cWindows", "a%0aSet-Cookie:x", "x" * 300,
    ],
)  # fmt: skip
def test_no_name_leads_out_of_the_folder(ask, name):
    right = {"Authorization": f"Bearer {TOKEN}"}
    for method in ("PUT", "DELETE"):
        status, told = ask(f"/adapters/{name}", method=method, **right)
        assert status in (404, 405, 307), told
        assert "/tmp" not in str(told) and "root" not in str(told)
    status, told = ask(f"/predict?adapter={name}&format=npy", npy(cloud()))
    assert status in (404, 422)


def test_adapters_that_do_not_fit_are_refused_without_paths(ask, folder, tmp_path):
    model = dapt.attach(backbone(depth=1), dapt.Dapt(rank=3), dapt.Classification(3))
    model.save_adapter(folder / "foreign", preprocessing=Preprocessing(POINTS))
    (folder / "broken").mkdir(exist_ok=True)
    (folder / "broken" / "adapter_config.json").write_text("{")
    same = dapt.attach(backbone(), dapt.Dapt(rank=3), dapt.Classification(3))
    same.save_adapter(folder / "untold")
    right = {"Authorization": f"Bearer {TOKEN}"}
    for name, reason in {
        "foreign": "an adapter for a backbone with depth=1",
        "broken": "is not JSON",
        "untold": "does not record how its training clouds were prepared",
    }.items():
        status, told = ask(f"/adapters/{name}", method="PUT", **right)
        assert status == 422 and reason in told["detail"], told
        assert str(folder) not in told["detail"]
    assert ask("/health", method="GET")[1]["adapters"] == len(ADAPTERS)


def header_of_npy(shape, descr="'<f8'"):
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


class Boom:
    def __reduce__(self):
        return os.system, ("touch /tmp/dapt-was-here",)


def zipped(name, content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def with_nan():
    points = cloud()
    points[7, 1] = np.nan
    return points


PLY = b"ply\nformat binary_little_endian 1.0\nelement vertex %d\n" + b"".join(
    b"property float %s\n" % axis for axis in (b"x", b"y", b"z")
)
TEXTURE = b"comment TextureFile /etc/passwd\n"
HOSTILE = {
    "nothing": ("npy", b"", 422, "not a complete .npy file"),
    "huge npy": ("npy", header_of_npy((10**12, 3)), 422, "promises 24,000,000,000,000 bytes"),
    "negative npy": ("npy", header_of_npy((-1, 3)), 422, "not a complete .npy file"),
    "rows of nothing": ("npy", header_of_npy((10**9, 0, 3)), 413, f"{MOST_CLOUDS} clouds"),
    "cut npy": ("npy", npy(cloud())[:-9], 422, "bytes of numbers, but it has"),
    "code in a header": ("npy", header_of_npy("__import__('os').abort()"), 422, "complete .npy"),
    "pickled npy": ("npy", npy(np.array([Boom()], object)), 422, "Python objects"),
    "pickled npz": ("npz", zipped("points.npy", npy(np.array([Boom()], object))), 422, "objects"),
    "zip bomb": ("npz", zipped("points.npy", bytes(2**24)), 413, "expands to more than"),
    "no zip": ("npz", b"PK\x03\x04" + bytes(99), 422, "not a complete .npz file"),
    "NaN": ("npy", npy(with_nan()), 422, "not finite: point 7"),
    "NaN in JSON": ("json", json.dumps({"points": with_nan().tolist()}).encode(), 422, "point 7"),
    "few points": ("npy", npy(cloud(0, 9)), 422, "has 9 points, and the network was trained on"),
    "words": ("npy", npy(np.array([["x"] * 3] * 40)), 422, "must be numbers"),
    "four axes": ("npy", npy(np.zeros((2, 2, 40, 3))), 422, r"\[S, N, D\]"),
    "one number": ("npy", npy(np.float64(3)), 422, "clouds must be"),
    "no JSON": ("json", b'{"points": [[1, 2', 422, "not JSON"),
    "deep JSON": ("json", b"[" * 70_000, 422, "not JSON"),
    "wide JSON": ("json", b'{"points": [' + b"[]," * 90_000 + b"[]]}", 413, "JSON is too long"),
    "ragged JSON": ("json", b'{"points": [[1, 2, 3], [4, 5]]}', 422, "of equal length"),
    "other JSON": ("json", b'{"path": "/etc/passwd"}', 422, "and nothing else"),
    "large numbers": ("json", b'{"points": [[1e999, 0, 0]]}', 422, "has 1 points"),
    "huge ply": ("ply", PLY % 10**12 + b"end_header\n" + bytes(12), 422, "cannot read the cloud"),
    "cut ply": ("ply", (PLY % 40)[:60], 422, "cannot read the cloud"),
    "ply with a texture": ("ply", PLY % 1 + TEXTURE + b"end_header\n" + bytes(12), 422, "points"),
    "obj that names a file": ("obj", b"mtllib /etc/passwd\nv 0 0 0\n", 422, "cloud"),
    "no las": ("las", b"LASF" + bytes(300), 422, "cannot read the cloud"),
    "huge las": ("las", b"LASF" + bytes(103) + b"\xff" * 4 + bytes(200), 413, "4,294,967,295"),
    "not text": ("xyz", bytes(range(256)), 422, "cannot read the cloud"),
    "no format": ("exe", b"MZ", 422, "'exe' is not a format of points"),
    "a path for a format": ("../../etc/passwd", b"", 422, "is not a format of points"),
    "many clouds": ("npy", npy(np.zeros((MOST_CLOUDS + 1, 24, 3))), 413, "may hold 64 clouds"),
    "many points": ("npy", npy(np.zeros((40_001, 3), np.float32)), 413, "40,001 points"),
    "many bytes": ("npy", bytes(2 * 2**20 + 1), 413, "more than 2 MiB"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_requests_get_one_sentence(ask, kind):
    format, body, wanted, words = HOSTILE[kind]
    status, told = ask(f"/predict?adapter=a&format={format}", body)
    assert status == wanted and re.search(words, told["detail"]), told
    assert not re.search(r"/tmp|dapt-\w{8}|Traceback|\n", told["detail"]), told
    assert not Path("/tmp/dapt-was-here").exists()
    assert ask("/predict?adapter=a&format=npy", npy(cloud()))[0] == 200


def test_mistaken_requests(ask):
    body = npy(cloud())
    for path, words in {
        "/predict?format=npy": "name an adapter: a, ",
        "/predict?adapter=a": "name the format of the body with format=: json, npz, csv",
        "/predict?adapter=a&format=npy&answer=ply": "labels whole clouds",
        "/predict?adapter=a&format=npy&answer=pickle": "query answer: Input should be 'json'",
        "/predict?adapter=a&format=npy&category=cup": "has no categories",
        "/predict?adapter=parts&format=npy": "parts depend on the category",
        "/predict?adapter=parts&format=npy&category=car": "unknown category 'car'",
    }.items():
        status, told = ask(path, body)
        assert status == 422 and words in told["detail"], told
    for host in ("evil.example", "evil.example:80", "[::1", "127.0.0.1.evil.example", "@127.0.0.1"):
        status, told = ask("/health", method="GET", Host=host)
        assert status == 400 and "this server does not answer to" in told["detail"], host
    assert ask("/health", method="GET", Host="127.0.0.1:99")[0] == 200
    two = npy(np.stack([cloud(0), cloud(1)]))
    status, told = ask("/predict?adapter=parts&category=cup&format=npy&answer=las", two)
    assert status == 422 and "holds one cloud" in told["detail"]
    form = b"--B\r\nContent-Disposition: form-data; name=f\r\n\r\nx\r\n--B--\r\n"
    for body in (form, form * 2, b"", b"--B"):
        kind = "multipart/form-data; boundary=B"
        status, told = ask("/predict?adapter=a&format=npy", body, Content_Type=kind)
        assert status == 422 and "form" in told["detail"], told


def test_who_declares_too_much_is_sent_away_at_once(server):
    with socket.create_connection(("127.0.0.1", server[0])) as client:
        client.sendall(
            b"POST /predict?adapter=a&format=npy HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Content-Length: 99999999999\r\n\r\n"
        )
        assert client.recv(4096).startswith(b"HTTP/1.1 413 ")
    with socket.create_connection(("127.0.0.1", server[0])) as client:  # also when sent in chunks
        client.sendall(
            b"POST /predict?adapter=a&format=npy HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(3):
            client.sendall(b"100000\r\n" + bytes(2**20) + b"\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_a_full_queue_and_a_late_answer(ask, server, held, monkeypatch):
    service = server[1]
    monkeypatch.setattr(service, "limits", dataclasses.replace(LIMITS, queue=2, seconds=1.0))
    body = npy(cloud())
    with ThreadPoolExecutor(2) as pool:
        with held():
            waiting = [pool.submit(ask, "/predict?adapter=a&format=npy", body) for _ in range(2)]
            until(lambda: len(service.batcher) == 2)
            status, told = ask("/predict?adapter=a&format=npy", body)
            assert status == 429 and "2 requests are in progress" in told["detail"]
            for late in waiting:
                status, told = late.result()
                assert status == 503 and "not answered in time" in told["detail"]
    assert ask("/predict?adapter=a&format=npy", body)[0] == 200
    assert service._open == 0


def test_slow_clients_are_let_go(server, monkeypatch):
    port, service = server
    monkeypatch.setattr(service, "limits", dataclasses.replace(LIMITS, seconds=0.5))
    head = b"POST /predict?adapter=a&format=npy HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(head)  # which never ends
        for _ in range(3):
            time.sleep(0.1)
            client.sendall(b"X-Slow: yes\r\n")
        with pytest.raises(OSError) as gone:
            while client.recv(100):
                pass
            raise ConnectionResetError
        assert not isinstance(gone.value, TimeoutError)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(head + b"Content-Length: 999\r\n\r\nfew")
        assert client.recv(4096).startswith(b"HTTP/1.1 503 ")
    with socket.socket() as client:  # never reads the responses
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(20)
        client.connect(("127.0.0.1", port))
        for _ in range(8):
            client.sendall(b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        time.sleep(2.5)
        received = 0
        try:
            while chunk := client.recv(2**16):
                received += len(chunk)
        except ConnectionResetError:
            pass
        assert received < 2**22  # of eight megabytes


def test_the_command(run, tmp_path):
    """Two names on one network; a request in progress when the server is stopped is answered."""
    one, code = run("one", epochs=1, warmup_epochs=0)
    assert code == 0
    child = subprocess.Popen(
        [sys.executable, "-m", "dapt", "serve", str(one), f"other={one}", "--port=0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    line = child.stdout.readline()
    port = int(re.match(r"http://127\.0\.0\.1:(\d+) serves one, other until", line)[1])
    body = npy(cloud(0, 64))
    head = (
        "POST /predict?adapter=other&format=npy HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(head.encode() + body[:100])
        time.sleep(0.3)
        child.send_signal(signal.SIGTERM)
        until(lambda: refuses(port))
        assert child.poll() is None
        client.sendall(body[100:])
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200 ") and b'"adapter": "other"' in answer
    assert child.wait(60) == 0
    assert "Traceback" not in child.stderr.read()


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["nowhere"], "nowhere"),
        (["x/run", "y/run"], "two runs are called run: rename one, for example run_2=y/run"),
        (["run", "--adapters", "."], "--adapters needs a token in the environment variable"),
        (["run", "--port", "70000"], "port must lie in 0 to 65535"),
        (["run", "--timeout", "-1"], "must be above 0"),
        (["run", "--queue", "0"], "must be at least 1"),
    ],
)
def test_mistaken_commands(words, sentence, capsys, monkeypatch):
    monkeypatch.delenv("DAPT_SERVE_TOKEN", raising=False)
    assert dapt.cli.main(["serve", *words]) != 0
    assert sentence in capsys.readouterr().err
