"""Redraws the charts of the JSON files in results/ and the tables of docs/benchmarks.md.

python benchmarks/draw.py
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
PAGE = RESULTS.parents[1] / "docs" / "benchmarks.md"


def records_of_ops() -> list[Path]:
    """The JSON files of `ops.py` that have a chart and a table: ops-*.json, and GPU/ops.json."""
    return sorted([*RESULTS.glob("ops-*.json"), *RESULTS.glob("*/ops.json")])


def table_name(path: Path) -> str:
    """What marks the table of `path` in the documentation.

    Args:
        path: A file in results/.
    """
    return path.relative_to(RESULTS).with_suffix("").as_posix()


def speed_chart(record: dict) -> bytes:
    """Draws the speedup of each case of `ops.py`, as a PNG.

    Args:
        record: The JSON that ops.py writes.
    """
    from dapt.view.charts import speedups

    machine = record["machine"]
    isa = machine["dapt_ext"]["cpu_instruction_set_in_use"]
    title = machine.get("gpu") or f"{machine['cpu']}, {isa}, 2 threads at most"
    rows = [(r["op"], r["case"], r["speedup"], r["best_peer"]) for r in _sound(record)]
    return speedups([row for row in rows if row[2]], title)


def _sound(record: dict) -> list[dict]:
    """The rows whose contenders agreed."""
    return [row for row in record["rows"] if "failure" not in row]


def speed_table(record: dict) -> str:
    """The cases of `ops.py` as a table in Markdown.

    Args:
        record: The JSON that ops.py writes.
    """
    columns = ["op", "case", "threads", "ours, ms", "best peer, ms", "faster", "goal"]
    if "gpu" in record["machine"]:
        columns.remove("threads")
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in _sound(record):
        ours = f"{row['milliseconds']['dapt_ext']:.3g}"
        cells = {"op": row["op"], "case": row["case"], "threads": row["threads"], "ours, ms": ours}
        if best := row["best_peer"]:
            cells["best peer, ms"] = f"{row['milliseconds'][best]:.3g} ({best})"
            cells["faster"] = f"{row['speedup']:.1f}x"
        if row["goal"]:
            cells["goal"] = f"{row['goal']:g}x"
        lines.append("| " + " | ".join(str(cells.get(column, "")) for column in columns) + " |")
    return "\n".join(lines)


def fill_in(page: str, name: str, table: str) -> str:
    """The page with `table` between `<!-- name -->` and `<!-- / -->`, if it has these marks."""
    begin, end = f"<!-- {name} -->\n", "\n<!-- / -->"
    if begin not in page:
        return page
    before, after = page.split(begin, 1)
    return before + begin + table + end + after.split(end, 1)[1]


def draw_ops(path: Path) -> Path:
    """Draws the chart beside a JSON file of `ops.py` and updates its table in the documentation."""
    record = json.loads(path.read_text())
    picture = path.with_suffix(".png")
    picture.write_bytes(speed_chart(record))
    if path in records_of_ops():
        page = fill_in(PAGE.read_text(), table_name(path), speed_table(record))
        temporary = PAGE.with_suffix(".tmp")
        temporary.write_text(page)
        os.replace(temporary, PAGE)
    return picture


def compare_chart(record: dict) -> bytes:
    """Draws score against trained parameters, as `dapt compare` does.

    Args:
        record: The comparison.json of the comparison.
    """
    from dapt.training.comparison import Row, chart

    return chart([Row(**row) for row in record["rows"]], record["metric"], record["caption"])


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    for path in sorted(RESULTS.glob("compare-*.json")):
        picture = path.with_suffix(".png")
        picture.write_bytes(compare_chart(json.loads(path.read_text())))
        print(picture)
    for path in records_of_ops():
        print(draw_ops(path))


if __name__ == "__main__":
    main()
