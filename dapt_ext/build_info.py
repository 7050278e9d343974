"""What was built, and for which machines."""

from __future__ import annotations

import json
from typing import Any

from dapt_ext._library import ops


def build_info() -> dict[str, Any]:
    """Version, compiler, CPU instruction sets (those that this machine has, and the one in use;
    DAPT_CPU_ISA forces one) and the CUDA architectures of this build (none: built without CUDA)."""
    return json.loads(ops.build_info())
