"""Small networks and runs, and the published golden cases."""

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import dapt
from dapt import cli
from dapt.data import registry
from dapt.models.compression import Storage, compress
from support.runs import TINY, clouds

GOLDEN = Path(__file__).parents[3] / "shared" / "golden"

SMALL = {
    "point_mae": {"encoder_dim": 48},
    "point_bert": {"encoder_dim": 32},  # narrower than the network, so that there is a projection
    "point_m2ae": {
        "num_groups": (24, 12, 6),
        "group_size": (7, 4, 3),
        "dims": (24, 36, 48),
        "depths": (2, 1, 2),
        "num_heads": 3,
    },
    "pcp_mae": {"encoder_dim": 48},
    "point_femae": {"encoder_dim": 48, "neighbors": 4, "local_blocks": (0, 2)},
    "point_gpt_s": {"encoder_dim": 48, "encoder_widths": (16, 24, 32, 64)},
    "recon_pp_small": {"image_queries": 3, "text_queries": 2, "layer_scale": True},
    "uni3d_tiny": {"encoder_dim": 32, "hidden": 60},
    "uni3d_base": {"encoder_dim": 32, "hidden": 60},
    "uni3d_giant": {"encoder_dim": 32, "hidden": 60},
    "ptv3_tiny": {
        "dims": (12, 24, 36),
        "depths": (1, 2, 1),
        "num_heads": (1, 2, 3),
        "patch_size": 16,
        "grid_size": 0.25,
    },
}
STORAGE = {field.name for field in dataclasses.fields(Storage)}
PLAIN = {"dim": 48, "depth": 3, "num_heads": 3, "num_groups": 11, "group_size": 9}


@pytest.fixture
def small_backbone():
    """A function that builds a small version of a named backbone, reproducibly by seed."""

    def build(name="point_mae", seed=0, **fields):
        plain = {} if "dims" in SMALL[name] else PLAIN  # multi-scale ones give all fields
        fields = plain | SMALL[name] | fields
        storage = {field: fields.pop(field) for field in STORAGE if field in fields}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            backbone = dapt.create_backbone(name, "none", **fields)
            # as if pre-trained, so that every part affects the output
            for module in backbone.modules():
                if isinstance(module, torch.nn.Linear):
                    torch.nn.init.normal_(module.weight, std=module.in_features**-0.5)
                if isinstance(module, torch.nn.BatchNorm1d):
                    torch.nn.init.normal_(module.running_mean, std=0.1)
                    torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
        if storage:
            backbone.config = dataclasses.replace(backbone.config, **storage)
            compress(backbone)
        return backbone

    return build


@pytest.fixture
def fresh_compiler():
    """Clears what other tests compiled: torch gives up on code that it has compiled too often."""
    torch._dynamo.reset()


class Golden:
    """A case of the published networks: settings, weights, points and results."""

    def __init__(self, case, recipe):
        self.recipe = recipe
        with np.load(GOLDEN / f"{case}.npz") as file:
            self.results = dict(file)
        self.config = json.loads(str(self.results["config"]))
        names, shapes = self.results["state_names"], self.results["state_shapes"]
        self.shapes = {str(n): json.loads(str(s)) for n, s in zip(names, shapes, strict=True)}

    def weights(self):
        return {
            name: torch.from_numpy(np.array(self.recipe.tensor_for(name, tuple(shape))))
            for name, shape in self.shapes.items()
        }

    def points(self):
        config = self.config
        return torch.from_numpy(
            self.recipe.points_for(config["case"], config["batch"], config["points"])
        )

    def result(self, name):
        return torch.from_numpy(self.results[name])

    def grad_norms(self):
        names, norms = self.results["grad_names"], self.results["grad_norms"]
        return dict(zip(names.tolist(), norms.tolist(), strict=True))


@pytest.fixture
def recipe():
    if not GOLDEN.is_dir():
        pytest.skip("the golden cases are not available")
    spec = importlib.util.spec_from_file_location("recipe", GOLDEN / "recipe.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def golden(recipe):
    return lambda case: Golden(case, recipe)


@pytest.fixture
def published_layout():
    """A function that returns a network's published pre-training file, with random weights."""

    def fill(name):
        path = GOLDEN / f"layout_{name}.json"
        if not path.is_file():
            pytest.skip("the published layouts are not available")
        shapes = json.loads(path.read_text())
        return {
            key: torch.rand(shape) if shape else torch.randint(1000, ())  # counts are integers
            for key, shape in shapes.items()
        }

    return fill


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def run(tmp_path):
    """A function that runs `dapt <command>` in this process; returns run folder and exit code."""
    train = clouds(tmp_path / "a.npz")
    test = clouds(tmp_path / "b.npz", samples=11, seed=1)

    def dapt(out, *flags, command="train", **fields):
        tree = dict(TINY) if command == "train" else {k: TINY[k] for k in TINY if k != "method"}
        config = tmp_path / f"{out}.yaml"
        config.write_text(yaml.safe_dump(tree | fields))
        words = ["--config", str(config), "--data.train", str(train), "--out", str(tmp_path / out)]
        if "--with-test" in flags:
            flags = [flag for flag in flags if flag != "--with-test"] + ["--data.test", str(test)]
        return tmp_path / out, cli.main([command, *words, *flags])

    return dapt


@pytest.fixture
def own_names(tmp_path):
    """After a test, removes what it registered and the modules of its own folder."""
    registry.options_of("synthetic")  # which is registered on demand
    tables = (dapt.methods.METHODS, dapt.data.DATASETS, dapt.models.BACKBONES, dapt.tasks.TASKS)
    before, modules = [dict(table) for table in tables], set(sys.modules)
    yield
    for table, known in zip(tables, before, strict=True):
        table.clear()
        table.update(known)
    for name in set(sys.modules) - modules:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def one_process_group(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()
