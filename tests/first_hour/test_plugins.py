"""Custom methods, datasets, backbones and tasks: from files, notebooks and installed packages."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import dapt
from dapt import cli
from support.runs import TINY

pytestmark = pytest.mark.usefixtures("one_thread", "own_names")

ROOT = Path(__file__).parents[2]
[BITFIT] = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)


def notebook(code):
    """Runs code like a notebook cell; returns the names that it defines."""
    names = {"__name__": "__main__"}
    exec(compile(code, "<cell>", "exec"), names)
    return names


def said(capsys):
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.fixture
def bitfit(tmp_path):
    path = tmp_path / "bitfit.py"
    path.write_text(BITFIT)
    return path


def test_the_method_of_contributing_adapts_saves_loads_and_lets_go(small_backbone, tmp_path):
    code = [line for line in BITFIT.split("class BitFit")[1].splitlines() if line.strip()]
    assert len(code) <= 10
    method = notebook(BITFIT)["BitFit"]()
    backbone = small_backbone()
    before = {entry: value.clone() for entry, value in backbone.state_dict().items()}
    model = dapt.attach(backbone, method, dapt.Classification(3)).train()
    points, labels = torch.randn(8, 40, 3), torch.arange(8) % 3
    own = dict(model.own_parameters())
    assert all(entry.endswith(".bias") for entry in own if entry.startswith("backbone."))
    torch.nn.functional.cross_entropy(model(points), labels).backward()
    with torch.no_grad():
        for weight in own.values():
            weight -= 0.1 * weight.grad
    model.eval().save_adapter(tmp_path / "out")
    logits = model(points)
    again = dapt.load_adapter(tmp_path / "out", small_backbone()).eval()
    assert torch.equal(again(points), logits)
    untouched = dapt.detach(model).state_dict()
    assert all(torch.equal(untouched[entry], value) for entry, value in before.items())


def test_a_file_of_ones_own_trains_and_is_asked_for_again(run, bitfit, tmp_path, capsys):
    word = f"--import={bitfit}"
    folder, code = run("x", word, method="bitfit", epochs=1)
    assert code == 0
    assert yaml.safe_load((folder / "config.yaml").read_text())["imports"] == [str(bitfit)]
    assert cli.main(["evaluate", str(folder), "--split", "validation", word]) == 0
    assert cli.main(["predict", str(folder), str(tmp_path / "b.npz"), "--import", str(bitfit)]) == 0
    assert cli.main(["train", "--resume", str(folder), word]) == 0
    del dapt.methods.METHODS["bitfit"], sys.modules["bitfit"]
    monkey = [["evaluate", str(folder)], ["predict", str(folder), str(tmp_path / "b.npz")]]
    for words in (*monkey, ["train", "--resume", str(folder)], ["export", str(folder)]):
        capsys.readouterr()
        assert cli.main(words) == 2
        told = said(capsys)
        assert f"the method bitfit of {folder}" in told and f"add --import {bitfit}" in told
    assert cli.main(["info", str(folder)]) == 2 and "--import" in said(capsys)


def test_a_module_of_the_current_folder_is_found(run, bitfit, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert run("x", "--import", "bitfit", method="bitfit", epochs=1)[1] == 0
    assert str(tmp_path) not in sys.path


def test_compare_hands_on_what_it_imports(run, bitfit, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump({k: v for k, v in TINY.items() if k != "method"}))
    run("x", epochs=1)
    words = ["--methods", "bitfit", "--seeds", "1", "--config", str(config), "--epochs", "1"]
    words += ["--data.train", str(tmp_path / "a.npz"), "--out", str(tmp_path / "both")]
    assert cli.main(["compare", *words, "--import", str(bitfit)]) == 0
    assert "| bitfit |" in (tmp_path / "both" / "comparison.md").read_text()


@pytest.mark.parametrize(
    "code, words",
    [
        (None, "ModuleNotFoundError: No module named 'nowhere'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def", "SyntaxError"),
    ],
)
def test_what_cannot_be_imported_is_one_sentence(run, tmp_path, capsys, code, words):
    module = "nowhere"
    if code:
        module = str(tmp_path / "broken.py")
        Path(module).write_text(code)
    folder, exit_code = run("x", "--import", module)
    told = said(capsys)
    assert exit_code == 2 and told.startswith(f"dapt train: --import {module}: {words}")
    assert not folder.exists()
    assert run("x", "--import")[1] == 2 and "needs a module name" in said(capsys)


def test_a_method_of_a_notebook_is_saved_by_its_name_or_says_what_it_lacks(
    small_backbone, tmp_path
):
    notebook(BITFIT)
    method = notebook(BITFIT)["BitFit"]()  # the cell has run twice
    model = dapt.attach(small_backbone(), method, dapt.Classification(3))
    model.save_adapter(tmp_path / "out")
    bare = notebook(BITFIT.replace('@register("bitfit")\n', ""))["BitFit"]()
    model = dapt.attach(small_backbone(), bare, dapt.Classification(3))
    model(torch.randn(2, 40, 3))
    with pytest.raises(dapt.DaptError, match=r'put @dapt.methods.register\("bitfit"\) above'):
        model.save_adapter(tmp_path / "bare")
    del dapt.methods.METHODS["bitfit"]
    with pytest.raises(
        dapt.DaptError, match="unknown method 'bitfit'.*first import the module.*--import"
    ):
        dapt.load_adapter(tmp_path / "out", small_backbone())


def test_a_child_of_a_method_is_not_saved_as_its_parent(small_backbone, tmp_path):
    class Mine(dapt.Vpt):
        pass

    model = dapt.attach(small_backbone(), Mine(), dapt.Classification(3))
    with pytest.raises(dapt.DaptError, match="Mine cannot be saved"):
        model.save_adapter(tmp_path)


PACKAGE = {
    "my_points-1.5.dist-info/METADATA": "Metadata-Version: 2.1\nName: my-points\nVersion: 1.5\n",
    "my_points-1.5.dist-info/entry_points.txt": (
        "[dapt.methods]\nbitfit = my_points.bitfit\nbroken = my_points.broken\n"
        "silent = my_points\n[dapt.datasets]\nrings = my_points.own\n"
        "[dapt.backbones]\npoint_mae_short = my_points.own\n"
        "[dapt.tasks]\nsmoothed = my_points.own\n"
    ),
    "my_points/__init__.py": "",
    "my_points/bitfit.py": BITFIT,
    "my_points/broken.py": "import nothing_of_this_name",
    "my_points/own.py": re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "plugins.md").read_text(), re.DOTALL
    )[1].partition("\ntrain = ")[0],
}


@pytest.fixture
def installed(tmp_path):
    """A function that runs `dapt <words>` where a package with entry points is installed."""
    for name, text in PACKAGE.items():
        path = tmp_path / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    site = f"{tmp_path / 'site'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"

    def dapt(*words):
        return subprocess.run(
            [sys.executable, "-m", "dapt", *map(str, words)],
            env=os.environ | {"PYTHONPATH": site, "OMP_NUM_THREADS": "1"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )

    return dapt


def test_a_package_brings_methods_datasets_backbones_and_tasks(installed, tmp_path):
    sizes = {k: v for k, v in TINY["backbone"].items() if k not in ("name", "depth")}
    tree = TINY | {"backbone": {"name": "point_mae_short", **sizes}, "epochs": 1}
    tree |= {"data": "rings", "task": "smoothed", "method": "bitfit"}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(tree))
    done = installed("train", "--config", "c.yaml", "--num_points", "24", "--out", "run")
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())
    assert config["task"]["label_smoothing"] == 0.3 and config["method"] == {"name": "bitfit"}
    assert installed("evaluate", "run").returncode == 0
    listed = installed("train", "--help").stdout
    assert all(name in listed for name in ("bitfit", "rings", "point_mae_short", "smoothed"))
    assert "plug-in: method bitfit, from my-points 1.5" in installed("doctor").stdout
    for name, words in {
        "broken": "the method 'broken' of my-points cannot be imported: ModuleNotFoundError",
        "silent": "the plug-in my_points registers no method named 'silent'",
        "bitfitt": "(did you mean bitfit?)",
    }.items():
        done = installed("train", "--method", name, "--data.train", "a.npz", "--out", "no")
        assert words in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "no").exists()


def test_no_file_has_a_module_imported(run, bitfit, tmp_path, capsys, monkeypatch):
    """This goes for a run's settings and for an adapter, even if the module is right beside it."""
    folder, code = run("x", epochs=1)
    marker = tmp_path / "was_here"
    evil = f"open({str(marker)!r}, 'w')"
    for place in (folder, folder / "adapter"):
        (place / "evil.py").write_text(evil)
    tree = yaml.safe_load((folder / "config.yaml").read_text())
    tree |= {"imports": [str(folder / "evil.py")], "method": {"name": "evil"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    adapter = folder / "adapter" / "adapter_config.json"
    config = json.loads(adapter.read_text()) | {"method": {"name": "evil"}}
    adapter.write_text(json.dumps(config))
    monkeypatch.chdir(folder / "adapter")
    for words in (["evaluate", str(folder)], ["info", str(folder)], ["train", "--resume", "."]):
        assert cli.main(words) != 0
    with pytest.raises(dapt.DaptError, match="unknown method 'evil'"):
        dapt.load_adapter(folder / "adapter", dapt.create_backbone("point_mae_tiny"))
    with pytest.raises(dapt.DaptError):
        dapt.load_run(folder)
    assert not marker.exists()
