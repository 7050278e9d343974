"""`plans` and `on_host` of the compiled module, or of its sanitized build (DAPT_HOST_MODULE)."""

import importlib.util
import os
import sys

from dapt_ext import _module

if path := os.environ.get("DAPT_HOST_MODULE"):
    # Under its own name the sanitized build is a second module beside the ordinary one.
    spec = importlib.util.spec_from_file_location("_module", path)
    sys.modules["_module"] = _module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(_module)

plans, on_host = _module.plans, _module.on_host
