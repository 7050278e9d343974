"""A plugin of pytest: a line of JSON for each test as it ends, so that a run that is cut off leaves
those that it came to.

    PYTHONPATH=benchmarks pytest -p case_lines --case-lines cases.jsonl tests/ops/test_on_gpu.py
"""

from __future__ import annotations

import json
from pathlib import Path


def pytest_addoption(parser) -> None:
    """The flag that names the file."""
    parser.addoption("--case-lines", type=Path, help="a file for a line of JSON a test")


def pytest_configure(config) -> None:
    """Begins the file anew."""
    path = config.getoption("--case-lines")
    if path and not hasattr(
        config, "workerinput"
    ):  # a worker of xdist reports to the one that asks
        path.parent.mkdir(parents=True, exist_ok=True)
        config.pluginmanager.register(_CaseLines(path))


class _CaseLines:
    def __init__(self, path: Path):
        self.path = path
        path.write_text("")

    def pytest_runtest_logreport(self, report) -> None:
        if report.when != "call" and report.passed:
            return  # set up and taken down
        line = {"case": report.nodeid, "outcome": report.outcome, "when": report.when}
        line["seconds"] = round(report.duration, 3)
        if report.failed:
            line["message"] = getattr(report.longrepr, "reprcrash", report.longrepr)
            line["message"] = str(getattr(line["message"], "message", line["message"]))
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
