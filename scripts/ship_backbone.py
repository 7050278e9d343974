"""Makes a pre-training run's encoder one that comes with the package.

    python scripts/ship_backbone.py runs/pretrain

Writes the weights in float16 and the card beside them. The card's accuracies are those of
`python benchmarks/probe.py`, which is run on the written file.
"""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import safetensors.torch
import torch
import yaml

from dapt.models import pretrained

ROOT = Path(__file__).parents[1]
PREFIX = "backbone."


def main() -> None:
    run = Path(sys.argv[1])
    settings = yaml.safe_load((run / "config.yaml").read_text())
    result = json.loads((run / "result.json").read_text())
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    name = settings["backbone"]["name"]
    state = {
        key.removeprefix(PREFIX): value.half() if value.is_floating_point() else value
        for key, value in safetensors.torch.load_file(run / "backbone.safetensors").items()
        if key.startswith(PREFIX)
    }
    folder = Path(pretrained.__file__).parent
    path = folder / f"{name}.safetensors"
    safetensors.torch.save_file(state, path, metadata={"network": name})
    probe = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "probe.py", "--backbone", name],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    card = {
        "network": name,
        "parameters": sum(value.numel() for value in state.values()),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "command": "dapt pretrain --config configs/synthetic_pretrain.yaml --out runs/pretrain",
        "data": settings["data"],
        "clouds_seen": last["step"] * settings["batch_size"],
        "steps": last["step"],
        "seed": settings["seed"],
        "validation_loss": result["validation_loss"],
        "linear_probe_accuracy": json.loads(probe.stdout),
        "versions": result["versions"] | {"torch": torch.__version__},
    }
    path.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")
    print(f"wrote {path} ({path.stat().st_size / 2**20:.1f} MiB) and its card")


if __name__ == "__main__":
    main()
