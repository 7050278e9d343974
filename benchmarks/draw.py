"""The charts of results/, drawn from the JSON beside them: python benchmarks/draw.py"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def speed_chart(record: dict) -> bytes:
    """How many times faster each case of `ops.py` is, as a PNG.

    Args:
        record: Its JSON.
    """
    from dapt.view.charts import speedups

    machine = record["machine"]
    title = machine.get("gpu") or f"{machine['cpu']}, 2 threads at most"
    rows = [(r["op"], r["case"], r["speedup"], r["best_peer"]) for r in record["rows"]]
    return speedups([row for row in rows if row[2]], title)


def compare_chart(record: dict) -> bytes:
    """Score against trained parameters, as `dapt compare` draws it.

    Args:
        record: Its comparison.json.
    """
    from dapt.training.compare import Row, chart

    return chart([Row(**row) for row in record["rows"]], record["metric"], record["caption"])


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    for kind, draw in (("compare", compare_chart), ("ops", speed_chart)):
        for path in sorted(RESULTS.glob(f"{kind}-*.json")):
            picture = path.with_suffix(".png")
            picture.write_bytes(draw(json.loads(path.read_text())))
            print(picture)


if __name__ == "__main__":
    main()
