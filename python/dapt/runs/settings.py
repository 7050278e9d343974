"""What a run is made of: its settings, read from YAML files and flags, and checked.

A setting has one place in a tree. Four sections have a `name`, which decides the other fields
that they have: `data` (a dataset), `backbone`, `method` and `task`; what remains is about the
training itself and stands at the top. A recipe may say under `methods:` what differs for one
method.
"""

import dataclasses
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from jsonargparse import ArgumentParser, set_loader

from dapt import data, methods, models, tasks
from dapt.data import registry
from dapt.errors import UsageError, shown
from dapt.models.pretrained import RANDOM, SHIPPED, is_shipped
from dapt.plugins import OPTION
from dapt.runs.help import SettingsHelp, describe, hint
from dapt.runs.options import PretrainOptions, TrainOptions
from dapt.runs.paths import found
from dapt.runs.trees import (
    NAMED,
    Tree,
    config_file,
    dump,
    for_method,
    for_names,
    load_yaml,
    plain,
    read_yaml,
    spelled_out,
)

ADAPTATION = ("data", "backbone", "method", "task")
PRETRAINING = ("data", "backbone")
DEFAULT_NAMES = {
    "data": "npz",
    "backbone": "point_mae",
    "method": "dapt",
    "task": "classification",
}


@dataclasses.dataclass(frozen=True)
class Section:
    """A named part of the settings, such as the dataset with its options.

    Args:
        name: of the dataset, backbone, method or task.
        options: those that were given or have defaults.
    """

    name: str
    options: Tree = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, tree: Mapping) -> "Section":
        """From a section of a config.

        Args:
            tree: with its `name` among the options.
        """
        options = dict(tree)
        return cls(options.pop("name"), options)

    def tree(self) -> Tree:
        """As a section of a config."""
        return {"name": self.name, **self.options}

    def __contains__(self, option: str) -> bool:
        return option in self.options

    def get(self, option: str, default: object = None) -> object:
        """An option, or the default where it is not named.

        Args:
            option: its name.
            default: where it is not set.
        """
        return self.options.get(option, default)

    def but(self, **options) -> "Section":
        """The same with other values of these options."""
        return dataclasses.replace(self, options={**self.options, **options})


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that a run is made of, built once.

    Args:
        training: What stands at the top of a config.
        data: The dataset.
        backbone: The network; its option `checkpoint` is a file of weights, or "none" for random
            ones. An adaptation has to say which, but for a backbone whose weights are shipped.
        method: How it is adapted; None in pre-training.
        task: What it learns; None in pre-training.
    """

    training: TrainOptions
    data: Section
    backbone: Section
    method: Section | None = None
    task: Section | None = None

    def __post_init__(self):
        if not self.is_pretraining:
            object.__setattr__(self, "backbone", _with_weights(self.backbone))

    @classmethod
    def of(cls, tree: Mapping) -> "Settings":
        """The settings in a complete tree: what `parse` found, or the config.yaml of a run folder.

        Args:
            tree: with all sections.
        """
        kind = TrainOptions if "method" in tree else PretrainOptions
        known = {field.name for field in dataclasses.fields(kind)}
        training = kind(**{key: value for key, value in tree.items() if key in known})
        return cls(training, **{key: Section.of(tree[key]) for key in NAMED if key in tree})

    def tree(self) -> Tree:
        """The reverse of `of`, without paths and tuples."""
        sections = {key: getattr(self, key) for key in NAMED if getattr(self, key) is not None}
        training = dataclasses.asdict(self.training)
        return plain(training | {key: section.tree() for key, section in sections.items()})

    @property
    def is_pretraining(self) -> bool:
        """Whether they are those of `dapt pretrain`."""
        return self.method is None

    def but(self, **options) -> "Settings":
        """The same with other values of options of the training."""
        return dataclasses.replace(self, training=dataclasses.replace(self.training, **options))


def _with_weights(backbone: Section) -> Section:
    """The backbone with its weights named: nobody adapts a random network unawares."""
    if backbone.get("checkpoint") is not None:
        return backbone
    if is_shipped(backbone.name):
        return backbone.but(checkpoint=SHIPPED)
    raise UsageError(
        f"backbone {backbone.name} needs weights: --backbone.checkpoint FILE names pre-trained "
        f"ones, and --backbone.checkpoint {RANDOM} says that random ones are meant"
    )


def build_parser(
    prog: str, names: Mapping[str, str], options: type[TrainOptions], description: str = ""
) -> ArgumentParser:
    """The parser for one kind of run.

    Args:
        prog: the command, for its help.
        names: which dataset, backbone, method and so on.
        options: adaptation's or pre-training's.
        description: of the command, for its help.
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
    _add_names(parser, names)
    parser.add_class_arguments(options)
    _add_sections(parser, names)
    return parser


