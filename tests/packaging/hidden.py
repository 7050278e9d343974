"""Runs a script with every installed package hidden except the named ones.

    python hidden.py PACKAGES SCRIPT ARGUMENTS...

PACKAGES is comma-separated and includes their dependencies. A hidden package can be neither
imported nor found and has no version, as if it were not installed.
"""

import runpy
import sys
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def closure(names):
    """The distributions that installing `names` would install."""
    found, todo = set(), [Requirement(name) for name in names]
    while todo:
        wanted = todo.pop()
        key = (canonicalize_name(wanted.name), *sorted(wanted.extras))
        if key in found:
            continue
        found.add(key)
        try:
            inner = distribution(wanted.name).requires or []
        except PackageNotFoundError:
            continue
        for requirement in map(Requirement, inner):
            extras = [{"extra": extra} for extra in wanted.extras or [""]]
            if not requirement.marker or any(map(requirement.marker.evaluate, extras)):
                todo.append(requirement)
    return {name for name, *_ in found}


class Hiding:
    """Wraps Python's finders so that they do not see hidden packages."""

    def __init__(self, kept):
        self.kept, self.finders = kept, list(sys.meta_path)
        self.hidden = {
            module
            for module, owners in packages_distributions().items()
            if not any(canonicalize_name(owner) in kept for owner in owners)
        }

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.hidden:
            return None
        specs = (finder.find_spec(name, path, target) for finder in self.finders)
        return next(filter(None, specs), None)

    def find_distributions(self, *context):
        for finder in self.finders:
            for found in getattr(finder, "find_distributions", lambda *_: ())(*context):
                if canonicalize_name(found.metadata["Name"]) in self.kept:
                    yield found


def main():
    packages, script, *arguments = sys.argv[1:]
    kept = closure(packages.split(",")) | {"dapt"}
    sys.meta_path[:] = [Hiding(kept)]
    for module in list(sys.modules):  # the script's own imports
        if module.partition(".")[0] == "packaging":
            del sys.modules[module]
    sys.argv[:] = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
