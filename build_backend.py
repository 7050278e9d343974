"""setuptools' build backend, which also requires torch if none is installed yet.

The native part is compiled against the headers of an installed torch, 2.10 or later. Most users
have one; listing torch in pyproject's `build-system.requires` would download a second one.
"""

import sysconfig
from pathlib import Path

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403, the hooks that stay as they are


def get_requires_for_build_wheel(config_settings=None):
    return build_meta.get_requires_for_build_wheel(config_settings) + _torch()


def get_requires_for_build_editable(config_settings=None):
    return build_meta.get_requires_for_build_editable(config_settings) + _torch()


def _torch() -> list[str]:
    folders = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
    return [] if any(Path(folder, "torch").is_dir() for folder in folders) else ["torch>=2.10"]