_RECIPES = "the name of a recipe that comes with dapt: npz, synthetic, scanobjectnn_hardest ..."


def _recipe(tree: object, names: Mapping[str, str]) -> object:
    if not isinstance(tree, dict):
        return tree
    return for_names(for_method(tree, names.get("method")), names)


_CHOICES = {
    "data": ("The dataset", registry.names),
    "backbone": ("The pre-trained network", models.names),
    "method": ("How it is adapted", methods.names),
    "task": ("What it learns", tasks.names),
}


def _add_names(parser: ArgumentParser, names: Mapping[str, str]) -> None:
    group = parser.add_argument_group("what is adapted to what; each has options of its own, below")
    for section, name in names.items():
        what, choices = _CHOICES[section]
        text = f"{what}: {', '.join(choices())}."
        group.add_argument(f"--{section}.name", type=str, default=name, help=text, metavar="NAME")


def _add_sections(parser: ArgumentParser, names: Mapping[str, str]) -> None:
    for section, name in names.items():
        describe(parser, section, name, _ADD[section](parser, name))


def _add_data(parser: ArgumentParser, name: str) -> type:
    kind = data.options_of(name)
    parser.add_class_arguments(kind, "data")
    return kind


def _add_backbone(parser: ArgumentParser, name: str) -> type:
    config = models.backbone_config(name)
    parser.add_class_arguments(type(config), "backbone")
    parser.groups["backbone"].add_argument(
        "--backbone.checkpoint",
        type=str | None,
        help="Pre-trained weights: a .pth or .safetensors file, hf://owner/repository/file, or "
        "`shipped`, the default of point_mae_tiny. `none` for random ones.",
    )
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    parser.set_defaults({f"backbone.{field}": value for field, value in values.items()})
    return type(config)


def _add_method(parser: ArgumentParser, name: str) -> type:
    kind = methods.method_class(name)
    parser.add_class_arguments(kind, "method")
    return kind


def _add_task(parser: ArgumentParser, name: str) -> type:
    kind = tasks.task_class(name)
    parser.add_class_arguments(kind, "task", skip=set(kind.from_data))
    return kind


_ADD = {"data": _add_data, "backbone": _add_backbone, "method": _add_method, "task": _add_task}


def parse(
    prog: str, argv: list[str], sections: tuple[str, ...] = ADAPTATION, description: str = ""
) -> Settings:
    """The settings that the arguments ask for, complete and with values of the right type.

    The names are looked up first, because the parser's other fields depend on them.

    Args:
        prog: What `--help` calls the command.
        argv: The arguments after the command's name.
        sections: `ADAPTATION`, or `PRETRAINING`, which has no method and no task.
        description: The first line of `--help`.
    """
    check_given(argv)
    argv = _with_configs([_as_named(word) for word in argv])
    parser = parser_of(prog, argv, sections, description)
    try:
        return Settings.of(parser.parse_args(argv).as_dict())
    except ArgumentError as error:
        raise UsageError(hint(str(error), parser._option_string_actions)) from None


def parser_of(
    prog: str, argv: list[str], sections: tuple[str, ...], description: str = ""
) -> ArgumentParser:
    """The parser for these arguments, with the options of the names that they choose.

    Args:
        prog: the command, for its help.
        argv: the words behind it.
        sections: those of this kind of run.
        description: of the command, for its help.
    """
    kind = TrainOptions if sections == ADAPTATION else PretrainOptions
    return build_parser(prog, find_names(argv, sections), kind, description)


def settings_in(folder: Path, flags: Sequence[str] = ()) -> Settings:
    """Those of a run, whose files are looked for beside it where it was moved.

    Args:
        folder: Of the run.
        flags: In place of what the run was begun with: --data.test other.npz.
    """
    tree = _tree_of(folder)
    try:
        settings = Settings.of(tree)
    except UsageError as error:
        raise UsageError(f"{folder / 'config.yaml'} is damaged: {error}") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise UsageError(f"{folder / 'config.yaml'} is damaged: {reason}") from None
    if not flags:
        return settings
    sections = ADAPTATION if "method" in tree else PRETRAINING
    return parse("dapt", [f"--config={dump(tree)}", *flags], sections)


def _tree_of(folder: Path) -> Tree:
    config = folder / "config.yaml"
    if not config.is_file():
        raise UsageError(f"{folder} is not a run folder: it has no config.yaml")
    tree = found(read_yaml(config), folder)
    _check_imports(tree, folder)
    return tree


