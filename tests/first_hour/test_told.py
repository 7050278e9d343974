"""Where the numbers of a run go, and what its files call them."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

from dapt import cli
from support.runs import labeled

pytestmark = pytest.mark.usefixtures("one_thread")

PAGES = sorted((Path(__file__).parents[2] / "docs").rglob("*.md"))


def test_tensorboard_has_the_loss_of_steps(run):
    if importlib.util.find_spec("tensorboard") is None:
        pytest.skip("tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, code = run("x", batch_size=2, epochs=2, tensorboard=True)
    assert code == 0
    losses = EventAccumulator(str(folder / "tensorboard")).Reload().Scalars("step_loss")
    assert [each.step for each in losses] == [10, 20]
    assert all(0 < each.value < 10 for each in losses)


OWN = """
class Own:
    def __init__(self, save_dir):
        self.file = open(f"{save_dir}/own.txt", "w")

    def log_metrics(self, metrics, step):
        print(step, *metrics, file=self.file, flush=True)

    def finalize(self, status):
        print(status, file=self.file, flush=True)
"""


def test_a_logger_of_ones_own_is_named_by_its_class(run, tmp_path, monkeypatch):
    (tmp_path / "my_loggers.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    folder, code = run("x", "--logger", "my_loggers.Own", batch_size=2, epochs=1)
    assert code == 0
    told = (folder / "own.txt").read_text().splitlines()
    assert "10 step_loss" in told and any("validation_accuracy" in line for line in told)
    assert told[-1] == "success"


def test_labeled_clouds_have_the_columns_that_the_docs_name(run, tmp_path):
    data = labeled(tmp_path / "parts.npz")
    task = {"name": "part_segmentation"}
    words = [f"--data.train={data}", "--method=full"]
    folder, code = run("x", *words, task=task, method="full", num_points=32, epochs=1)
    assert code == 0
    with np.load(data) as file:
        np.save(tmp_path / "one.npy", file["points"][0])
    out = tmp_path / "labels"
    words = [str(folder), str(tmp_path / "one.npy"), "--category", "cup", "--out", str(out)]
    assert cli.main(["predict", *words]) == 0
    header = (out / "one_labels.ply").read_bytes().partition(b"end_header")[0].decode()
    properties = re.findall(r"property \S+ (\S+)", header)
    assert properties[-2:] == ["label", "confidence"]
    page = next(page for page in PAGES if page.name == "tasks.md").read_text()
    [named] = re.findall(r"with the properties `(\w+)` and `(\w+)`", page)
    assert list(named) == properties[-2:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_confidence_is_never_called_a_probability(page):
    for sentence in re.split(r"(?<=[.:;])\s", page.read_text()):
        assert not ("confidence" in sentence and "probability" in sentence), sentence
