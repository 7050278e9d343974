"""Runs of a tiny network on tiny clouds, and their comparison."""

import json

import numpy as np
import torch

from dapt.training import loop

TINY = {
    "backbone": {
        "name": "point_mae",
        "checkpoint": "none",
        "dim": 12,
        "depth": 2,
        "num_heads": 2,
        "encoder_dim": 12,
        "encoder_widths": [4, 8, 8],
        "num_groups": 6,
        "group_size": 5,
    },
    "method": {"name": "dapt", "rank": 3},
    "epochs": 3,
    "batch_size": 8,
    "warmup_epochs": 1,
    "learning_rate": 1e-2,
    "accelerator": "cpu",
    "precision": "fp32",
    "tensorboard": False,
    "validation": 0.25,
}


def clouds(path, samples=37, size=24, seed=0, **changed):
    """Flat, long and round clouds, which a network can tell apart."""
    rng = np.random.default_rng(seed)
    labels = np.arange(samples) % 3
    values = rng.normal(size=(samples, size, 3)).astype(np.float32)
    values[labels == 1, :, 2] *= 0.05
    values[labels == 2, :, :2] *= 0.05
    np.savez(path, **{"points": values, "labels": labels} | changed)
    return path


def lines(folder):
    """metrics.jsonl without anything that depends on time."""
    text = (folder / "metrics.jsonl").read_text()
    return [
        {k: v for k, v in json.loads(line).items() if "second" not in k}
        for line in text.splitlines()
    ]


def weights(folder):
    return torch.load(folder / "last.ckpt", weights_only=True)["model"]


def assert_same_run(one, other):
    assert lines(one) == lines(other)
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name
    adapter = "adapter/adapter_model.safetensors"
    assert (one / adapter).read_bytes() == (other / adapter).read_bytes()


def labeled(path, samples=36, size=40, seed=0, **changed):
    """Three kinds of clouds, cut into two or three parts at heights that a network can learn."""
    rng = np.random.default_rng(seed)
    labels = np.arange(samples) % 3
    points = rng.normal(size=(samples, size, 3)).astype(np.float32)
    points[labels == 1, :, 1] *= 0.2
    upper = (points[..., 2] > 0).astype(int)
    ends = (points[..., 2] > 0.7).astype(int) + (points[..., 2] > -0.7)
    parts = np.select([labels[:, None] == 0, labels[:, None] == 1], [upper, 2 + upper], 4 + ends)
    content = {"points": points, "labels": labels, "part_labels": parts}
    content["class_names"] = np.array(["cup", "plate", "lamp"])
    np.savez(path, **content | changed)
    return path


class Killed(BaseException):
    """Raised like SIGKILL: the loop runs nothing after it."""


def kill_at(monkeypatch, step):
    """Ends the process when the loop reaches this step, counted over all epochs."""
    whole = loop.Trainer._step

    def until(self, at, batch):
        if at == step:
            raise Killed
        whole(self, at, batch)

    monkeypatch.setattr(loop.Trainer, "_step", until)
