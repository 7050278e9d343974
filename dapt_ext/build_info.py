"""What was built, and for which machines."""

from __future__ import annotations

import json
from typing import Any

from dapt_ext._library import ops


def build_info() -> dict[str, Any]:
    """Describe this build: version, compiler, CPU instruction sets and CUDA architectures.

    It lists the instruction sets that this machine can run and the one in use (DAPT_CPU_ISA forces
    one). The list of CUDA architectures is empty for a build without CUDA."""
    return json.loads(ops.build_info())
