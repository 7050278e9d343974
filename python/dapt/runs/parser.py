"""The parser for one kind of run: the options of the training and of each named section."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import yaml
from jsonargparse import ArgumentParser, set_loader

from dapt import data, methods, models, tasks
from dapt.data import registry
from dapt.runs.help import SettingsHelp, describe
from dapt.runs.options import TrainOptions
from dapt.runs.trees import for_method, for_names, load_yaml

_RECIPES = "the name of a recipe that comes with dapt: npz, synthetic, scanobjectnn_hardest ..."


@dataclasses.dataclass(frozen=True)
class Choice:
    """The names that a section may have, and what each means.

    Args:
        what: The section in words.
        default: The name if none is given.
        names: Lists all names.
        kind: Returns the settings class of a name.
    """

    what: str
    default: str
    names: Callable[[], Sequence[str]]
    kind: Callable[[str], type]


CHOICES = {
    "data": Choice("The dataset", "npz", registry.names, data.options_of),
    "backbone": Choice(
        "The pre-trained network",
        "point_mae",
        models.names,
        lambda name: type(models.backbone_config(name)),
    ),
    "method": Choice("The adaptation method", "dapt", methods.names, methods.method_class),
    "task": Choice("The task to learn", "classification", tasks.names, tasks.task_class),
}


def build_parser(
    prog: str, names: Mapping[str, str], options: type[TrainOptions], description: str = ""
) -> ArgumentParser:
    """Build the parser for one kind of run.

    Args:
        prog: The command, for its help.
        names: The chosen dataset, backbone, method and so on.
        options: The class of the options: adaptation or pre-training.
        description: The description of the command, for its help.
    """
    unreadable = (yaml.YAMLError, ValueError, RecursionError)
    set_loader("dapt", lambda text: _recipe(load_yaml(text), names), unreadable)
    parser = ArgumentParser(
        prog=prog,
        usage=f"{prog} [--config FILE] [--data NAME] [--backbone NAME] ... --out FOLDER [options]",
        description=description,
        parser_mode="dapt",
        exit_on_error=False,
        formatter_class=SettingsHelp,
    )
    parser.add_argument("--config", action="config", help=f"A YAML file of settings, or {_RECIPES}")
    add_names(parser, names)
    parser.add_class_arguments(options)
    add_sections(parser, names)
    return parser


def _recipe(tree: object, names: Mapping[str, str]) -> object:
    if not isinstance(tree, dict):
        return tree
    return for_names(for_method(tree, names.get("method")), names)


def add_sections(parser: ArgumentParser, names: Mapping[str, str]) -> None:
    """Add the options of each section, which depend on its name.

    Args:
        parser: A parser that already has the options for names.
        names: The chosen dataset, backbone, method and so on.
    """
    for section, name in names.items():
        kind = CHOICES[section].kind(name)
        parser.add_class_arguments(kind, section, skip=set(getattr(kind, "from_data", ())))
        if section == "backbone":
            _add_weights(parser, name)
        describe(parser, section, name, kind)


def add_names(parser: ArgumentParser, names: Mapping[str, str]) -> None:
    """Add the options that name the sections.

    Args:
        parser: A parser for any kind of run.
        names: The chosen dataset, backbone, method and so on.
    """
    group = parser.add_argument_group("backbone, data, method and task, each with its own options")
    for section, name in names.items():
        choice = CHOICES[section]
        text = f"{choice.what}: {', '.join(choice.names())}."
        group.add_argument(f"--{section}.name", type=str, default=name, help=text, metavar="NAME")


def _add_weights(parser: ArgumentParser, name: str) -> None:
    parser.groups["backbone"].add_argument(
        "--backbone.checkpoint",
        type=str | None,
        help="Pre-trained weights: a .pth or .safetensors file, hf://owner/repository/file, or "
        "`shipped`, the default of point_mae_tiny. `none` for random ones.",
    )
    config = models.backbone_config(name)
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    parser.set_defaults({f"backbone.{field}": value for field, value in values.items()})
