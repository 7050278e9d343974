"""A cloud's result does not depend on its batch; files are read while the network computes."""

import json
import threading

import numpy as np
import pytest
import torch

from dapt import cli
from dapt.data.preprocessing import Preprocessing
from dapt.errors import DataError
from dapt.inference.ahead import read_ahead
from dapt.inference.prediction import clouds_of, predict, predict_files
from dapt.inference.score import log_probabilities
from support.fixtures import SMALL
from support.methods import attached, each_method, randomize

pytestmark = pytest.mark.usefixtures("one_thread")
TRAINED = Preprocessing(num_points=80)


def scans(count=6):
    rng = np.random.default_rng(5)
    return [(f"scan {i}", rng.normal(size=(80 + 7 * i, 3))) for i in range(count)]


def assert_as_alone(model, votes=1):
    randomize(model)
    together = list(predict(model, scans(), TRAINED, votes, seed=3))
    alone = [each for scan in scans() for each in predict(model, [scan], TRAINED, votes, seed=3)]
    assert together == alone and len({each["probability"] for each in alone}) > 1
    for (_, points), found in zip(scans(), together, strict=True):
        generator = torch.Generator().manual_seed(3)
        batch = {"points": TRAINED.ready(points)}
        with torch.no_grad():
            wanted = log_probabilities(model, batch, 80, votes, generator)[0].exp()
        assert list(found["probabilities"].values()) == wanted.tolist()


@each_method
def test_a_cloud_gets_what_it_gets_alone_whatever_the_method(small_backbone, method):
    assert_as_alone(attached(small_backbone(), method))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("method", ["dapt", "full"])
def test_and_whatever_the_backbone(small_backbone, name, method):
    assert_as_alone(attached(small_backbone(name), method), votes=2)


def test_and_whatever_the_instruction_set(small_backbone, on_each_isa):
    model = attached(small_backbone(), "dapt")
    on_each_isa(assert_as_alone, model)


@pytest.fixture
def model(small_backbone):
    return attached(small_backbone(), "dapt")


def test_files_keep_their_order_and_their_errors(model, tmp_path):
    rng = np.random.default_rng(0)
    many = rng.normal(size=(5, 90, 3)).astype(np.float32)
    broken = many.copy()
    broken[3, 8] = np.nan
    np.savez(tmp_path / "many.npz", points=many)
    np.savez(tmp_path / "broken.npz", points=broken)
    np.savez(tmp_path / "none.npz", points=many[:0])
    np.save(tmp_path / "one.npy", many[0])
    np.save(tmp_path / "few.npy", many[0, :20])
    (tmp_path / "nothing.ply").write_text("nothing")
    names = ("none.npz", "one.npy", "broken.npz", "nothing.ply", "many.npz", "few.npy", "none.npz")
    paths = [tmp_path / name for name in names]
    for batch_size in (1, 3, 32):
        found = list(predict_files(model, paths, TRAINED, batch_size=batch_size))
        good = {0: [], 1: [paths[1]], 4: [f"{paths[4]}[{i}]" for i in range(5)], 6: []}
        for number, wanted in good.items():
            assert [each["file"] for each in found[number]] == [str(name) for name in wanted]
            clouds = clouds_of(paths[number])
            assert found[number] == list(predict(model, clouds, TRAINED))
        errors = {2: "broken.npz[3] has a point that is not finite: point 8", 5: "has 20 points"}
        for number, sentence in (errors | {3: "nothing.ply"}).items():
            assert isinstance(found[number], DataError) and sentence in str(found[number])


def test_predict_gives_the_clouds_before_an_error(model):
    bad = [*scans(2), ("bad", np.full((80, 3), np.inf)), *scans(1)]
    found = predict(model, bad, TRAINED)
    assert [next(found)["file"], next(found)["file"]] == ["scan 0", "scan 1"]
    with pytest.raises(DataError, match="bad has a point that is not finite"):
        next(found)


def test_what_is_no_fault_of_a_file_is_raised(model, tmp_path, monkeypatch):
    np.save(tmp_path / "one.npy", np.zeros((80, 3)))

    def exhausted(*_):
        raise MemoryError("no room")

    monkeypatch.setattr("dapt.inference.prediction.read_cloud", exhausted)
    with pytest.raises(MemoryError, match="no room"):
        list(predict_files(model, [tmp_path / "one.npy"], TRAINED))


def test_reading_ahead_is_bounded_and_ends_with_whoever_reads():
    made = []

    def items():
        for i in range(100):
            made.append(i)
            yield i

    taken = read_ahead(items(), 3)
    for i in range(20):
        assert next(taken) == i
        assert len(made) <= i + 1 + 3 + 1  # taken, waiting, and in progress
    taken.close()
    assert len(made) < 30
    assert not [t for t in threading.enumerate() if t.name == "dapt-reading"]
    assert list(read_ahead(range(100), 3)) == list(range(100))


def test_reading_ahead_works_beside_whoever_reads():
    """Items are made before anybody asks for them."""
    second = threading.Event()

    def items():
        yield 1
        second.set()
        yield 2

    taken = read_ahead(items(), 2)
    assert next(taken) == 1 and second.wait(10) and next(taken) == 2
    with pytest.raises(StopIteration):
        next(taken)


def test_an_error_of_reading_comes_in_its_turn():
    def items():
        yield 1
        raise ValueError("too bad")

    taken = read_ahead(items(), 5)
    assert next(taken) == 1
    with pytest.raises(ValueError, match="too bad"):
        next(taken)


def test_products_in_bfloat16_are_asked_for(run, tmp_path):
    folder, _ = run("trained")
    np.save(tmp_path / "c.npy", np.random.default_rng(3).normal(size=(40, 3)))

    def chances(*words):
        out = tmp_path / "p.json"
        words = ["predict", str(folder), str(tmp_path / "c.npy"), "--out", str(out), *words]
        assert cli.main(words) == 0
        return list(json.loads(out.read_text())[0]["probabilities"].values())

    exact, rounded = chances(), chances("--precision", "bf16")
    assert exact != rounded and rounded == pytest.approx(exact, abs=0.02)
    assert chances("--precision", "fp32") == exact
    assert chances("--precision", "auto") in (exact, rounded)
