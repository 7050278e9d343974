"""What was run, and how to run it again."""

import json

from dapt.runs.trees import dump, flatten
from dapt.view.findings import Findings
from dapt.view.page import text
from dapt.view.records import Group
from dapt.view.sections.parts import Section
from dapt.view.tables import Column, Table


def _settings(findings: Findings) -> Section:
    """The settings that differ, all others, versions, and the command to repeat each run."""
    flat = {
        group.name: flatten(group.first.settings.tree()) | {"runs": len(group.records)}
        for group in findings.groups
    }
    keys = list(dict.fromkeys(key for values in flat.values() for key in values))
    absent = object()
    differing = [
        key
        for key in keys
        if key != "out"
        and any(
            v.get(key, absent) != flat[findings.groups[0].name].get(key, absent)
            for v in flat.values()
        )
    ]
    parts = []
    if differing:
        columns = [Column("setting"), *(Column(group.name) for group in findings.groups)]
        rows = [
            [key, *(_shown(flat[group.name].get(key, "–")) for group in findings.groups)]
            for key in differing
        ]
        table = Table("differences", "Settings that differ", columns, rows)
        parts.append(f"<h3>What differs</h3>{table.html()}")
    versions = {
        f"{name} {version}"
        for group in findings.groups
        for record in group.complete
        for name, version in record.result.get("versions", {}).items()
    }
    if versions:
        parts.append(f"<h3>Versions</h3><p>{text(', '.join(sorted(versions)))}</p>")
    parts.append("<h3>To repeat a run</h3>" + "".join(map(_repeated, findings.groups)))
    return Section("settings", "Settings", "".join(parts))


def _repeated(group: Group) -> str:
    record = group.first
    command = "pretrain" if record.settings.method is None else "train"
    path = record.folder.config
    yaml = text(dump(record.settings.tree())).replace("\\n", "\n")
    return (
        f"<details><summary>{text(group.name)}</summary><pre>dapt {command} "
        f"--config {text(path)} --out NEW_FOLDER</pre><pre>{yaml}</pre></details>"
    )


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


WRITERS = (_settings,)
