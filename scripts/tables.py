"""Reproduces the tables of docs/comparing.md, one command each.

    python scripts/tables.py hardest --out runs/tables/hardest --minutes 40
    python scripts/tables.py shapes --data real_shapes_train.npz --out runs/tables/shapes
    python scripts/tables.py ranks runs/tables/*/comparison.json --out runs/tables/ranks

A table compares every method with learning rates from one grid, three seeds and paired differences.
Completed runs are not repeated. Before it starts, the script estimates how long it takes on this
machine's cores. --minutes runs as many epochs as fit into that time instead of the recipe's;
--dry_run only prints the commands.
"""

import argparse
import json
import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

import numpy as np

from dapt.errors import DaptError, UsageError, reading
from dapt.files import write_atomically

ALL = (
    "dapt,full,linear,adapter,peft:lora,vpt,prefix,reversible,reversible:dapt,density:dapt,"
    "point_peft,idpt,ppt,point_gst,point_lora,ga_prompt,stag"
).split(",")
FEW = ["dapt", "full", "linear", "adapter", "peft:lora", "stag"]
PARTS = "dapt,full,linear,adapter,peft:lora,vpt,prefix,reversible,stag,point_gst".split(",")
GRID = "5e-4,2e-3,8e-3"
# CPU seconds per training step on 32 clouds of 1,024 points with one label per cloud, measured in
# one thread of a shared AMD EPYC (Zen 4). On other machines only their ratios hold.
STEP = {
    "linear": 0.16, "full": 0.77, "dapt": 0.31, "reversible:dapt": 0.48, "density:dapt": 0.32,
    "reversible": 0.40, "adapter": 0.27, "peft:lora": 0.32, "vpt": 0.30, "prefix": 0.26,
    "point_peft": 0.78, "idpt": 0.44, "ppt": 0.86, "point_gst": 0.28, "point_lora": 1.06,
    "ga_prompt": 0.96, "stag": 0.32,
}  # fmt: skip
PART_STEP = 0.5  # additional seconds per step on 16 clouds of 512 labeled points
OTHERS = 0.6
SCORE, START = 0.008, 8.0  # seconds to score a cloud, and for a process to start training
LEAST_EPOCHS = 3


@dataclass(frozen=True)
class Table:
    """A comparison of methods on one dataset.

    Args:
        config: The recipe.
        methods: The methods to compare.
        train: The number of training clouds, without those for validation.
        test: The number of test clouds.
        epochs: The epochs of each run.
        flags: Flags of each run in addition to the recipe.
        search: The grid of learning rates, or None for no search.
        held_out: Whether a fifth of the groups in `--data` is held out as the test set.
    """

    config: str
    methods: Sequence[str]
    train: int
    test: int
    epochs: int
    flags: Sequence[str] = ()
    search: str | None = GRID
    held_out: bool = False


REAL = ("--data", "npz", "--num_points", "1024", "--validation", "0.15")
TABLES = {
    "hardest": Table("synthetic", ALL, 1080, 1000, 15),
    "shapes": Table("npz", ALL, 1050, 308, 20, REAL, held_out=True),
    "electronics": Table("npz", ALL, 620, 183, 30, REAL, held_out=True),
    "parts": Table("synthetic_parts", PARTS, 680, 201, 20, REAL, held_out=True),
    "corrupted": Table("npz", FEW, 1050, 308, 20, (*REAL, "--corrupt", "all"), held_out=True),
}
# Variants as (name, flags): each is a comparison of its own, and their rows form one table.
LABELS = [(f"labels_{share}", ["--label_share", share]) for share in ("0.01", "0.05", "0.1")]
COMPRESSED = [
    ("float", []),
    ("int8", ["--backbone.weights", "int8"]),
    ("nf4", ["--backbone.weights", "nf4"]),
    ("half pruned", ["--backbone.sparsity", "0.5"]),
    ("two of four", ["--backbone.two_of_four", "true"]),
]
ABLATION = [
    ("dapt", []),
    ("positions once", ["--method.positions", "once"]),
    ("rank 16", ["--method.rank", "16"]),
    ("rank 32", ["--method.rank", "32"]),
    ("rank 128", ["--method.rank", "128"]),
    ("dropout 0.1", ["--method.dropout", "0.1"]),
    ("drop_path 0.1", ["--method.drop_path", "0.1"]),
    ("published dropout and drop_path", ["--method.dropout", "0.2", "--method.drop_path", "0.3"]),
    ("batch norms count", ["--method.freeze_bn", "false"]),
    ("head without prompts", ["--method.head_tokens", "[cls, patch:max]"]),
    ("no warm-up", ["--warmup_epochs", "0"]),
    ("long warm-up", ["--warmup_epochs", "5"]),
    ("slow scales", ["--rates", "{adapter: 1.0, .scale: 0.1, .shift: 0.1}"]),
    ("fast scales", ["--rates", "{adapter: 1.0, .scale: 5.0, .shift: 5.0}"]),
    ("frozen scales", ["--rates", "{adapter: 1.0, .scale: 0.0, .shift: 0.0}"]),
    ("no weight decay", ["--weight_decay", "0"]),
    ("half of the patches", ["--backbone.num_groups", "32"]),
]
MANY = {
    "low_label": (LABELS, FEW, Table("synthetic", FEW, 108, 1000, 40, search=None)),
    "compressed": (
        COMPRESSED,
        ["dapt", "density:dapt"],
        Table("synthetic", ["dapt", "density:dapt"], 1080, 1000, 15, search=None),
    ),
    "ablation": (ABLATION, ["dapt"], Table("synthetic", ["dapt"], 1080, 1000, 15, search=None)),
}


