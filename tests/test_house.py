"""The structure of the code: in which direction imports may go. See docs/architecture.md."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "python" / "dapt"
# from the top down: a wing imports from its own floor's wing or from floors below
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
    {"files", "progress"},
    {"errors"},
)
FLOOR_OF = {wing: floor for floor, wings in enumerate(FLOORS) for wing in wings}


def modules():
    """{"dapt.data.npz": path} of the whole package."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported(path):
    """Modules of the package that a file imports, wherever in the file."""
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
    for module, targets in arrows.items():  # a package hands on what its files define
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
