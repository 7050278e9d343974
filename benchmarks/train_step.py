"""One training step of DAPT at its published ScanObjectNN size, against the published arithmetic.

    python benchmarks/train_step.py --device cpu

The naive step is the same model with the same weights, in which every layer is computed and kept
as the published code does it: norms, scales, shifts, adapter and attention one eager call after
another, the patch encoder with its convolutions, batch norms and concatenation, sampling and
neighbors in eager torch. Losses and gradients are compared first. Then each model steps in a
process of its own, as it would be trained, and the processes take turns. Prints a table and writes
it as JSON (--out, without an ending).
"""

from __future__ import annotations

import argparse
import multiprocessing
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from measure import Case, machine, measure, strict_products, write_json
from torch import Tensor, nn

import dapt
import dapt_ext
from dapt.models.tokenizer import PatchEncoder
from dapt.training.step_graph import StepGraph

ROOT = Path(__file__).parents[1]
CLASSES, POINTS = 15, 2048


def naive_group(points, num_groups, group_size, near_origin="keep"):  # patches [B, G, K, 3]
    rows = torch.arange(len(points), device=points.device)[:, None]  # [B, 1]
    chosen = torch.zeros(len(points), num_groups, dtype=torch.long, device=points.device)
    nearest = torch.full(points.shape[:2], torch.inf, device=points.device)
    if near_origin == "skip":  # pointnet2's rule
        nearest[points.square().sum(-1) <= 1e-3] = -1
    for i in range(1, num_groups):
        distance = (points - points[rows, chosen[:, i - 1 : i]]).square().sum(-1)
        nearest = torch.minimum(nearest, distance)
        chosen[:, i] = nearest.argmax(1)
    centers = points[rows, chosen]
    neighbors = torch.cdist(centers, points).topk(group_size, largest=False).indices
    patches = points[rows[..., None], neighbors] - centers[:, :, None]
    return dapt_ext.Groups(patches, centers, neighbors, chosen)


def naive_adapter(
    x, down_weight, down_bias, up_weight, up_bias, *, norm_weight, norm_bias, scale_weight,
    scale_bias, mlp_out, residual, path_factor, dropout, training, prompt, eps, memory,
):  # fmt: skip
    z = F.layer_norm(x, x.shape[-1:], norm_weight, norm_bias, eps)
    scale = F.relu(F.linear(z, scale_weight, scale_bias))
    hidden = F.dropout(F.gelu(F.linear(z, down_weight, down_bias)), dropout, training)
    a = F.linear(hidden, up_weight, up_bias) * scale
    branch = mlp_out + a
    if path_factor is not None:
        branch = branch * path_factor[:, None, None]
    return residual + branch, F.gelu(a).mean(1) if prompt else None


def naive_linear(x, weight, bias, scale, shift):
    return F.linear(x, weight, bias) * scale + shift


def naive_norm(x, weight, bias, scale, shift, eps=1e-5):
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps) * scale + shift


def naive_attention(qkv, num_heads, mask=None, causal=False):  # [B, T, 3 C] -> [B, T, C]
    q, k, v = qkv.unflatten(2, (3, num_heads, -1)).permute(2, 0, 3, 1, 4)  # [B, heads, T, D]
    attention = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
    return (attention @ v).transpose(1, 2).flatten(2)


def naive_patch_encoder(encoder, patches):  # [B, G, K, 3] -> [B, G, C]
    """Convolutions and batch norms over [B G, C, K], the whole patch in front of every point."""

    def conv(x: Tensor, layer: nn.Linear) -> Tensor:
        return F.conv1d(x, layer.weight[..., None], layer.bias)

    B, G = patches.shape[:2]
    conv1, norm1, _, conv2 = encoder.first
    conv3, norm2, _, conv4 = encoder.second
    points = F.relu(norm1(conv(patches.flatten(0, 1).transpose(1, 2), conv1)))
    points = conv(points, conv2)
    whole = points.amax(2, keepdim=True).expand(-1, -1, points.shape[2])
    points = F.relu(norm2(conv(torch.cat([whole, points], 1), conv3)))
    return conv(points, conv4).amax(2).view(B, G, -1)


def naive_of_kept(branch, x, factor, mask=None):
    return branch(x)


@contextmanager
def published_arithmetic() -> Iterator[None]:
    with (
        mock.patch.object(dapt_ext, "group", naive_group),
        mock.patch.object(dapt_ext, "dynamic_adapter", naive_adapter),
        mock.patch.object(dapt_ext, "scale_shift_linear", naive_linear),
        mock.patch.object(dapt_ext, "scale_shift_norm", naive_norm),
        mock.patch.object(PatchEncoder, "forward", naive_patch_encoder),
        mock.patch.object(dapt.models.blocks, "of_kept", naive_of_kept),
        mock.patch.object(dapt.methods.dapt, "of_kept", naive_of_kept),
        mock.patch.object(dapt_ext, "attention", naive_attention),
    ):
        yield


