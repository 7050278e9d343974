"""Prepare a command line for parsing: names, recipes, runs to resume."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from dapt.errors import UsageError, shown
from dapt.plugins import OPTION
from dapt.runs.parser import CHOICES
from dapt.runs.paths import found
from dapt.runs.trees import NAMED, Tree, config_file, dump, load_yaml, read_yaml, spelled_out


def completed(argv: Sequence[str]) -> list[str]:
    """Expand section names, recipes, and a run to resume.

    Configs come first, in their order, because the parser lets the later word win and a flag beats
    a config wherever it stands. A bare --resume continues the run in `out`; --resume FOLDER needs
    nothing else.

    Args:
        argv: The words after the command.
    """
    _check_given(argv)
    words, configs, done = [_as_named(word) for word in argv], [], []
    while words:
        flag, equals, value = words.pop(0).partition("=")
        takes_next = not equals and words and not words[0].startswith("--")
        if flag == "--":  # what follows are no flags
            return [*configs, *done, flag, *words]
        if flag == "--config":
            value = value if equals else words.pop(0) if words else ""
            config = f"--config={value if _is_text(value) else config_file(value)}"
            # a stray word after it must not become the value of the flag before it
            stray = words and not words[0].startswith("-")
            (done if stray else configs).append(config)
        elif flag == "--resume":
            value = value if equals else words.pop(0) if takes_next else "true"
            if value not in ("true", "false"):
                tree = tree_of(Path(value))
                configs.insert(0, f"--config={dump(tree)}")
                value = "true"
            done.append(f"--resume={value}")
        else:
            done.append(f"{flag}{equals}{value}")
    return [*configs, *done]


def _check_given(argv: Sequence[str]) -> None:
    """Refuse flags with an empty value, which for a path would be the current folder."""
    for word, following in zip(argv, [*argv[1:], "-"], strict=False):
        flag, equals, value = word.partition("=")
        if flag.startswith("--") and not (value if equals else following).strip():
            raise UsageError(f"{flag} has an empty value")


def _as_named(word: str) -> str:
    """--method linear is --method.name linear"""
    flag, equals, value = word.partition("=")
    return f"{flag}.name{equals}{value}" if flag[2:] in NAMED and flag[:2] == "--" else word


def find_names(argv: Sequence[str], sections: Sequence[str]) -> dict[str, str]:
    """The name of every section: from the defaults, then the config files, then the flags.

    Args:
        argv: The words after the command.
        sections: The sections of this kind of run.
    """
    names = {section: CHOICES[section].default for section in sections}
    chosen = {}
    for word, following in zip(argv, [*argv[1:], ""], strict=False):
        flag, equals, value = word.partition("=")
        value = value if equals else following
        if flag == "--config":
            names |= names_in(load_yaml(value) if _is_text(value) else read_yaml(value), sections)
        elif flag.removesuffix(".name")[2:] in sections and flag.endswith(".name"):
            chosen[flag[2:].removesuffix(".name")] = value
    return names | chosen


def names_in(tree: Mapping, sections: Sequence[str]) -> dict[str, str]:
    """The section names in a config.

    Args:
        tree: The config.
        sections: The sections to look for.
    """
    tree = spelled_out(dict(tree))
    named = {section: tree[section] for section in sections if isinstance(tree.get(section), dict)}
    return {section: str(fields["name"]) for section, fields in named.items() if "name" in fields}


def tree_of(folder: Path) -> Tree:
    """Read the config of a run; if it was moved, look for its files beside it.

    Args:
        folder: The folder of the run.
    """
    config = folder / "config.yaml"
    if not config.is_file():
        raise UsageError(f"{folder} is not a run folder: it has no config.yaml")
    tree = found(read_yaml(config), folder)
    _check_imports(tree, folder)
    return tree


def _check_imports(tree: Tree, folder: Path) -> None:
    """Check that the run's plug-ins are imported; a config itself never triggers an import."""
    if not tree.get("imports"):
        return
    for section, name in names_in(tree, tuple(CHOICES)).items():
        try:
            CHOICES[section].kind(name)
        except UsageError:
            flags = " ".join(f"{OPTION} {shown(module)}" for module in tree["imports"])
            raise UsageError(
                f"the {section} {name} of {folder} comes from a plug-in module: add {flags}, "
                "or in Python import it first"
            ) from None


def _is_text(config: str) -> bool:
    """Whether a config is the text of settings, as for a resumed run, rather than a file."""
    return "\n" in config