_LOOK_UP = {
    "data": data.options_of,
    "backbone": models.backbone_config,
    "method": methods.method_class,
    "task": tasks.task_class,
}


def _check_imports(tree: Tree, folder: Path) -> None:
    """That what a run was begun with is here; it is never imported because a file says so."""
    if not tree.get("imports"):
        return
    for section, name in _names_in(tree, tuple(_LOOK_UP)).items():
        try:
            _LOOK_UP[section](name)
        except UsageError:
            flags = " ".join(f"{OPTION} {shown(module)}" for module in tree["imports"])
            raise UsageError(
                f"the {section} {name} of {folder} is in a module of its owner's: add {flags}, "
                "or in Python import it first"
            ) from None


def _with_configs(argv: Sequence[str]) -> list[str]:
    """The words with recipes' names as paths and a run to go on with as its settings.

    A bare --resume goes on with the run in `out`; --resume FOLDER needs nothing else.
    """
    words, done = list(argv), []
    while words:
        flag, equals, value = words.pop(0).partition("=")
        takes_next = not equals and words and not words[0].startswith("--")
        if flag == "--config":
            value = value if equals else words.pop(0) if words else ""
            done.append(f"--config={value if _is_text(value) else config_file(value)}")
        elif flag == "--resume":
            value = value if equals else words.pop(0) if takes_next else "true"
            if value not in ("true", "false"):
                tree = _tree_of(Path(value))
                done.insert(0, f"--config={dump(tree)}")
                value = "true"
            done.append(f"--resume={value}")
        else:
            done.append(f"{flag}{equals}{value}")
    return done


def _is_text(config: str) -> bool:
    """Whether it is the settings themselves, of a run that goes on."""
    return "\n" in config


def check_given(argv: Sequence[str]) -> None:
    """Refuse flags with an empty value, which for a path would be the current folder.

    Args:
        argv: the words behind the command.
    """
    for word, following in zip(argv, [*argv[1:], "-"], strict=False):
        flag, equals, value = word.partition("=")
        if flag.startswith("--") and not (value if equals else following).strip():
            raise UsageError(f"{flag} has an empty value")


def model_sections(path: Path | None, names: Mapping[str, str]) -> dict[str, Section]:
    """Backbone, method and task of a config, without its data and training.

    Args:
        path: of the config; None for the defaults.
        names: of a backbone, method or task to take instead.
    """
    sections = ("backbone", "method", "task")
    given = read_yaml(path) if path else {}
    method = names.get("method") or _names_in(given, sections).get("method")
    given = for_method(given, method or DEFAULT_NAMES["method"])
    tree = {name: given[name] for name in sections if name in given}
    for section, name in names.items():
        if tree.get(section, {}).get("name") != name:
            tree[section] = {"name": name}
    parser = ArgumentParser(exit_on_error=False)
    named = {name: DEFAULT_NAMES[name] for name in sections}
    named |= _names_in(tree, sections)
    _add_names(parser, named)
    _add_sections(parser, named)
    try:
        complete = parser.parse_object(tree).as_dict()
    except ArgumentError as error:
        raise UsageError(str(error)) from None
    found = {name: Section.of(complete[name]) for name in sections}
    if found["backbone"].get("checkpoint") is None:  # what is counted does not depend on weights
        found["backbone"] = found["backbone"].but(checkpoint=RANDOM)
    return found


def _as_named(word: str) -> str:
    """--method linear is --method.name linear"""
    flag, equals, value = word.partition("=")
    return f"{flag}.name{equals}{value}" if flag[2:] in NAMED and flag[:2] == "--" else word


def find_names(argv: Sequence[str], sections: tuple[str, ...]) -> dict[str, str]:
    """The name of every section: from the defaults, then the config files, then the flags.

    Args:
        argv: the words behind the command.
        sections: those of this kind of run.
    """
    names = {section: DEFAULT_NAMES[section] for section in sections}
    chosen = {}
    for word, following in zip(argv, [*argv[1:], ""], strict=False):
        flag, equals, value = word.partition("=")
        value = value if equals else following
        if flag == "--config":
            names |= _names_in(load_yaml(value) if _is_text(value) else read_yaml(value), sections)
        elif flag.removesuffix(".name")[2:] in sections and flag.endswith(".name"):
            chosen[flag[2:].removesuffix(".name")] = value
    return names | chosen


def _names_in(tree: Mapping, sections: tuple[str, ...]) -> dict[str, str]:
    tree = spelled_out(dict(tree))
    named = {section: tree[section] for section in sections if isinstance(tree.get(section), dict)}
    return {section: str(fields["name"]) for section, fields in named.items() if "name" in fields}
