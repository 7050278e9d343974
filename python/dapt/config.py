"""What a run is made of: its settings, read from YAML files and flags, and checked.

A setting has one place in a tree. Four sections have a `name`, which decides the other fields
that they have: `data` (a dataset), `backbone`, `method` and `task`; what remains is about the
training itself and stands at the top. `method: dapt` is short for `method: {name: dapt}`.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentParser, set_loader

from dapt import data, methods, models, tasks
from dapt.errors import UsageError

Tree = dict[str, Any]
Augmentation = Literal[tuple(data.transforms.AUGMENTATIONS)]
NAMED = ("data", "backbone", "method", "task")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The training itself.

    Args:
        out: The run folder.
        resume: Go on with the run in `out` from its last checkpoint.
        seed: Fixes everything: weights, split, order, augmentation, dropout.
        epochs: How often each training cloud is seen.
        batch_size: Clouds in a step, of all processes together.
        accumulate: Batches whose gradients are summed up to one update.
        learning_rate: At the top of the schedule.
        min_learning_rate: At the start of the warm-up and at the end of the cosine.
        warmup_epochs: Epochs in which the learning rate rises.
        weight_decay: For matrices; none for biases, other 1-D parameters and tokens.
        clip_norm: Largest norm of the gradient; 0 for no limit.
        num_points: Points of each cloud that the network sees; all by default.
        augmentation: none, scale_translate, slight_scale_translate (part segmentation's), rotate
            or scale_rotate about the y axis, or rotate_freely about any.
        validation: Share of the training data on which the best epoch is chosen; with 0 all of it
            trains and the last epoch counts.
        evaluate_every: Epochs from one evaluation to the next; the last epoch always has one.
        patience: Stop after so many epochs without a better one; 0 for never.
        ema: Decay of the running mean of the weights, which is evaluated and saved; 0 for none.
        precision: fp32, or bf16 for matrix products in bfloat16.
        compile: Compile the network by torch.compile.
        accelerator: auto, cpu or cuda.
        devices: Processes to start on this machine; under torchrun it decides.
        num_workers: Processes that load data, for datasets that compute their clouds.
        checkpoint_seconds: Time between two checkpoints within an epoch.
        tensorboard: Write TensorBoard events.
    """

    out: Path
    resume: bool = False
    seed: int = 0
    epochs: int = 300
    batch_size: int = 32
    accumulate: int = 1
    learning_rate: float = 5e-4
    min_learning_rate: float = 1e-6
    warmup_epochs: float = 10
    weight_decay: float = 0.05
    clip_norm: float = 10.0
    num_points: int | None = None
    augmentation: Augmentation = "scale_translate"
    validation: float = 0.1
    evaluate_every: int = 1
    patience: int = 0
    ema: float = 0.0
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = 1
    num_workers: int = 0
    checkpoint_seconds: float = 300.0
    tensorboard: bool = True

    # what may change when a run goes on: it does not touch the result
    FREE = ("out", "resume", "devices", "num_workers", "checkpoint_seconds", "tensorboard")

    def __post_init__(self):
        object.__setattr__(self, "out", Path(self.out))
        least = {"epochs": 1, "batch_size": 1, "accumulate": 1, "devices": 1, "evaluate_every": 1}
        least |= dict.fromkeys(("seed", "clip_norm", "warmup_epochs", "weight_decay", "ema"), 0)
        least |= dict.fromkeys(("patience", "num_workers", "min_learning_rate"), 0)
        for name, bound in least.items():
            if not getattr(self, name) >= bound:
                raise UsageError(f"{name} must be at least {bound}, got {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise UsageError(f"learning_rate must be above 0, got {self.learning_rate}")
        if not self.ema < 1:
            raise UsageError(f"ema must be below 1, got {self.ema}")
        if not 0 <= self.validation < 1:
            raise UsageError(f"validation must be at least 0 and below 1, got {self.validation}")
        if self.patience and not self.validation:
            raise UsageError("patience needs a validation share to wait on, and validation is 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainOptions(TrainOptions):
    """Pre-training by hiding patches; its further options are those of `dapt train`.

    Args:
        mask_ratio: Share of the patches that are hidden.
        decoder_depth: Blocks of the decoder.
        probe_every: Epochs between two linear probes of the backbone, by the classes of the data;
            the last epoch has one, too. 0 for none.
    """

    mask_ratio: float = 0.6
    decoder_depth: int = 4
    probe_every: int = 10
    batch_size: int = 128
    learning_rate: float = 1e-3
    num_points: int | None = 1024
    validation: float = 0.05

    def __post_init__(self):
        super().__post_init__()
        if self.probe_every < 0:
            raise UsageError(f"probe_every must be at least 0, got {self.probe_every}")


DEFAULT_NAMES = {
    "data": "npz",
    "backbone": "point_mae",
    "method": "dapt",
    "task": "classification",
}
OPTIONS = {
    ("data", "backbone", "method", "task"): TrainOptions,
    ("data", "backbone"): PretrainOptions,
}


def build_parser(
    prog: str, names: Mapping[str, str], options: type[TrainOptions], description: str = ""
) -> ArgumentParser:
    """A parser of one kind of run; `names` says which dataset, backbone, method and so on."""
    set_loader("dapt", load_yaml)
    parser = ArgumentParser(
        prog=prog, description=description, parser_mode="dapt", exit_on_error=False
    )
    parser.add_argument("--config", action="config", help="A YAML file of settings.")
    parser.add_class_arguments(options)
    _add_sections(parser, names)
    return parser


def _add_sections(parser: ArgumentParser, names: Mapping[str, str]) -> None:
    for section, name in names.items():
        parser.add_argument(f"--{section}.name", type=str, default=name)
        _ADD[section](parser, name)


def _add_data(parser: ArgumentParser, name: str) -> None:
    parser.add_class_arguments(data.options_of(name), "data")


def _add_backbone(parser: ArgumentParser, name: str) -> None:
    config = models.backbone_config(name)
    parser.add_argument("--backbone.checkpoint", type=Path | None, help="Pre-trained weights.")
    parser.add_class_arguments(type(config), "backbone")
    parser.set_defaults(
        {f"backbone.{field.name}": getattr(config, field.name) for field in _fields(config)}
    )


def _add_method(parser: ArgumentParser, name: str) -> None:
    parser.add_class_arguments(methods.method_class(name), "method")


def _add_task(parser: ArgumentParser, name: str) -> None:
    task = tasks.task_class(name)
    parser.add_class_arguments(task, "task", skip=set(task.from_data))


_ADD = {"data": _add_data, "backbone": _add_backbone, "method": _add_method, "task": _add_task}


def _fields(config: Any) -> tuple[dataclasses.Field, ...]:
    return dataclasses.fields(config)


def parse(prog: str, argv: list[str], sections: tuple[str, ...], description: str = "") -> Tree:
    """The tree of settings that the arguments ask for, complete and with values of the right type.

    The names are looked up first, because the parser's other fields depend on them.
    """
    argv = [_spelled_out(word) for word in argv]
    names = find_names(argv, sections)
    parser = build_parser(prog, names, OPTIONS[sections], description)
    # a bare --resume is the usual form
    argv = [f"{word}=true" if word == "--resume" else word for word in argv]
    tree = parser.parse_args(argv).as_dict()
    tree.pop("config")
    return tree


def model_settings(path: Path | None, names: Mapping[str, str]) -> Tree:
    """Backbone, method and task alone: of a config, with other ones by their names."""
    given = read_yaml(path) if path else {}
    sections = ("backbone", "method", "task")
    tree = {name: given[name] for name in sections if name in given}
    tree |= {name: {"name": other} for name, other in names.items()}
    parser = ArgumentParser(exit_on_error=False)
    named = {name: DEFAULT_NAMES[name] for name in sections}
    _add_sections(parser, named | _names_in(tree, sections))
    return parser.parse_object(tree).as_dict()


def _spelled_out(word: str) -> str:
    """--method linear is --method.name linear"""
    flag, equals, value = word.partition("=")
    return f"{flag}.name{equals}{value}" if flag[2:] in NAMED and flag[:2] == "--" else word


def find_names(argv: list[str], sections: tuple[str, ...]) -> dict[str, str]:
    """The name of every section by the default, the config files and the flags, in this order."""
    names = {section: DEFAULT_NAMES[section] for section in sections}
    pairs = list(zip(argv, [*argv[1:], ""], strict=True))
    for word, following in pairs:
        flag, equals, value = word.partition("=")
        value = value if equals else following
        if flag == "--config":
            names |= _names_in(read_yaml(value), sections)
        elif flag.removesuffix(".name")[2:] in sections and flag.endswith(".name"):
            names[flag[2:].removesuffix(".name")] = value
    return names


def _names_in(tree: Mapping, sections: tuple[str, ...]) -> dict[str, str]:
    named = {section: tree[section] for section in sections if isinstance(tree.get(section), dict)}
    return {section: str(fields["name"]) for section, fields in named.items() if "name" in fields}


def load_yaml(text: str) -> Any:
    """YAML in which a section may be given by its name alone, and 1e-3 is a number."""
    tree = yaml.load(text, Loader=_Loader)
    if isinstance(tree, dict):
        for section in NAMED:
            if isinstance(tree.get(section), str):
                tree[section] = {"name": tree[section]}
    return tree


class _Loader(yaml.SafeLoader):
    """YAML 1.1 takes 1e-3 for a string."""


_Loader.yaml_implicit_resolvers = {
    first: list(resolvers) for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)


def read_yaml(path: str | Path) -> Tree:
    try:
        tree = load_yaml(Path(path).read_text())
    except OSError as error:
        raise UsageError(f"cannot read the config {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"the config {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise UsageError(f"the config {path} must hold settings by name, got {tree!r:.40}")
    return tree


def plain(value: Any) -> Any:
    """The tree as YAML and JSON have it: no paths and no tuples."""
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def dump(tree: Tree) -> str:
    return yaml.safe_dump(plain(tree), sort_keys=False)


def options_in(tree: Tree, options: type[TrainOptions]) -> TrainOptions:
    known = {field.name for field in dataclasses.fields(options)}
    return options(**{key: value for key, value in tree.items() if key in known})


def section(tree: Tree, name: str) -> tuple[str, Tree]:
    """(name, the other fields) of a section."""
    fields = dict(tree[name])
    return fields.pop("name"), fields
