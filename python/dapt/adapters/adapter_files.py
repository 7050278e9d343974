"""adapter_config.json and adapter_model.safetensors: an adapter on disk, without its backbone."""

import dataclasses
import hashlib
import json
import os
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from dapt.data.preprocessing import Preprocessing
from dapt.errors import DaptError, UsageError
from dapt.files import write_folder
from dapt.methods.method import Method, method_class
from dapt.models import Storage
from dapt.plugins import OPTION
from dapt.tasks import Task, task_class

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
NAMES = (CONFIG, WEIGHTS)
FORMAT_VERSION = 1
LARGEST_CONFIG = 2**22  # bytes, enough for thousands of class names

_ONLY_FOR_TRAINING = ("drop_path",)  # backbone fields that an adapter does not depend on
_PLAIN = dataclasses.asdict(Storage())  # the defaults of a `Storage`, omitted from the files


@dataclass(frozen=True)
class BackboneRecord:
    """Which backbone an adapter belongs to.

    Args:
        kind: The name of its class.
        config: Its settings, as JSON has them.
        fingerprint: SHA-256 of its weights.
    """

    kind: str
    config: dict[str, object]
    fingerprint: str

    @classmethod
    def of(cls, backbone: nn.Module, owned: Callable[[str], bool]) -> "BackboneRecord":
        """Make the record of a backbone.

        Args:
            backbone: The backbone, with or without an adapter.
            owned: Whether an entry is the adapter's own; such entries are left out.
        """
        digest = hashlib.sha256()
        for entry, value in sorted(backbone.state_dict().items()):
            if not owned(entry):
                digest.update(f"{entry} {value.dtype} {list(value.shape)} ".encode())
                digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        config = dataclasses.asdict(backbone.config)
        for field in _ONLY_FOR_TRAINING:
            config.pop(field, None)
        config = {k: v for k, v in config.items() if k not in _PLAIN or v != _PLAIN[k]}
        return cls(type(backbone).__name__, json.loads(json.dumps(config)), digest.hexdigest())

    def completed(self, backbone: nn.Module) -> "BackboneRecord":
        """Fill in the fields that did not exist when the file was written, with their defaults.

        Args:
            backbone: A backbone of the same kind.
        """
        kept = [f for f in dataclasses.fields(backbone.config) if f.name not in _ONLY_FOR_TRAINING]
        defaults = {f.name: f.default for f in kept if f.default is not dataclasses.MISSING}
        defaults = {k: v for k, v in defaults.items() if k not in _PLAIN}
        known = json.loads(json.dumps(defaults)) | self.config
        return dataclasses.replace(self, config=known)


@dataclass(frozen=True)
class AdapterConfig:
    """The content of adapter_config.json.

    Args:
        format_version: The version of the file format.
        method: Its name and settings.
        task: Its name and settings.
        backbone: The fields of a `BackboneRecord`.
        weights_sha256: The SHA-256 of the file beside it.
        preprocessing: How the training clouds were prepared.
    """

    format_version: int
    method: dict
    task: dict
    backbone: dict
    weights_sha256: str
    preprocessing: dict | None = None


@dataclass(frozen=True)
class AdapterFile:
    """What the files of an adapter hold.

    Args:
        method: The method with its settings.
        task: The task with its settings.
        backbone: The backbone that the adapter was trained on.
        state: The adapter's own tensors by name.
        preprocessing: How the training clouds were prepared; None for older files.
    """

    method: Method
    task: Task
    backbone: BackboneRecord
    state: dict[str, Tensor]
    preprocessing: Preprocessing | None


def write(
    folder: str | os.PathLike,
    method: Method,
    task: Task,
    backbone: BackboneRecord,
    state: Mapping[str, Tensor],
    preprocessing: Preprocessing | None = None,
) -> None:
    """Write an adapter's two files, each atomically.

    Args:
        folder: The folder; created if it is missing.
        method: The method with its settings.
        task: The task with its settings.
        backbone: The backbone on which the adapter was trained.
        state: The adapter's own tensors.
        preprocessing: How the training clouds were prepared.
    """
    check_finite(state, f"the adapter for {folder}")
    _check_named("method", method, method_class)
    _check_named("task", task, task_class)
    weights = safetensors.torch.save({k: v.detach().contiguous() for k, v in state.items()})
    config = AdapterConfig(
        format_version=FORMAT_VERSION,
        method={"name": method.name, **dataclasses.asdict(method)},
        task={"name": task.name, **dataclasses.asdict(task)},
        backbone=dataclasses.asdict(backbone),
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        preprocessing=None if preprocessing is None else dataclasses.asdict(preprocessing),
    )
    text = json.dumps(dataclasses.asdict(config), indent=2) + "\n"
    write_folder(folder, {WEIGHTS: weights, CONFIG: text.encode()})


