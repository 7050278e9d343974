"""A pytest plugin that writes one line of JSON as each test ends, so that an interrupted run leaves
the results that it got to.

    PYTHONPATH=benchmarks pytest -p case_lines --case-lines cases.jsonl tests/ops/test_on_gpu.py
"""

from __future__ import annotations

import json
from pathlib import Path


def pytest_addoption(parser) -> None:
    """Adds the flag that names the file."""
    parser.addoption("--case-lines", type=Path, help="a file for one line of JSON per test")


def pytest_configure(config) -> None:
    """Starts an empty file."""
    path = config.getoption("--case-lines")
    # xdist's workers report to the main process, which alone writes the file.
    if path and not hasattr(config, "workerinput"):
        path.parent.mkdir(parents=True, exist_ok=True)
        config.pluginmanager.register(_CaseLines(path))


class _CaseLines:
    def __init__(self, path: Path):
        self.path = path
        path.write_text("")

    def pytest_runtest_logreport(self, report) -> None:
        if report.when != "call" and report.passed:
            return  # setup or teardown
        line = {"case": report.nodeid, "outcome": report.outcome, "when": report.when}
        line["seconds"] = round(report.duration, 3)
        if report.failed:
            line["message"] = getattr(report.longrepr, "reprcrash", report.longrepr)
            line["message"] = str(getattr(line["message"], "message", line["message"]))
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
