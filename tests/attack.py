"""Attack the program for some minutes and print the outcome.

python tests/attack.py --minutes 10
python tests/attack.py --cases 1000 --only "ply" --seed 7
"""

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from attack.harness import Budget, gather


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=0, help="shared by all attacks")
    parser.add_argument("--cases", type=int, help="the minimum number of cases per attack")
    parser.add_argument("--only", help="only attacks whose name contains this")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="also write the table to this JSON file")
    args = parser.parse_args()
    chosen = {name: each for name, each in gather().items() if (args.only or "") in name}
    table, cases, broken = [], 0, 0
    print(f"{'attack':28} {'cases':>7} {'seconds':>8}  outcomes", flush=True)
    for name, (run, small) in sorted(chosen.items()):
        began = time.monotonic()
        seconds = args.minutes * 60 / len(chosen)
        tally = run(Budget(args.cases or small, seconds, args.seed))
        took = time.monotonic() - began
        outcomes = ", ".join(f"{count} {what}" for what, count in sorted(tally.outcomes.items()))
        print(f"{name:28} {tally.cases:7} {took:8.1f}  {outcomes}", flush=True)
        for sentence in tally.failures:
            print(f"  {sentence}", flush=True)
        cases, broken = cases + tally.cases, broken + len(tally.failures)
        table.append({"attack": name, "seconds": round(took, 1), **tally.outcomes})
        if args.out:
            args.out.write_text(json.dumps(table, indent=2) + "\n")
    print(f"{cases:,} cases, {broken} of them broke a promise")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