def read(folder: str | os.PathLike) -> AdapterFile:
    """Read the adapter in a folder; damaged or foreign files are refused.

    Args:
        folder: The folder with the adapter's two files.
    """
    folder = Path(folder)
    config = _read_config(folder / CONFIG)
    weights = _read_bytes(folder / WEIGHTS)
    if hashlib.sha256(weights).hexdigest() != config.weights_sha256:
        raise DaptError(
            f"{folder / WEIGHTS} is not the file that {CONFIG} was written with: "
            "it is damaged, or from another adapter"
        )
    try:
        state = safetensors.torch.load(weights)
    except Exception as error:
        raise DaptError(f"{folder / WEIGHTS} is not a safetensors file: {error}") from None
    check_finite(state, str(folder / WEIGHTS))
    return AdapterFile(
        method=_build(method_class, config.method, f"{folder / CONFIG}, method"),
        task=_build(task_class, config.task, f"{folder / CONFIG}, task"),
        backbone=_from_fields(BackboneRecord, config.backbone, f"{folder / CONFIG}, backbone"),
        state=state,
        preprocessing=(
            None
            if config.preprocessing is None
            else _from_fields(
                Preprocessing, config.preprocessing, f"{folder / CONFIG}, preprocessing"
            )
        ),
    )


def check_finite(state: Mapping[str, Tensor], where: str) -> None:
    """Refuse values that are not finite, such as those of a run that diverged.

    Args:
        state: Tensors by their names.
        where: The name to use in errors.
    """
    for name, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise DaptError(f"{where} holds values that are not finite: {name}")


def check_backbone(folder: str | os.PathLike, wanted: BackboneRecord, got: BackboneRecord) -> None:
    """Refuse a backbone that is not the one the adapter was trained on.

    Args:
        folder: The folder of the adapter, for the error.
        wanted: The backbone of its training.
        got: The backbone that was given.
    """
    if wanted.kind != got.kind:
        raise DaptError(f"{folder} is an adapter for a {wanted.kind}, the backbone is a {got.kind}")
    for field in sorted(wanted.config.keys() | got.config.keys()):
        theirs, ours = (record.config.get(field, _PLAIN.get(field)) for record in (wanted, got))
        if theirs != ours:
            raise DaptError(
                f"{folder} is an adapter for a backbone with {field}={theirs}, "
                f"and this one has {field}={ours}: create it with {field}={theirs}"
            )
    if wanted.fingerprint != got.fingerprint:
        raise DaptError(
            f"{folder} is an adapter for other pre-trained weights: its backbone's fingerprint is "
            f"{wanted.fingerprint[:12]}, this one's is {got.fingerprint[:12]}"
        )


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DaptError(f"{path} cannot be read: {error.strerror}") from None


def _read_config(path: Path) -> AdapterConfig:
    text = _read_bytes(path)
    if len(text) > LARGEST_CONFIG:
        raise DaptError(f"{path} has {len(text):,} bytes, and settings take {LARGEST_CONFIG:,}")
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DaptError(f"{path} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise DaptError(f"{path} must hold a JSON object, got {config!r:.40}")
    version = config.get("format_version")
    if version != FORMAT_VERSION:
        raise DaptError(f"{path} has format_version {version!r}, this dapt reads {FORMAT_VERSION}")
    return _from_fields(AdapterConfig, config, str(path))


def _check_named(kind: str, settings: Method | Task, class_of: Callable[[str], type]) -> None:
    """Check that the class can be found by its name when the file is read."""
    cls, name = type(settings), getattr(settings, "name", None)
    try:
        known = name is not None and class_of(name) is cls
    except UsageError:
        known = False
    if not known:
        raise UsageError(
            f"{cls.__name__} cannot be saved without a registered name: put "
            f'@dapt.{kind}s.register("{cls.__name__.lower()}") above the class'
        )


def _build(class_of: Callable[[str], type], record: dict, where: str) -> Method | Task:
    name = record.get("name")
    fields = {field: value for field, value in record.items() if field != "name"}
    try:
        cls = class_of(str(name))
    except UsageError as error:
        raise UsageError(
            f"{where}: {error}; if it comes from a plug-in, first import the module "
            f"that registers it ({OPTION} on the command line)"
        ) from None
    return _from_fields(cls, fields, where)


def _from_fields(cls: type, record: dict, where: str) -> object:
    """Make an instance of a dataclass; unknown, missing and mistyped fields are refused."""
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for name, value in record.items():
        if name not in fields:
            raise DaptError(f"{where}: unknown field '{name}'; known are {', '.join(fields)}")
        if not _accepts(hints[name], value):
            wanted = getattr(fields[name].type, "__name__", fields[name].type)
            raise DaptError(f"{where}: {name} must be {wanted}, got {value!r:.40}")
    for name, field in fields.items():
        if name not in record and field.default is dataclasses.MISSING:
            raise DaptError(f"{where}: {name} is missing")
    return cls(**record)


def _accepts(hint: object, value: object) -> bool:
    """Whether a value read from JSON matches a type annotation."""
    kind, args = typing.get_origin(hint), typing.get_args(hint)
    if kind in (typing.Union, types.UnionType):
        return any(_accepts(arg, value) for arg in args)
    if kind is typing.Literal:
        return value in args
    if kind is tuple:
        return isinstance(value, list) and all(_accepts(args[0], item) for item in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind or hint)
