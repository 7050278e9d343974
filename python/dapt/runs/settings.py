"""The settings of a run, read from YAML files and flags, and checked.

Each setting has one place in a tree. Four sections have a `name`, which decides their other
fields: `data` (a dataset), `backbone`, `method` and `task`. The rest is about the training itself
and is at the top level. A recipe may list what differs for a method under `methods:`.
"""

import dataclasses
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from dapt.errors import UsageError
from dapt.models.pretrained import RANDOM, SHIPPED, is_shipped
from dapt.runs.help import hint
from dapt.runs.options import PretrainOptions, TrainOptions
from dapt.runs.parser import CHOICES, add_names, add_sections, build_parser
from dapt.runs.trees import NAMED, Tree, dump, for_method, plain, read_yaml
from dapt.runs.words import completed, find_names, names_in, tree_of

ADAPTATION = ("data", "backbone", "method", "task")
PRETRAINING = ("data", "backbone")


@dataclasses.dataclass(frozen=True)
class Section:
    """A named part of the settings, such as the dataset with its options.

    Args:
        name: The name of the dataset, backbone, method or task.
        options: The options that were given or have defaults.
    """

    name: str
    options: Tree = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, tree: Mapping) -> "Section":
        """Make it from a section of a config.

        Args:
            tree: The section, with its `name` among the options.
        """
        options = dict(tree)
        return cls(options.pop("name"), options)

    def tree(self) -> Tree:
        """The section of a config."""
        return {"name": self.name, **self.options}

    def __contains__(self, option: str) -> bool:
        return option in self.options

    def get(self, option: str, default: object = None) -> object:
        """Get an option, or a default if it is not set.

        Args:
            option: Its name.
            default: The value if it is not set.
        """
        return self.options.get(option, default)

    def but(self, **options) -> "Section":
        """A copy with other values for some options."""
        return dataclasses.replace(self, options={**self.options, **options})


@dataclasses.dataclass(frozen=True)
class Settings:
    """All settings of a run, built once.

    Args:
        training: The top level of a config.
        data: The dataset.
        backbone: The network; its option `checkpoint` is a file of weights, or "none" for random
            ones. An adaptation needs it unless the backbone has shipped weights.
        method: The adaptation method; None in pre-training.
        task: The task to learn; None in pre-training.
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
        """Read a complete tree, from `parse` or the config.yaml of a run folder.

        Args:
            tree: The tree, with all sections.
        """
        kind = TrainOptions if "method" in tree else PretrainOptions
        known = {field.name for field in dataclasses.fields(kind)}
        training = kind(**{key: value for key, value in tree.items() if key in known})
        return cls(training, **{key: Section.of(tree[key]) for key in NAMED if key in tree})

    def tree(self) -> Tree:
        """The settings as a tree, without paths and tuples."""
        sections = {key: getattr(self, key) for key in NAMED if getattr(self, key) is not None}
        training = dataclasses.asdict(self.training)
        return plain(training | {key: section.tree() for key, section in sections.items()})

    @property
    def is_pretraining(self) -> bool:
        """Whether these are settings of `dapt pretrain`."""
        return self.method is None

    def but(self, **options) -> "Settings":
        """A copy with other values for some training options."""
        return dataclasses.replace(self, training=dataclasses.replace(self.training, **options))


def _with_weights(backbone: Section) -> Section:
    """Name the backbone's weights, so that nobody adapts a random network by accident."""
    if backbone.get("checkpoint") is not None:
        return backbone
    if is_shipped(backbone.name):
        return backbone.but(checkpoint=SHIPPED)
    raise UsageError(
        f"backbone {backbone.name} needs weights: use --backbone.checkpoint FILE for pre-trained "
        f"ones, or --backbone.checkpoint {RANDOM} if random ones are intended"
    )


def parse(
    prog: str, argv: list[str], sections: tuple[str, ...] = ADAPTATION, description: str = ""
) -> Settings:
    """Parse the arguments into complete settings with values of the right type.

    The names are looked up first, because the other fields of the parser depend on them.

    Args:
        prog: The command's name for `--help`.
        argv: The arguments after the command's name.
        sections: `ADAPTATION`, or `PRETRAINING`, which has no method and no task.
        description: The first line of `--help`.
    """
    argv = completed(argv)
    parser = parser_of(prog, argv, sections, description)
    try:
        return Settings.of(parser.parse_args(argv).as_dict())
    except ArgumentError as error:
        raise UsageError(hint(str(error), parser._option_string_actions)) from None


def parser_of(
    prog: str, argv: list[str], sections: tuple[str, ...], description: str = ""
) -> ArgumentParser:
    """Build the parser for these arguments, with the options of the names that they choose.

    Args:
        prog: The command, for its help.
        argv: The arguments after the command's name.
        sections: The sections of this kind of run.
        description: The description of the command, for its help.
    """
    kind = TrainOptions if sections == ADAPTATION else PretrainOptions
    return build_parser(prog, find_names(argv, sections), kind, description)


def settings_in(folder: Path, flags: Sequence[str] = ()) -> Settings:
    """Read the settings of a run; if it was moved, look for its files beside it.

    Args:
        folder: The folder of the run.
        flags: Settings that replace those of the run: --data.test other.npz.
    """
    tree = tree_of(folder)
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


def model_sections(path: Path | None, names: Mapping[str, str]) -> dict[str, Section]:
    """Read backbone, method and task of a config, without its data and training.

    Args:
        path: The config; None for the defaults.
        names: The names of a backbone, method or task to take instead.
    """
    sections = ("backbone", "method", "task")
    given = read_yaml(path) if path else {}
    method = names.get("method") or names_in(given, sections).get("method")
    given = for_method(given, method or CHOICES["method"].default)
    tree = {name: given[name] for name in sections if name in given}
    for section, name in names.items():
        if tree.get(section, {}).get("name") != name:
            tree[section] = {"name": name}
    parser = ArgumentParser(exit_on_error=False)
    named = {name: CHOICES[name].default for name in sections} | names_in(tree, sections)
    add_names(parser, named)
    add_sections(parser, named)
    try:
        complete = parser.parse_object(tree).as_dict()
    except ArgumentError as error:
        raise UsageError(str(error)) from None
    found = {name: Section.of(complete[name]) for name in sections}
    if found["backbone"].get("checkpoint") is None:  # the counts do not depend on weights
        found["backbone"] = found["backbone"].but(checkpoint=RANDOM)
    return found
