"""Hugging Face PEFT's own generic tests, run on a network around one of our backbones.

They are not part of this repository: set `PEFT_SOURCE` to a checkout of PEFT.

    PEFT_SOURCE=../peft pytest tests/adapters/peft_suite.py -p no:cacheprovider
"""

import importlib
import os
import sys
from types import ModuleType
from unittest.mock import MagicMock

import pytest
import torch
from torch import nn

import dapt
import dapt.hf

SOURCE = os.environ.get("PEFT_SOURCE")
if not SOURCE:
    pytest.skip("PEFT_SOURCE does not name a checkout of PEFT", allow_module_level=True)


class Anything(ModuleType):
    """A stand-in for a library that these tests import but do not use."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return MagicMock()


def theirs(name: str) -> ModuleType:
    """Imports a module of PEFT's tests, whose package has the same name as ours."""
    sys.path.insert(0, SOURCE)
    for library in ("diffusers", "datasets"):
        sys.modules.setdefault(library, Anything(library))
    own = {key: module for key, module in sys.modules.items() if key.split(".")[0] == "tests"}
    for key in own:
        del sys.modules[key]
    try:
        return importlib.import_module(f"tests.{name}")
    finally:
        sys.path.remove(SOURCE)


class Network(nn.Module):
    """A two-class classifier around a small backbone."""

    def __init__(self):
        super().__init__()
        self.backbone = small()
        self.head = nn.Linear(self.backbone.dim, 2)
        self.dtype = torch.float32

    def forward(self, X):
        features = self.backbone(X.to(self.dtype))
        return self.head(features.cls + features.patches.mean(1)).log_softmax(-1)


class Bare(dapt.models.PointTransformer):
    """A backbone used as the whole network."""

    dtype = torch.float32

    def forward(self, X):
        features = super().forward(X.to(self.dtype))
        return (features.cls + features.patches.mean(1))[:, :2].log_softmax(-1)


def small(kind: type = dapt.models.PointTransformer) -> nn.Module:
    config = dapt.models.PointTransformerConfig(
        num_groups=6, group_size=5, dim=24, depth=2, num_heads=3, encoder_dim=24,
        encoder_widths=(8, 12, 16), drop_path=0.0,
    )  # fmt: skip
    return kind(config)


class Models:
    """A stand-in for the class from which PEFT's tests load models."""

    @classmethod
    def from_pretrained(cls, model_id, dtype=torch.float32):
        torch.manual_seed(0)
        model = Network() if model_id == "network" else small(Bare)
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm1d):
                nn.init.normal_(norm.running_mean, std=0.1)
        model.to(dtype or torch.float32)
        model.dtype = dtype or torch.float32
        return model.eval()


LORA = {"target_modules": ["qkv", "proj", "fc1", "fc2"]}
CASES = [
    ("LoRA in a network", "network", importlib.import_module("peft").LoraConfig, LORA),
    ("LoRA in a backbone", "bare", importlib.import_module("peft").LoraConfig, LORA),
    ("DAPT in a network", "network", dapt.hf.DaptConfig, {"rank": 4}),
    ("DAPT in a backbone", "bare", dapt.hf.DaptConfig, {"rank": 4}),
]
NAMES = "test_name, model_id, config_cls, config_kwargs"
suite = theirs("test_custom_models")
not_at_rest = suite.set_init_weights_false
suite.set_init_weights_false = lambda kind, settings: (  # DAPT's scales are never zero at the start
    settings if kind is dapt.hf.DaptConfig else not_at_rest(kind, settings)
)


class TestOurs(suite.TestPeftCustomModel):
    """PEFT's tests that take a model and a config, run with ours."""

    transformers_class = Models

    def prepare_inputs_for_testing(self):
        generator = torch.Generator().manual_seed(0)
        return {"X": torch.randn(9, 40, 3, generator=generator)}


for name in dir(suite.TestPeftCustomModel):
    test = getattr(suite.TestPeftCustomModel, name)
    marks = getattr(test, "pytestmark", [])
    if not name.startswith("test_"):
        continue
    if not any(mark.name == "parametrize" and mark.args[0] == NAMES for mark in marks):
        setattr(TestOurs, name, None)  # tests of layers that we do not have
        continue

    def ours(self, *args, _test=test, **kwargs):
        return _test(self, *args, **kwargs)

    ours.__signature__ = importlib.import_module("inspect").signature(test)
    ours.pytestmark = [
        pytest.mark.parametrize(NAMES, CASES, ids=[case[0] for case in CASES]).mark
        if mark.name == "parametrize" and mark.args[0] == NAMES
        else mark
        for mark in marks
    ]
    setattr(TestOurs, name, ours)
