"""Published models with backbone, method and head in one file."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dapt.adapters.attach import attach
from dapt.adapters.model import AdaptedModel
from dapt.adapters.release_file import ReleasedFile
from dapt.adapters.release_table import KINDS, Kind
from dapt.errors import DaptError, UsageError, reading
from dapt.models.checkpoints import load_weights
from dapt.models.sources import local_file
from dapt.models.tokenizer import NearOrigin
from dapt.models.weight_files import read_state


def load_release(
    path: str | os.PathLike,
    config: str | os.PathLike | Mapping[str, Any] | None = None,
    *,
    num_groups: int | None = None,
    group_size: int | None = None,
    num_heads: int | None = None,
    head_tokens: Sequence[str] | None = None,
    near_origin: NearOrigin = "keep",
) -> AdaptedModel:
    """Load a complete published model; `save_adapter` then writes its trained part.

    Sizes are read from the tensors; the rest comes from the published config or from arguments.

    Args:
        path: The .pth or safetensors file, or hf://owner/repository/file@revision on a hub.
        config: The published YAML file, or its settings; `method` names the method if the keys of
            the tensors do not reveal it.
        num_groups: Patches per cloud; `num_group` in a published config.
        group_size: Points per patch.
        num_heads: The number of heads of each attention.
        head_tokens: The tokens that a DAPT model's head reads.
        near_origin: "skip" samples like the published code, which takes no center closer than 0.03
            to the origin; needed to match its numbers on every cloud.
    """
    said = {"num_group": num_groups, "group_size": group_size, "num_heads": num_heads}
    said["head_tokens"] = head_tokens
    settings = read_settings(config) | {k: v for k, v in said.items() if v is not None}
    path = local_file(path)
    file = ReleasedFile(path, read_state(path), settings)
    kind = _kind_of(file)
    config = dataclasses.replace(kind.backbone(file), near_origin=near_origin)
    backbone, method, task = config.build(), kind.method(file), kind.task(file)
    model = attach(backbone, method, task)
    _check_head(file, model)
    load_weights(model, path, (kind.layout(task),))
    return model.eval()


def _kind_of(file: ReleasedFile) -> Kind:
    for kind in KINDS:
        if kind.matches(file):
            return kind
    named = file.settings.get("method")
    if named is not None:
        known = ", ".join(kind.name for kind in KINDS if kind.name)
        raise UsageError(f"no released models of method {named!r} are known: choose one of {known}")
    known = ", ".join(kind.title for kind in KINDS)
    raise DaptError(f"{file.source} is not a known released model; known are: {known}")


def _check_head(file: ReleasedFile, model: AdaptedModel) -> None:
    """Check that the head reads as many tokens as the one in the file."""
    first = f"{file.head}.0.weight"
    if first not in file.state:
        return
    inputs, tokens = file.size(first, 1), model.head.pool.head_tokens
    if inputs != model.backbone.dim * len(tokens):
        raise UsageError(
            f"head_tokens must name {inputs // model.backbone.dim} tokens, which the head of "
            f"{file.source} reads, got {list(tokens)}"
        )


def read_settings(config: str | os.PathLike | Mapping[str, Any] | None) -> dict[str, Any]:
    """The settings of a published config, with those of its section `model` moved to the top.

    Args:
        config: A YAML file, its content, or None for no settings.
    """
    if config is None:
        return {}
    if not isinstance(config, Mapping):
        config = _read_yaml(config)
    settings = dict(config)
    for section in ("model", "transformer_config"):
        if isinstance(settings.get(section), Mapping):
            settings |= settings[section]
    return settings


def _read_yaml(path: str | os.PathLike) -> Mapping[str, Any]:
    with reading(path):
        import yaml

        content = yaml.safe_load(Path(path).read_text())
    if not isinstance(content, Mapping):
        raise UsageError(f"the config {path} must hold settings by name, got {content!r:.40}")
    return content
