"""Settings as nested mappings, as in YAML files."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dapt.errors import UsageError, look_up

Tree = dict[str, Any]
RECIPES = Path(__file__).parents[1] / "configs"  # shipped with the package
MOST_ENTRIES = 100_000  # in a config, with aliases expanded
NAMED = ("data", "backbone", "method", "task")  # sections whose name decides their other fields


class _Loader(yaml.SafeLoader):
    """Reads 1e-3 as a number, which YAML 1.1 reads as a string."""


_Loader.yaml_implicit_resolvers = {
    first: list(resolvers) for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)


def load_yaml(text: str) -> Any:
    """Parse YAML in which a section may be given by its name alone, and 1e-3 is a number.

    Any text that is not settings raises a yaml.YAMLError.

    Args:
        text: The text of a file or a flag.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _unfolded(node, {})
        tree = loader.construct_document(node)
    except yaml.YAMLError:
        raise
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except Exception as error:  # such as a date of the 40th, or a number with 5,000 digits
        raise yaml.YAMLError(f"invalid value: {str(error):.200}") from None
    return spelled_out(tree) if isinstance(tree, dict) else tree


def _unfolded(node: yaml.Node, sizes: dict[int, int | None]) -> int:
    """Count the entries below a node with aliases expanded; too many are refused."""
    if id(node) in sizes:
        if sizes[id(node)] is None:
            raise yaml.YAMLError("an alias refers to a node that contains it")
        return sizes[id(node)]
    sizes[id(node)] = None
    size = 1
    for child in node.value if isinstance(node, yaml.CollectionNode) else ():
        for each in child if isinstance(child, tuple) else (child,):
            size += _unfolded(each, sizes)
    if size > MOST_ENTRIES:
        raise yaml.YAMLError(f"its aliases expand to more than {MOST_ENTRIES:,} entries")
    sizes[id(node)] = size
    return size


def spelled_out(tree: Tree) -> Tree:
    """Expand `method: dapt` to `method: {name: dapt}`, and drop empty sections.

    Args:
        tree: The settings, left unchanged.
    """
    tree = {key: value for key, value in tree.items() if key not in NAMED or value is not None}
    for key in NAMED:
        if key in tree and not isinstance(tree[key], str | Mapping):
            raise UsageError(f"{key} must be a name or a mapping, got {tree[key]!r:.40}")
    return {
        key: {"name": value} if key in NAMED and isinstance(value, str) else value
        for key, value in tree.items()
    }


def config_file(config: str | Path) -> Path:
    """The file of a config, given by its path or by the name of a recipe, such as npz.

    Args:
        config: The config; an existing file takes precedence over a recipe.
    """
    path, recipes = Path(config), {file.stem: file for file in sorted(RECIPES.glob("*.yaml"))}
    if path.exists() or path.suffix or path.name != str(path):
        return path
    return look_up("recipe", path.name, recipes)


def read_yaml(path: str | Path) -> Tree:
    """Read the settings in a file or a recipe, unchanged.

    Args:
        path: The file, or the name of a recipe.
    """
    path = config_file(path)
    try:
        tree = load_yaml(path.read_text())
    except OSError as error:
        shipped = RECIPES / path.name
        hint = f"; the recipe of this name is --config {path.stem}" if shipped.is_file() else ""
        raise UsageError(f"cannot read the config {path}: {error.strerror}{hint}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"the config {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise UsageError(f"the config {path} must hold a mapping of settings, got {tree!r:.40}")
    return tree


def for_method(tree: Tree, method: str | None) -> Tree:
    """Specialize a recipe for a method: its settings under `methods:` replace the general ones.

    Args:
        tree: The recipe, left unchanged.
        method: The method's name.
    """
    tree = dict(tree)
    changes = tree.pop("methods", None) or {}
    if not isinstance(changes, dict):
        raise UsageError(f"methods must hold settings by method name, got {changes!r:.40}")
    own = changes.get(method) or {}
    if not isinstance(own, dict):
        raise UsageError(f"methods.{method} must hold a mapping of settings, got {own!r:.40}")
    return merged(for_names(tree, {"method": method}), spelled_out(own))


def for_names(tree: Tree, names: Mapping[str, str | None]) -> Tree:
    """Drop sections that have another name: the options of one dataset do not fit another.

    Args:
        tree: The recipe.
        names: The sections' names, as chosen by flags. None leaves a section unchanged.
    """
    return {
        key: section
        for key, section in tree.items()
        if names.get(key) is None or _name(section) in (None, names[key])
    }


def _name(section: Any) -> str | None:
    return section.get("name") if isinstance(section, dict) else None


def merged(tree: Mapping, changes: Mapping) -> Tree:
    """Copy a tree with some of its leaves replaced.

    Args:
        tree: The tree, left unchanged.
        changes: The leaves to replace, as part of a tree.
    """
    result = dict(tree)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def plain(value: Any) -> Any:
    """Convert a tree to what YAML and JSON support, without paths and tuples.

    Args:
        value: A tree or a leaf.
    """
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def dump(tree: Tree) -> str:
    """Format a tree as YAML.

    Args:
        tree: The settings.
    """
    return yaml.safe_dump(plain(tree), sort_keys=False)


def flatten(tree: Mapping, prefix: str = "") -> dict[str, object]:
    """Flatten a tree to dotted names: {"data": {"train": x}} -> {"data.train": x}.

    Args:
        tree: The settings.
        prefix: The prefix of all names.
    """
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
