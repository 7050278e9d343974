"""Methods, datasets, backbones and tasks that come from elsewhere.

An installed package names them as entry points of the groups `dapt.methods`, `dapt.datasets`,
`dapt.backbones` and `dapt.tasks`, each with the module that registers it; the module is imported
when its name is asked for. Modules of one's own are named on the command line: `--import MODULE`.
Nothing else imports anything: files of settings and adapters only have names.
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
NOTED = "--imports"  # all of them, as a setting of a run


@cache
def installed(kind: str) -> dict[str, EntryPoint]:
    """The entry points of installed packages, by the names that they register.

    Args:
        kind: method, dataset, backbone or task.
    """
    return {point.name: point for point in entry_points(group=f"dapt.{kind}s")}


def entry(kind: str, name: str, table: Mapping[str, Entry]) -> Entry:
    """The entry of a table, which an installed package may yet have to put there.

    Args:
        kind: method, dataset, backbone or task.
        name: The entry that is wanted.
        table: All that are registered so far, by name.
    """
    points = installed(kind)
    if name in points and name not in table:
        _load(kind, points[name])
        if name not in table:
            raise DaptError(f"the plug-in {points[name].value} registers no {kind} {name!r}")
    return look_up(kind, name, {**dict.fromkeys(points), **table})


def _load(kind: str, point: EntryPoint) -> None:
    try:
        point.load()
    except Exception as error:  # it is somebody's code
        package = f" of {point.dist.name}" if point.dist else ""
        raise DaptError(
            f"the {kind} {point.name!r}{package} cannot be imported: {_said(error)}"
        ) from error


def taken(words: list[str]) -> tuple[list[str], list[str]]:
    """(the words of a command line without --import, the modules that it names).

    Args:
        words: of a command line.
    """
    rest, modules, words = [], [], list(words)
    while words:
        flag, equals, value = words.pop(0).partition("=")
        if flag == NOTED and equals:
            modules += _noted(value)
        elif flag == OPTION:
            value = value if equals else words.pop(0) if words else ""
            if not value.strip() or value.startswith("-"):
                raise UsageError(f"{OPTION} needs the name of a module, or its file")
            modules.append(value)
        else:
            rest.append(f"{flag}{equals}{value}")
    return rest, list(dict.fromkeys(modules))


def noted(modules: list[str]) -> str:
    """The modules as one word, for the settings of a run.

    Args:
        modules: What `import_module` gave.
    """
    return f"{NOTED}={json.dumps(modules)}"


def _noted(text: str) -> list[str]:
    try:
        modules = json.loads(text)
        if isinstance(modules, list) and all(isinstance(each, str) for each in modules):
            return modules
    except ValueError:
        pass
    raise UsageError(f"{NOTED} must be a list of modules, got {text:.40}: name each by {OPTION}")


def import_module(name: str) -> str:
    """Import what a user names; the same once more is nothing.

    Args:
        name: A module, which may lie in the current folder, or a file that ends in .py.

    Returns:
        The name, a file as its absolute path.
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
    except Exception as error:  # it is the user's code
        raise UsageError(f"{OPTION} {name}: {_said(error)}") from error
    finally:
        if added:
            sys.path.remove(here)


def _import_file(path: Path) -> None:
    known = sys.modules.get(path.stem)
    if known is not None:
        if getattr(known, "__file__", None) == str(path):
            return
        raise ImportError(f"there is another module {path.stem}: call the file otherwise")
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