def seconds(table: Table, epochs: int, seeds: int) -> float:
    """Estimates how long a comparison takes on these cores, from measured CPU seconds.

    Args:
        table: The comparison.
        epochs: The epochs of each run.
        seeds: The number of seeds per method.
    """
    searched = len(table.search.split(",")) if table.search else 0
    total = 0.0
    for method in table.methods:
        step, batch = STEP.get(method, OTHERS), 32
        if "parts" in table.config:
            step, batch = step / 2 + PART_STEP, 16
        run = START + max(table.train // batch, 1) * epochs * step
        run += SCORE * (table.test + epochs * 0.15 * table.train)
        total += run * (seeds + searched)
    return total / cores()


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fitting(table: Table, minutes: float | None, seeds: int, times: int = 1) -> int:
    """The table's epochs, or as many as fit into the given time.

    Args:
        table: The comparison.
        minutes: The time for everything; None for the table's epochs.
        seeds: The number of seeds per method.
        times: The number of comparisons of this size.
    """
    if minutes is None:
        return table.epochs
    for epochs in range(table.epochs, LEAST_EPOCHS, -1):
        if times * seconds(table, epochs, seeds) <= 60 * minutes:
            return epochs
    return LEAST_EPOCHS


def command(
    table: Table, methods: Sequence[str], epochs: int, seeds: int, out: Path, flags: Sequence[str]
) -> list[str]:
    """The arguments of `dapt` that run one comparison.

    Args:
        table: The comparison.
        methods: The methods to compare.
        epochs: The epochs of each run.
        seeds: The number of seeds per method.
        out: The folder to write to.
        flags: Flags of each run in addition to the table's.
    """
    words = ["compare", "--methods", ",".join(methods), "--seeds", str(seeds)]
    words += ["--config", table.config, "--out", str(out), "--jobs", str(cores())]
    words += ["--epochs", str(epochs), "--warmup_epochs", f"{max(epochs / 8, 0.5):g}"]
    words += ["--test_every", "0", *table.flags]
    return [*words, *(["--search", table.search] if table.search else []), *flags]


def run(commands: Sequence[Sequence[str]], dry: bool) -> None:
    """Runs commands one after another; an interrupted one resumes where it stopped.

    Args:
        commands: The arguments of `dapt`, for each command.
        dry: Whether to only print the commands.
    """
    for words in commands:
        print("dapt " + shlex.join(words), flush=True)
        if dry:
            continue
        environment = {"OMP_NUM_THREADS": "1"} | os.environ
        code = subprocess.run([sys.executable, "-m", "dapt", *words], env=environment).returncode
        if code:
            raise DaptError(
                f"dapt compare ended with exit code {code}: repeat the same command to resume"
            )


def held_out(data: Path, out: Path, dry: bool) -> list[str]:
    """Splits a file, a fifth of every class's groups for the test; returns the flags for its parts.

    Args:
        data: An npz file with `groups`.
        out: The path of the two parts, without their endings.
        dry: Whether to write nothing.
    """
    split = Path(__file__).with_name("split_npz.py")
    if not dry and not out.with_name(f"{out.name}_validation.npz").exists():
        subprocess.run([sys.executable, str(split), str(data), "--out", str(out)], check=True)
    train, test = (f"{out}_{name}.npz" for name in ("train", "validation"))
    return ["--data.train", train, "--data.test", test]


def several(name: str, variants: Sequence[tuple[str, list[str]]], out: Path) -> str:
    """Joins comparisons that differ in one setting into a table of differences from the first row.

    Args:
        name: The name of the table.
        variants: The name and the flags of each comparison.
        out: The folder of the comparisons.
    """
    from dapt.training.statistics import differences

    rows, clouds = {}, {}
    for variant, _ in variants:
        folder = out / variant.replace(" ", "_")
        record = json.loads((folder / "comparison.json").read_text())
        for row in record["rows"]:
            key = f"{variant}, {row['method']}"
            rows[key] = row
            runs = folder / row["method"].replace(":", "_")
            clouds[key] = np.stack([np.load(runs / f"seed_{s}/clouds.npy") for s in row["seeds"]])
    first = next(iter(rows))
    apart = differences(clouds, first)
    lines = [f"| {name} | {record['metric']} | vs {first}, points |", "|---|---:|---:|"]
    for key, row in rows.items():
        spread = f" ± {100 * stdev(row['scores']):.1f}" if len(row["scores"]) > 1 else ""
        difference = apart[key].in_words if key in apart else ""
        lines.append(f"| {key} | {100 * fmean(row['scores']):.1f}{spread} % | {difference} |")
    text = f"{record['caption']}\n\n" + "\n".join(lines) + "\n"
    told = {key: {**row, "difference": vars(apart[key]) if key in apart else None}
            for key, row in rows.items()}  # fmt: skip
    whole = {"caption": record["caption"], "metric": record["metric"], "rows": told}
    write_atomically(out / f"{name}.json", (json.dumps(whole, indent=2) + "\n").encode())
    write_atomically(out / f"{name}.md", text.encode())
    if name == "low_label":
        write_atomically(out / f"{name}.png", label_chart(rows, record))
    return text


def label_chart(rows: dict[str, dict], record: dict) -> bytes:
    """Draws score against the share of labels, as a PNG.

    Args:
        rows: The rows, by "labels_SHARE, METHOD".
        record: The comparison.json of any of the comparisons.
    """
    from dapt.view.charts import curves_of_methods

    curves: dict[str, list] = {}
    for key, row in rows.items():
        share = float(key.partition(",")[0].removeprefix("labels_"))
        curves.setdefault(row["method"], []).append((100 * share, fmean(row["scores"])))
    panels = [("", curves)]
    return curves_of_methods(panels, "labels, %", record["metric"], record["caption"], log=True)


def rank(files: Sequence[Path], out: Path) -> str:
    """Ranks methods over several comparisons, with Friedman's and Nemenyi's tests.

    Args:
        files: The comparison.json of each comparison.
        out: The folder for ranks.md and ranks.json.
    """
    from dapt.training.statistics import ranks

    sets = {}
    for path in files:
        with reading(path):
            record = json.loads(path.read_text())
            sets[path] = {row["method"]: fmean(row["scores"]) for row in record["rows"]}
    shared = [name for name in next(iter(sets.values())) if all(name in s for s in sets.values())]
    if len(sets) < 2 or len(shared) < 2:
        raise UsageError("ranks need two or more methods that two or more comparisons share")
    found = ranks({name: [scores[name] for scores in sets.values()] for name in shared})
    lines = ["| method | mean rank |", "|---|---:|"]
    lines += [f"| {name} | {place:.2f} |" for name, place in found.mean.items()]
    text = "\n".join(lines) + (
        f"\n\nFriedman over {found.datasets} datasets: chi square {found.statistic:.2f}, "
        f"p = {found.p:.3g}. Mean ranks that are more than {found.critical:.2f} apart differ at "
        "5 % (Nemenyi).\n"
    )
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "ranks.json", (json.dumps(vars(found), indent=2) + "\n").encode())
    write_atomically(out / "ranks.md", text.encode())
    return text


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=(*TABLES, *MANY, "ranks"))
    parser.add_argument("files", nargs="*", type=Path, help="for ranks: the comparison.json files")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="npz with groups, for the tables of files")
    parser.add_argument("--methods", help="comma-separated, instead of the table's")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, help="run as many epochs as fit into this time")
    parser.add_argument("--epochs", type=int, help="instead of the table's")
    parser.add_argument("--dry_run", action="store_true", help="only print the commands")
    options, flags = parser.parse_known_args()
    if options.table == "ranks":
        print(rank(options.files, options.out), end="")
        return
    variants, methods, table = MANY.get(options.table) or (None, None, TABLES[options.table])
    methods = options.methods.split(",") if options.methods else list(methods or table.methods)
    table = Table(**{**vars(table), "methods": methods, "epochs": options.epochs or table.epochs})
    if table.held_out:
        if options.data is None:
            raise UsageError(f"{options.table} needs --data FILE.npz")
        flags = [*held_out(options.data, options.out / "data", options.dry_run), *flags]
    times = len(variants or [0])
    epochs = fitting(table, options.minutes, options.seeds, times)
    minutes = times * seconds(table, epochs, options.seeds) / 60
    print(f"{len(methods)} methods, {epochs} epochs, about {minutes:.0f} min on {cores()} cores")
    if variants is None:
        run([command(table, methods, epochs, options.seeds, options.out, flags)], options.dry_run)
        return
    run(
        [
            command(table, methods, epochs, options.seeds, options.out / name.replace(" ", "_"),
                    [*own, *flags])
            for name, own in variants
        ],
        options.dry_run,
    )  # fmt: skip
    if not options.dry_run:
        print(several(options.table, variants, options.out), end="")


if __name__ == "__main__":
    try:
        main()
    except DaptError as error:
        sys.exit(f"tables.py: {error}")
