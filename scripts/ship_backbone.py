"""Ships the encoder of a pre-training run with the package; the run may still be going on.

    python scripts/ship_backbone.py runs/synthetic_wide_both
    python scripts/ship_backbone.py runs/synthetic_wide_both --folder look_first

Writes the weights of the best epoch in float16 and a card beside them, which also describes the
runs whose weights this one started from. The accuracies on the card come from
`python benchmarks/probe.py`, which is run on the written file.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import safetensors.torch
import yaml

from dapt.models import pretrained
from dapt.training.loop import versions

ROOT = Path(__file__).parents[1]
PREFIX = "backbone."

OBJECTIVES = {
    "rebuild": "points of hidden patches (Point-MAE)",
    "classify": "the kind of object, told from the visible patches alone (labels of the built-in "
    "world, which knows what it made)",
    "both": "points of hidden patches, and the kind of object told from the visible ones (labels "
    "of the built-in world, which knows what it made)",
}
RECIPES = {
    ("synthetic", "rebuild"): "synthetic_pretrain",
    ("synthetic_wide", "classify"): "synthetic_wide_pretrain",
    ("synthetic_wide", "both"): "synthetic_wide_both",
}


def stages(run: Path) -> list[dict]:
    """Describes a run, after the runs whose weights it started from.

    Args:
        run: The folder of a pre-training.
    """
    settings = yaml.safe_load((run / "config.yaml").read_text())
    epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    best = min(epochs, key=lambda line: line["validation_loss"])
    recipe = RECIPES[settings["data"]["name"], settings["objective"]]
    command = f"dapt pretrain --config configs/{recipe}.yaml --out runs/{recipe}"
    before, start = [], settings["backbone"]["checkpoint"]
    if start not in (None, "none"):
        before = stages(Path(start).parent)
        command += f" --backbone.checkpoint runs/{before[-1]['recipe']}/{Path(start).name}"
    rate = fmean(line["points_per_second"] for line in epochs)
    stage = {
        "recipe": recipe,
        "command": command,
        "data": settings["data"],
        "objective": OBJECTIVES[settings["objective"]],
        "augmentation": settings["augmentation"],
        "clouds_seen": best["step"] * settings["batch_size"],
        "steps": best["step"],
        "epochs": f"{best['epoch'] + 1} of {settings['epochs']}",
        "seconds": round(best["step"] * settings["batch_size"] * settings["num_points"] / rate),
        "seed": settings["seed"],
        "validation_loss": best["validation_loss"],
    }
    return [*before, stage]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--folder", type=Path, default=Path(pretrained.__file__).parent)
    options = parser.parse_args()
    run = options.run
    name = yaml.safe_load((run / "config.yaml").read_text())["backbone"]["name"]
    state = {
        key.removeprefix(PREFIX): value.half() if value.is_floating_point() else value
        for key, value in safetensors.torch.load_file(run / "backbone.safetensors").items()
        if key.startswith(PREFIX)
    }
    options.folder.mkdir(parents=True, exist_ok=True)
    path = options.folder / f"{name}.safetensors"
    safetensors.torch.save_file(state, path, metadata={"network": name})
    probe = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "probe.py", "--backbone", name]
        + ["--checkpoint", str(path)],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    card = {
        "network": name,
        "parameters": sum(value.numel() for value in state.values()),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "stages": stages(run),
        "linear_probe_accuracy": json.loads(probe.stdout),
        "versions": versions(),
    }
    path.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")
    print(f"wrote {path} ({path.stat().st_size / 2**20:.1f} MiB) and its card")


if __name__ == "__main__":
    main()
