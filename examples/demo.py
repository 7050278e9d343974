"""Adapts the shipped backbone to built-in scans by DAPT, a linear probe and full fine-tuning.

    python examples/demo.py

Prints a table and draws DAPT's predictions for test scans, colored by its per-token scales. If it
is interrupted, running it again resumes where it stopped.
"""

import argparse
import json
import logging
import time
from pathlib import Path

import torch

from dapt.data import load
from dapt.runs.assembly import restore_model
from dapt.runs.folder import RunFolder
from dapt.runs.settings import parse
from dapt.training.loop import train
from dapt.view.insight import token_scales
from dapt.view.pictures import portrait

CONFIG = Path(__file__).parents[1] / "configs" / "synthetic.yaml"
METHODS = ("linear", "dapt", "full")
LOOKED_AT = 150  # scans to choose from; the picture shows three


def run(method: str, out: Path, settings: list[str]) -> RunFolder:
    folder = RunFolder(out / method)
    if not folder.result.exists():
        argv = [f"--config={CONFIG}", f"--method={method}", f"--out={folder.path}", "--resume"]
        train(parse("demo", [*argv, *settings]))
    return folder


def table(folders: dict[str, RunFolder]) -> str:
    lines = [
        f"{'method':8} {'test accuracy':>13} {'trained':>10} {'in the backbone':>16} "
        f"{'activations':>12} {'an epoch':>9}"
    ]
    for method, folder in folders.items():
        result = json.loads(folder.result.read_text())
        epochs = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
        seconds = sum(epoch["seconds"] for epoch in epochs) / len(epochs)
        trained, head = result["trainable_parameters"], result["head_parameters"]
        share = (trained - head) / (result["total_parameters"] - head)
        lines.append(
            f"{method:8} {result['accuracy']:13.1%} {trained:10,} {share:16.2%} "
            f"{result['saved_activation_bytes'] / 2**20:8.1f} MiB {seconds:7.1f} s"
        )
    return "\n".join(lines)


@torch.no_grad()
def picture(folder: RunFolder, path: Path) -> None:
    """Draws the two right answers and the wrong one that the model is most certain of."""
    model, data = restore_model(folder).eval(), folder.settings().data
    scans = load(data.name, data.options, "test")
    batch = scans.batch(range(LOOKED_AT))
    chances = model(batch["points"]).softmax(1)
    certain, answers = chances.max(1)
    right = answers == batch["labels"]
    rows: list[int] = []
    for wanted, count in ((True, 2), (False, 1)):
        for row in certain.argsort(descending=True).tolist():
            seen = {int(batch["labels"][other]) for other in rows}
            if bool(right[row]) == wanted and int(batch["labels"][row]) not in seen and count:
                rows.append(row)
                count -= 1
    points, names = batch["points"][rows], scans.class_names
    scales = token_scales(model, points).numpy()  # [L, B, N]
    best = chances[rows].topk(3)
    portrait(
        path,
        list(points.numpy()),
        [scales[:, i] for i in range(len(rows))],
        [
            [(names[c], float(p)) for p, c in zip(*both, strict=True)]
            for both in zip(best.values, best.indices, strict=True)
        ],
        [names[label] for label in batch["labels"][rows]],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("demo-out"))
    options, settings = parser.parse_known_args()  # all other flags are settings of every run
    logging.basicConfig(level=logging.WARNING)
    begun = time.monotonic()
    settings = ["--data.test_size=600", "--epochs=10", "--test_every=0", *settings]
    folders = {}
    for method in METHODS:
        command = f"dapt train --config configs/synthetic.yaml --method {method}"
        print(f"{method}: {command} {' '.join(settings)}")
        folders[method] = run(method, options.out, settings)
    drawn = options.out / "predictions.webp"
    picture(folders["dapt"], drawn)
    print(f"\n15 classes of scanned objects, hardest variant\n{table(folders)}\n")
    print(f"{drawn}: test scans, the scales of their tokens block by block, and DAPT's answers")
    print(f"{options.out}/<method>: config.yaml, metrics.jsonl, result.json, adapter/")
    print(f"{options.out}/dapt/adapter: the adapter alone, for dapt.load_adapter")
    print(f"done in {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
