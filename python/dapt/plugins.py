"""Methods, datasets, backbones and tasks from other packages.

An installed package lists them as entry points in the groups `dapt.methods`, `dapt.datasets`,
`dapt.backbones` and `dapt.tasks`, each with the module that registers it. The module is imported
when its name is used. On the command line, `--import MODULE` names a module of your own. Nothing
else triggers an import: files of settings and adapters contain only names.
"""

import importlib.util
import json
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TypeVar

from dapt.errors import DaptError, UsageError, look_up

Entry = TypeVar("Entry")
KINDS = ("method", "dataset", "backbone", "task")
OPTION = "--import"
NOTED = "--imports"  # all imported modules, as a setting of a run


@cache
def installed(kind: str) -> dict[str, EntryPoint]:
    """The entry points of installed packages, by the name that each registers.

    Args:
        kind: method, dataset, backbone or task.
    """
    return {point.name: point for point in entry_points(group=f"dapt.{kind}s")}


def entry(kind: str, name: str, table: Mapping[str, Entry]) -> Entry:
    """Look up an entry; if needed, first import the installed package that registers it.

    Args:
        kind: method, dataset, backbone or task.
        name: The entry to look up.
        table: All entries registered so far, by name.
    """
    points = installed(kind)
    if name in points and name not in table:
        _load(kind, points[name])
        if name not in table:
            raise DaptError(f"the plug-in {points[name].value} registers no {kind} named {name!r}")
    return look_up(kind, name, {**dict.fromkeys(points), **table})


def _load(kind: str, point: EntryPoint) -> None:
    try:
        point.load()
    except Exception as error:  # third-party code may raise anything
        package = f" of {point.dist.name}" if point.dist else ""
        raise DaptError(
            f"the {kind} {point.name!r}{package} cannot be imported: {_said(error)}"
        ) from error


def taken(words: list[str]) -> tuple[list[str], list[str]]:
    """Split a command line into (the words without --import, the modules that --import names).

    Args:
        words: The words of the command line.
    """
    rest, modules, words = [], [], list(words)
    while words:
        flag, equals, value = words.pop(0).partition("=")
        if flag == NOTED and equals:
            modules += _noted(value)
        elif flag == OPTION:
            value = value if equals else words.pop(0) if words else ""
            if not value.strip() or value.startswith("-"):
                raise UsageError(f"{OPTION} needs a module name or a .py file")
            modules.append(value)
        else:
            rest.append(f"{flag}{equals}{value}")
    return rest, list(dict.fromkeys(modules))


def noted(modules: list[str]) -> str:
    """Join the modules into one word, for the settings of a run.

    Args:
        modules: What `import_module` returned.
    """
    return f"{NOTED}={json.dumps(modules)}"


def _noted(text: str) -> list[str]:
    try:
        modules = json.loads(text)
        if isinstance(modules, list) and all(isinstance(each, str) for each in modules):
            return modules
    except ValueError:
        pass
    raise UsageError(f"{NOTED} must be a list of modules, got {text:.40}: name each with {OPTION}")


def import_module(name: str) -> str:
    """Import a module that the user names; importing it again does nothing.

    Args:
        name: A module, which may be in the current folder, or a .py file.

    Returns:
        The name; for a file, its absolute path.
    """
    path = Path(name).expanduser().absolute()
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        if name.endswith(".py"):
            _import_file(path)
            return str(path)
        importlib.import_module(name)
        return name
    except Exception as error:  # the user's code may raise anything
        raise UsageError(f"{OPTION} {name}: {_said(error)}") from error
    finally:
        if added:
            sys.path.remove(here)


def _import_file(path: Path) -> None:
    known = sys.modules.get(path.stem)
    if known is not None:
        if getattr(known, "__file__", None) == str(path):
            return
        raise ImportError(f"another module is called {path.stem}: rename the file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