class Step:
    """Forward, loss, backward and update of one model on one batch."""

    def __init__(self, device: str, batch_size: int, groups: int, dtype=torch.float32,
                 naive: bool = False, memory: str = "default", chance: bool = True,
                 graph: bool = False):  # fmt: skip
        torch.manual_seed(0)
        chances = {} if chance else {"dropout": 0.0, "drop_path": 0.0}
        method = dapt.Dapt(memory=memory, **chances)
        backbone = dapt.create_backbone("point_mae", "none", num_groups=groups)
        task = dapt.Classification(CLASSES, dropout=0.5 if chance else 0.0)
        self.model = dapt.attach(backbone, method, task=task).to(device).train()
        with torch.no_grad():  # a fresh adapter adds nothing
            for name, weight in self.model.own_parameters():
                if name.endswith("up.weight"):
                    weight.normal_(std=0.02)
        rng = torch.Generator().manual_seed(1)
        self.points = torch.randn(batch_size, POINTS, 3, generator=rng).to(device)
        self.labels = torch.randint(CLASSES, (batch_size,), generator=rng).to(device)
        weights = [weight for _, weight in self.model.own_parameters()]
        self.optimizer = torch.optim.AdamW(weights, lr=1e-5, fused=True, capturable=graph)
        self.device, self.dtype, self.naive = device, dtype, naive
        self.graph = StepGraph(lambda _: self._step(), torch.device(device)) if graph else None
        self.last = torch.zeros((), device=device)

    def loss(self) -> Tensor:
        with torch.autocast(self.device, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            if not self.naive:
                return F.cross_entropy(self.model(self.points), self.labels)
            with published_arithmetic():
                return F.cross_entropy(self.model(self.points), self.labels)

    def __call__(self) -> Tensor:
        if self.graph is None:
            self._step()
        else:
            self.graph({"points": self.points, "labels": self.labels})
        return self.last

    def _step(self) -> None:
        loss = self.loss()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.last.copy_(loss.detach())

    def activation_bytes(self) -> int:
        """What autograd keeps for the backward, each storage once, no weights."""
        seen = {t.untyped_storage().data_ptr() for t in self.model.state_dict().values()}
        total = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal total
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in seen:
                seen.add(storage.data_ptr())
                total += storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = self.loss()
        loss.backward()
        self.optimizer.zero_grad()
        return total


class Alone:
    """A step in a process of its own: no other model has been in its memory."""

    def __init__(self, *args, **fields):
        context = multiprocessing.get_context("spawn")
        self.end, other = context.Pipe()
        run = (other, torch.get_num_threads(), args, fields)
        self.process = context.Process(target=self._serve, args=run, daemon=True)
        self.process.start()
        self.activation_bytes = self.end.recv()

    def __call__(self) -> float:
        self.end.send("step")
        return self.end.recv()

    def close(self) -> None:
        self.end.send("stop")
        self.process.join()

    @staticmethod
    def _serve(end, threads: int, args: tuple, fields: dict) -> None:
        strict_products()
        torch.set_num_threads(threads)
        end.send(Step(*args, **fields, chance=False).activation_bytes())  # nothing is dropped
        step = Step(*args, **fields)
        while end.recv() == "step":
            end.send(float(step()))


def check_equal(make: Callable[..., Step]) -> None:
    """Without chance, the two give the same loss and the same gradients to rounding."""
    results = []
    for naive in (False, True):
        step = make(naive=naive, chance=False)
        loss = step.loss()
        loss.backward()
        grads = torch.cat([w.grad.flatten() for _, w in step.model.own_parameters()])
        results.append((loss.detach(), grads.double()))
    (mine, grads), (theirs, exact) = results
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    error = (grads - exact).norm() / exact.norm()
    # The head's batch norm over a few clouds, alike to a random backbone, amplifies rounding.
    assert error < 5e-3, f"the gradients differ by {error:.1e}"
    print(f"losses {mine:.6f} and {theirs:.6f}; gradients differ by {error:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--groups", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=30, help="time spent on each row")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/train_step-<device>")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a GPU and a torch with CUDA; this torch finds none")
    out = options.out or ROOT / "benchmarks" / "results" / f"train_step-{options.device}"
    cpu = options.device == "cpu"

    strict_products()
    sizes = (options.device, options.batch_size, options.groups)
    check_equal(lambda **fields: Step(*sizes, **fields))
    command = "python " + shlex.join([str(Path(sys.argv[0])), *sys.argv[1:]])
    rows = []
    naive = Alone(*sizes, naive=True)
    print(f"{'ours':22} {'ours ms':>9} {'naive ms':>9} {'ratio':>6} {'kept MiB':>9} {'naive':>6}")
    settings = {
        "float32": {},
        "float32, memory=low": {"memory": "low"},
        "bfloat16": {"dtype": torch.bfloat16},
        "bfloat16, memory=low": {"dtype": torch.bfloat16, "memory": "low"},
    }
    if not cpu:
        settings["float32, one CUDA graph"] = {"graph": True}
        settings["bfloat16, one CUDA graph"] = {"dtype": torch.bfloat16, "graph": True}
    for name, fields in settings.items():
        ours = Alone(*sizes, **fields)
        case = Case(
            op="train_step",
            name=name,
            ours=ours,
            peers={"naive eager float32": naive},
            check=lambda *_: None,
            threads=torch.get_num_threads() if cpu else 1,
        )
        measure(case, "cpu", options.seconds)  # a step ends when its loss is there, on any device
        ours.close()
        mine, theirs = (1e3 * case.seconds[n] for n in ("dapt_ext", "naive eager float32"))
        kept = {"kept_bytes": ours.activation_bytes, "naive_kept_bytes": naive.activation_bytes}
        print(
            f"{name:22} {mine:9.1f} {theirs:9.1f} {case.speedup:5.2f}x "
            + " ".join(f"{count / 2**20:9.1f}" for count in kept.values())
        )
        rows.append(case.row() | kept)
        write_json(out.with_suffix(".json"), command, options.device, rows)
    naive.close()
    about = machine(options.device)
    print(f"on {about.get('gpu') or about['cpu']}; wrote {out}.json")


if __name__ == "__main__":
    main()
