"""The structure of the code: imports follow the layers of docs/architecture.md, and everything
public is documented."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import torch

import dapt_ext

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "python" / "dapt"
# From the top down: a wing imports only from itself and from the floors below.
FLOORS = (
    {"", "__main__", "hf"},
    {"cli"},
    {"training"},
    {"view"},
    {"runs"},
    {"inference"},
    {"adapters"},
    {"tasks", "methods"},
    {"models"},
    {"synthetic"},
    {"data"},
    {"files", "plugins", "progress"},
    {"errors"},
    {"version"},
)
FLOOR_OF = {wing: floor for floor, wings in enumerate(FLOORS) for wing in wings}


def modules():
    """{"dapt.data.npz": path} for the whole package."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported(path):
    """Modules of the package that a file imports, anywhere in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in inner]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "dapt")


def wing(module):
    return (module.split(".") + [""])[1]


def test_every_wing_has_a_floor():
    assert {wing(module) for module in MODULES} <= FLOOR_OF.keys()


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_arrow_runs_up(module):
    for target in imported(MODULES[module]):
        if wing(target) == wing(module):
            continue
        assert FLOOR_OF[wing(target)] > FLOOR_OF[wing(module)], f"{module} imports {target}"


def test_no_two_files_need_each_other():
    arrows = {
        module: {target for target in imported(path) if target in MODULES and target != module}
        for module, path in MODULES.items()
    }
    for module, targets in arrows.items():  # a package re-exports what its files define
        if MODULES[module].name != "__init__.py":
            parents = {".".join(module.split(".")[:n]) for n in range(1, module.count(".") + 1)}
            assert not targets & (parents - {"dapt"}), f"{module} imports its own package"
    try:
        tuple(TopologicalSorter(arrows).static_order())
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


def test_packages_know_their_place():
    for path in (ROOT / "dapt_ext").rglob("*.py"):
        assert not list(imported(path)), f"{path} imports dapt"
    for path in MODULES.values():
        assert "torch.ops.dapt" not in path.read_text(), f"{path} calls the compiled library"


# --- docstrings -----------------------------------------------------------------------------------

SOURCES = [*MODULES.values(), *sorted((ROOT / "dapt_ext").rglob("*.py"))]
TREES = {path: ast.parse(path.read_text()) for path in SOURCES}
CLASSES = [node for t in TREES.values() for node in ast.walk(t) if isinstance(node, ast.ClassDef)]
OF_TORCH = {"forward", "backward", "extra_repr", "train"}  # documented by torch
OF_BLOCKS = {"place", "attend", "transform", "path_factor"}  # documented by the plain `Block`
# Files whose functions have the names and arguments of ops.
STAND_INS = {"reference.py", "plain_ops.py", "onnx_fps.py"}


def methods_of(node):
    return {inner.name: inner for inner in node.body if isinstance(inner, ast.FunctionDef)}


def ancestors(node):
    for base in node.bases:
        name = ast.unparse(base).split("[")[0].split(".")[-1]
        for found in (each for each in CLASSES if each.name == name and each is not node):
            yield from (found, *ancestors(found))


def overrides(owner, name):
    """Whether a method overrides a documented one of a base class."""
    bases = [methods_of(base) for base in ancestors(owner)]
    return name in OF_TORCH or any(
        name in methods and ast.get_docstring(methods[name]) for methods in bases
    )


def is_entry(node):
    """Whether a node is a builder of the built-in world, described by its name and its parts."""
    return any(ast.unparse(mark).startswith("family(") for mark in node.decorator_list)


def public(body, owner=None):
    """(node, its class) for everything without a leading underscore that needs documentation."""
    for node in body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        if isinstance(node, ast.ClassDef):
            yield from ((node, owner), *public(node.body, node))
        elif not is_entry(node) and not (owner and overrides(owner, node.name)):
            yield node, owner


def ops():
    """The names of all ops and of their Python functions."""
    registered = {
        name.split("::")[1]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("dapt::")
    }
    return registered | set(dapt_ext.__all__)


def is_told_elsewhere(path, node, owner):
    """Whether the arguments are those of a documented function of the same name, or the self-named
    traits of a shape, such as its height and its legs."""
    if path.parent.name == "grammars":
        return True
    if owner is not None:
        return node.name in OF_BLOCKS and owner.name not in ("Block",)
    return path.name in STAND_INS and node.name in ops()


def arguments(node):
    """The arguments of a function, or of the constructor of a class."""
    if isinstance(node, ast.FunctionDef):
        args = node.args
        named = [arg.arg for arg in (*args.posonlyargs, *args.args, *args.kwonlyargs)]
        return [name for name in named if name not in ("self", "cls")]
    if "__init__" in methods_of(node):
        return arguments(methods_of(node)["__init__"])
    fields = [inner for inner in node.body if isinstance(inner, ast.AnnAssign)]
    is_made = any("dataclass" in ast.unparse(mark) for mark in node.decorator_list)
    if not is_made and not any(ast.unparse(base) == "NamedTuple" for base in node.bases):
        return []
    return [f.target.id for f in fields if "ClassVar" not in ast.unparse(f.annotation)]


def explained(node):
    """The names under `Args:` in the docstring and in those of the base classes."""
    nodes = [node, *(ancestors(node) if isinstance(node, ast.ClassDef) else ())]
    found = set()
    for docstring in filter(None, map(ast.get_docstring, nodes)):
        _, _, under = docstring.partition("Args:\n")
        for names in re.findall(r"^ {4}(\w[\w, ]*):", under.partition("\n\n")[0], re.MULTILINE):
            found |= set(names.replace(",", " ").split())
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_public_is_documented(path):
    lacking = [node.name for node, _ in public(TREES[path].body) if not ast.get_docstring(node)]
    assert not lacking, f"{path}: no docstring: {', '.join(lacking)}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arguments_of_what_is_public_are_explained(path):
    """Covers functions, classes and methods, so that --help explains every setting."""
    lacking = [
        f"{node.name}: {name}"
        for node, owner in public(TREES[path].body)
        if not (owner and owner.name.startswith("_")) and not is_told_elsewhere(path, node, owner)
        for name in arguments(node)
        if name not in explained(node)
    ]
    assert not lacking, "\n".join(lacking)


def test_nothing_is_explained_that_is_not_taken():
    """No entry under `Args:` outlives its argument."""
    stale = [
        f"{path.name}: {node.name}: {name}"
        for path, tree in TREES.items()
        for node, _ in public(tree.body)
        if isinstance(node, ast.FunctionDef)
        for name in explained(node) - set(arguments(node)) - further(node)
    ]
    assert not stale, "\n".join(stale)


def further(node):
    """The names of `*args` and `**kwargs`."""
    return {arg.arg for arg in (node.args.vararg, node.args.kwarg) if arg is not None}


# --- spelling -------------------------------------------------------------------------------------

BRITISH = re.compile(
    r"\b(?:learnt|tyres?|towards|whilst|amongst|grey|artefacts?|licence|judgement|catalogue|"
    r"(?:centre|colour|flavour|favour|honour|behaviour|metre|fibre)\w*|neighbour(?!s\")\w*|"
    r"(?:label|model|travel|cancel)l(?:ed|ing|er)|\w+(?:alis|eris|oris|imis|anis)(?:es?|ed|ing|ation|er))\b",
    re.IGNORECASE,
)
WRITTEN = ("*.py", "*.md", "*.cpp", "*.h", "*.cu", "*.cuh", "*.yaml")


def test_spelling_is_american():
    """Covers code, comments and pages; names in other people's files are quoted as they are."""
    found = [
        f"{path.relative_to(ROOT)}:{number}: {word}"
        for folder in ("python", "dapt_ext", "csrc", "docs", "tests", "examples", "scripts")
        for kind in WRITTEN
        for path in sorted((ROOT / folder).rglob(kind))
        if path != Path(__file__)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        for word in BRITISH.findall(line)
    ]
    assert not found, "\n".join(found)
