"""What each method costs at its published size: trained parameters, bytes kept, time per step.

The methods take turns, one step each, so that other load on the machine affects all of them alike.
Drop-path is off, because it would make the cost of a step random.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from measure import write_json

import dapt
from dapt.models import weight_bytes
from dapt.runs.memory import CountSaved

METHODS = {
    "linear": dapt.Linear(),
    "stag": dapt.Stag(),
    "stag, size=large": dapt.Stag(size="large"),
    "idpt, class_token=false": dapt.Idpt(class_token=False),
    "point_gst": dapt.PointGst(),
    "vpt": dapt.Vpt(),
    "prefix": dapt.Prefix(),
    "adapter": dapt.Adapter(),
    "dapt": dapt.Dapt(drop_path=0.0),
    "dapt, memory=low": dapt.Dapt(drop_path=0.0, memory="low"),
    "idpt": dapt.Idpt(),
    "point_lora": dapt.PointLora(),
    "ppt": dapt.Ppt(),
    "ga_prompt": dapt.GaPrompt(),
    "point_peft": dapt.PointPeft(),
    "full": dapt.Full(),
}


def build(method: dapt.methods.Method, weights: str) -> dapt.AdaptedModel:
    torch.manual_seed(0)
    fields = {"num_groups": 128, "drop_path": 0.0, "weights": weights}
    backbone = dapt.create_backbone("point_mae", "none", **fields)
    model = dapt.attach(backbone, method, dapt.Classification(15))
    model.prepare(torch.rand(16, 2048, 3))
    return model.train()


def step(model: dapt.AdaptedModel, points: torch.Tensor, labels: torch.Tensor) -> int:
    """Runs forward and backward; returns the bytes kept between them."""
    saved = CountSaved(model)
    with saved:
        loss = model.adapter.task.loss(model(points), {"labels": labels})
        extra = model.extra_loss()
        loss = loss if extra is None else loss + extra
    loss.backward()
    return saved.bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--weights", default="float", choices=("float", "int8", "int4", "nf4"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    methods = {k: m for k, m in METHODS.items() if args.weights == "float" or k != "full"}
    models = {name: build(method, args.weights) for name, method in methods.items()}
    torch.manual_seed(1)
    points = torch.rand(args.batch_size, 2048, 3) * 2 - 1
    labels = torch.randint(15, (args.batch_size,))

    kept = {name: step(model, points, labels) for name, model in models.items()}  # also warms up
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(args.turns):
        for name, model in models.items():
            begin = time.perf_counter()
            step(model, points, labels)
            seconds[name].append(time.perf_counter() - begin)

    rows = []
    print("| method | trained | share | kept for the backward, MB a cloud | a step, ms |")
    print("|---|---|---|---|---|")
    for name, model in models.items():
        trained, total = model.count_parameters()
        row = {
            "method": name,
            "trained": trained,
            "share": trained / total,
            "kept_bytes_per_cloud": kept[name] / args.batch_size,
            "step_milliseconds": 1e3 * statistics.median(seconds[name]),
            "backbone_bytes": weight_bytes(model.backbone),
        }
        rows.append(row)
        print(
            f"| `{name}` | {trained:,} | {row['share']:.2%} | "
            f"{row['kept_bytes_per_cloud'] / 1e6:.1f} | {row['step_milliseconds']:.0f} |"
        )
    if args.json:
        command = f"python benchmarks/methods.py --batch_size {args.batch_size}"
        write_json(args.json, f"{command} --turns {args.turns}", "cpu", rows)


if __name__ == "__main__":
    main()
