"""Describe an adapter folder to someone who did not train it."""

import dataclasses
import json
import os
import textwrap
from pathlib import Path

from torch import nn

from dapt.adapters import adapter_files
from dapt.adapters.adapter_files import AdapterFile, BackboneRecord
from dapt.errors import shown
from dapt.models import BACKBONES, create_backbone
from dapt.models.pretrained import SHIPPED, shipped_checkpoint

MOST_NAMES = 20  # class names to list


def describe(folder: str | os.PathLike) -> dict[str, str]:
    """Describe method, backbone, task, size and loading, each in a few words or lines.

    The files are read without trust, and their checksum is checked.

    Args:
        folder: The folder that `AdaptedModel.save_adapter` wrote.
    """
    file = adapter_files.read(folder)
    loading = f"model = dapt.load_adapter({str(folder)!r}, backbone).eval()"
    numbers = sum(value.numel() for value in file.state.values())
    stored = (Path(folder) / adapter_files.WEIGHTS).stat().st_size
    made_ready = {}
    if file.preprocessing is not None:
        fields = dataclasses.asdict(file.preprocessing)
        made_ready["clouds"] = _settings("as in training", fields)
    return {
        "method": _settings(file.method.name, dataclasses.asdict(file.method)),
        "task": _task(file),
        **made_ready,
        "backbone": _settings(file.backbone.kind, file.backbone.config),
        "fingerprint": f"{file.backbone.fingerprint} of the pre-trained weights",
        "size": f"{stored / 1e6:.2f} MB, {numbers:,} numbers in {len(file.state)} tensors",
        "load it": f"{_creation(file)}\n{loading}",
    }


def lines(description: dict[str, str]) -> str:
    """The description as a table.

    Args:
        description: Values by their names.
    """
    width = max(map(len, description)) + 2
    return "\n".join(
        textwrap.indent("\n".join(map(shown, value.split("\n"))), " " * width).replace(
            " " * width, f"{name:{width}}", 1
        )
        for name, value in description.items()
    )


def _settings(name: str, fields: dict[str, object]) -> str:
    told = {key: value for key, value in fields.items() if value is not None}
    return name + (": " if told else "") + ", ".join(f"{k}={v}" for k, v in told.items())


def _task(file: AdapterFile) -> str:
    names = file.task.label_names
    few = ", ".join(names[:MOST_NAMES]) + (", ..." if len(names) > MOST_NAMES else "")
    what = "of points" if file.task.labels_points else "of clouds"
    return f"{file.task.name}, {len(names)} labels {what}: {few}"


def _creation(file: AdapterFile) -> str:
    """The call that creates the backbone."""
    named = named_backbone(file.backbone)
    if named is None:
        return f"backbone = ...  # a {file.backbone.kind} of its own: ask whoever made the adapter"
    name, fields = named
    checkpoint = SHIPPED if shipped_backbone(file) is not None else "pretrain.pth"
    given = [f'"{name}"', f'checkpoint="{checkpoint}"']
    given += [f"{key}={value!r}" for key, value in fields.items()]
    return f"backbone = dapt.create_backbone({', '.join(given)})"


def named_backbone(record: BackboneRecord) -> tuple[str, dict[str, object]] | None:
    """(name, fields that differ) of the named backbone with the nearest config; None if none is
    near.

    Args:
        record: The backbone record of an adapter file.
    """
    best = None
    for name, config in BACKBONES.items():
        own = json.loads(json.dumps(dataclasses.asdict(config)))
        if not record.config.keys() <= own.keys():
            continue
        other = {key: value for key, value in record.config.items() if own[key] != value}
        if best is None or len(other) < len(best[1]):
            best = name, other
    return best


def shipped_backbone(file: AdapterFile) -> nn.Module | None:
    """The backbone whose weights come with the package, if the adapter was trained on it.

    Args:
        file: The file of the adapter.
    """
    name, fields = named_backbone(file.backbone) or ("", {})
    try:
        shipped_checkpoint(name)
        backbone = create_backbone(name, SHIPPED, **fields)
    except Exception:  # not shipped, or not with these settings, which are untrusted
        return None
    same = BackboneRecord.of(backbone, file.method.owns).fingerprint == file.backbone.fingerprint
    return backbone if same else None
