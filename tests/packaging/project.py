"""What pyproject.toml requires, and what constraints.txt locks."""

from __future__ import annotations

import sys
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
DEVELOPMENT = {"bench", "browser", "build", "dev", "docs", "test"}  # extras that users do not need
PYTHONS = ("3.10", "3.11", "3.12", "3.13")


def requirements(*extras: str) -> list[Requirement]:
    """The direct requirements of dapt and these extras; an extra may include another."""
    found = []
    for text in [*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])]:
        requirement = Requirement(text)
        if requirement.name == PROJECT["name"]:
            found += requirements(*sorted(requirement.extras))
        else:
            found.append(requirement)
    return found


def environment(python: str) -> dict[str, str]:
    """The environment for markers: this machine with another Python."""
    return default_environment() | {"python_version": python, "python_full_version": f"{python}.1"}


def locked(python: str) -> dict[str, Requirement]:
    """The lines of constraints.txt that apply to a Python, by package."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {
        pin.name: pin
        for pin in pins
        if pin.marker is None or pin.marker.evaluate(environment(python))
    }
