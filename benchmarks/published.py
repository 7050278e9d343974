"""What a step of the methods' published code costs: trained parameters, bytes kept, time.

    git clone https://github.com/LMD0311/DAPT        # and any others of CODES
    python benchmarks/published.py DAPT=DAPT STAG=... --json benchmarks/results/published-cpu.json

Each checkout runs in a process of its own, on the same clouds as `benchmarks/methods.py`, with its
own configuration for the hardest scans and drop-path off. Its compiled extensions are not needed:
`dapt_ext.compat` replaces those that sample and group.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock

import torch
import yaml
from measure import write_json
from torch import Tensor, nn

from dapt.runs.memory import CountSaved
from dapt_ext.compat import knn_cuda, pointnet2_ops
from dapt_ext.compat.pointnet2_ops import pointnet2_utils


@dataclasses.dataclass(frozen=True)
class Code:
    """Where to find the network in a checkout, and what it trains.

    Args:
        module: The module of `models` that defines the network.
        config: The configuration for the hardest scans of ScanObjectNN.
        trains: Words, one of which is in the name of every weight that is trained.
        settings: Settings that its command line adds to the configuration.
        freezes: Whether other weights get no gradient; if not, the optimizer just skips them.
    """

    module: str
    config: str
    trains: str
    settings: dict = dataclasses.field(default_factory=dict)
    freezes: bool = True


CODES = {
    "DAPT": Code("DAPT", "cfgs/finetune_scan_hardest_dapt.yaml", "cls tfts Adapter"),
    "STAG": Code(
        "Point_MAE",
        "cfgs/finetune_scan_hardest.yaml",
        "cls_head_finetune addparam_",
        {"stag_size": 0},
    ),
    "PPT": Code(
        "PPT",
        "cfgs/pointmae_configs/finetune_scan_hardest.yaml",
        "cls prompt first_conv pos_embed",
    ),
    "PointGST": Code(
        "PointTransformer",
        "cfgs/mae/finetune_scan_hardest_pgst.yaml",
        "adapt cls",
        {"tsne": False},
    ),
    "PointLoRA": Code(
        "PointLoRA",
        "cfgs/finetune_scan_hardest_pointlora.yaml",
        "cls prompt first_conv pos_embed lora_",
    ),
    "GAPrompt": Code(
        "prompt_MAE",
        "cfgs/gaprompt_scan_hardest.yaml",
        "point_prompt shift_net shape_feature_mlp adapter cls_pos cls_token cls_head_ "
        "prompt_embeddings prompt_cor out_transform",
    ),
    "IDPT": Code("Point_MAE", "cfgs/finetune_scan_hardest_idpt.yaml", "cls", freezes=False),
}


class Tree(SimpleNamespace):
    """A configuration that can be read by attribute, by key and by `get`, as these codes do."""

    def __init__(self, values: dict):
        super().__init__(**{k: Tree(v) if isinstance(v, dict) else v for k, v in values.items()})

    def __getitem__(self, name: str) -> object:
        return getattr(self, name)

    def __contains__(self, name: str) -> bool:
        return hasattr(self, name)

    def get(self, name: str, default: object = None) -> object:
        return getattr(self, name, default)


class Kept(nn.Module):
    """Drop-path that drops nothing."""

    def __init__(self, *_: object, **__: object):
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x


def knn_gather(x: Tensor, index: Tensor) -> Tensor:  # [B, N, C], [B, M, K] -> [B, M, K, C]
    flat = index.flatten(1)[:, :, None].expand(-1, -1, x.shape[2])
    return x.gather(1, flat).unflatten(1, index.shape[1:])


def stand_in() -> None:
    """Replaces the packages and the GPU that the codes ask for but a forward pass does not need."""
    names = ("timm", "timm.models", "timm.models.layers", "timm.scheduler", "ipdb", "pytorch3d",
             "pytorch3d.ops", "mpl_toolkits", "mpl_toolkits.mplot3d", "extensions", "tensorboardX",
             "extensions.chamfer_dist", "easydict", "termcolor", "open3d", "torchvision",
             "matplotlib", "matplotlib.pyplot")  # fmt: skip
    sys.modules |= {name: MagicMock() for name in names}
    layers = ModuleType("timm.models.layers")
    layers.DropPath, layers.trunc_normal_ = Kept, nn.init.trunc_normal_
    sys.modules["timm.models.layers"] = layers
    sys.modules["pytorch3d.ops"].knn_gather = knn_gather
    sys.modules |= {
        "knn_cuda": knn_cuda,
        "pointnet2_ops": pointnet2_ops,
        "pointnet2_ops.pointnet2_utils": pointnet2_utils,
    }
    torch.Tensor.cuda = lambda self, *_, **__: self
    nn.Module.cuda = lambda self, *_, **__: self


def build(code: Code) -> nn.Module:
    """The model of the code in the current folder, with the weights that it freezes frozen."""
    sys.path.insert(0, "")
    package = ModuleType("models")  # the real package would import every other model
    package.__path__ = ["models"]
    sys.modules["models"] = package
    importlib.import_module(f"models.{code.module}")
    settings = yaml.safe_load(Path(code.config).read_text())["model"]
    settings |= code.settings | {"drop_path_rate": 0.0}
    if "adapter_config" in settings:
        settings["adapter_config"]["adapter_drop_path_rate"] = 0.0
    if "models.dgcnn" in sys.modules:  # hard-codes a GPU
        sys.modules["models.dgcnn"].torch = OnCpu("torch")
    model = sys.modules["models.build"].MODELS.get(settings["NAME"])(Tree(settings))
    if code.module == "PointLoRA":  # its training script does this after it has built the model
        lora = importlib.import_module("utils.lora").LoRALinear
        for block in model.blocks.blocks:
            block.attn.qkv = lora(8, 8, block.attn.qkv)
            block.attn.proj = lora(8, 8, block.attn.proj)
    if code.freezes:
        for name, weight in model.named_parameters():
            weight.requires_grad_(trains(code, name))
    return model.train()


def trains(code: Code, name: str) -> bool:
    return any(word in name for word in code.trains.split())


class OnCpu(ModuleType):
    """torch, but with the CPU as every device."""

    def __getattr__(self, name: str) -> object:
        return getattr(torch, name)

    def device(self, *_: object) -> torch.device:
        return torch.device("cpu")


def measure(code: str, batch_size: int, turns: int) -> dict[str, object]:
    stand_in()
    torch.manual_seed(0)
    model = build(CODES[code])
    torch.manual_seed(1)
    points = torch.rand(batch_size, 2048, 3) * 2 - 1
    labels = torch.randint(15, (batch_size,))
    seconds = []
    for turn in range(turns + 1):
        begin = time.perf_counter()
        saved = CountSaved(model)
        with saved:
            out = model(points)
            logits = out[0] if isinstance(out, tuple) else out
            loss = nn.functional.cross_entropy(logits, labels)
        loss.backward()
        seconds.append(time.perf_counter() - begin)
        if turn == 0:
            kept = saved.bytes
    return {
        "code": code,
        "trained": sum(w.numel() for n, w in model.named_parameters() if trains(CODES[code], n)),
        "kept_mib": kept / 2**20,
        "seconds_per_step": statistics.median(seconds[1:]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("codes", nargs="+", metavar="NAME=CHECKOUT", help=f"of {', '.join(CODES)}")
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--alone", action="store_true", help="measure in this process; print a row")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.alone:
        code, _, folder = args.codes[0].partition("=")
        os.chdir(folder)
        print(json.dumps(measure(code, args.batch_size, args.turns)))
        return
    rows = []
    for pair in args.codes:
        command = [sys.executable, __file__, pair, "--alone", "--batch_size", str(args.batch_size)]
        command += ["--turns", str(args.turns), "--threads", str(args.threads)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"{pair}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
            continue
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        row = rows[-1]
        print(
            f"| {row['code']} | {row['trained']:,} | {row['kept_mib']:.0f} "
            f"| {row['seconds_per_step']:.2f} |",
            flush=True,
        )
    if args.json:
        write_json(args.json, "python benchmarks/published.py", "cpu", rows)


if __name__ == "__main__":
    main()
