"""Cases of `ops.py` for the fused layers, against the eager modules of the published code."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from measure import Case
from torch import Tensor, nn

import dapt_ext
from dapt_ext import reference

# Relative 2-norm of the allowed difference to the eager module: both round, in different orders.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.1}
NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


class Adapter(nn.Module):
    """DAPT's adapter in eager torch, with the MLP, DropPath and residual around it."""

    def __init__(self, dim: int, rank: int, dropout: float = 0.0):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.down, self.up, self.scale = (
            nn.Linear(dim, rank),
            nn.Linear(rank, dim),
            nn.Linear(dim, 1),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mlp_out: Tensor, residual: Tensor, path_factor: Tensor):
        z = self.norm(x)
        a = self.up(self.dropout(F.gelu(self.down(z)))) * F.relu(self.scale(z))
        out = residual + path_factor[:, None, None] * (mlp_out + a)
        return out, F.gelu(a).mean(1)

    def fused(self, x: Tensor, mlp_out: Tensor, residual: Tensor, path_factor: Tensor):
        return dapt_ext.dynamic_adapter(
            x, self.down.weight, self.down.bias, self.up.weight, self.up.bias,
            norm_weight=self.norm.weight, norm_bias=self.norm.bias,
            scale_weight=self.scale.weight, scale_bias=self.scale.bias,
            mlp_out=mlp_out, residual=residual, path_factor=path_factor,
            dropout=self.dropout.p, training=self.training,
        )  # fmt: skip


class PatchEncoder(nn.Module):
    """The mini-PointNet as published, on [B, G, K, 3]."""

    def __init__(self, dim: int):
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv1d(3, 128, 1), nn.BatchNorm1d(128), nn.ReLU(inplace=True), nn.Conv1d(128, 256, 1)
        )
        self.second = nn.Sequential(
            nn.Conv1d(512, 512, 1),
            nn.BatchNorm1d(512),
            nn.ReLU(inplace=True),
            nn.Conv1d(512, dim, 1),
        )

    def forward(self, patches: Tensor) -> Tensor:
        B, G, K, _ = patches.shape
        points = self.first(patches.flatten(0, 1).transpose(1, 2))  # [BG, 256, K]
        whole = points.amax(2, keepdim=True).expand(-1, -1, K)
        return self.second(torch.cat([whole, points], 1)).amax(2).view(B, G, -1)

    def folded(self) -> dapt_ext.PatchEncoderWeights:
        def fold(conv: nn.Conv1d, norm: nn.BatchNorm1d):
            return dapt_ext.fold_batch_norm(
                conv.weight, conv.bias, norm.weight, norm.bias,
                norm.running_mean, norm.running_var, norm.eps,
            )  # fmt: skip

        conv1, bias1 = fold(self.first[0], self.first[1])
        conv3, bias3 = fold(self.second[0], self.second[1])
        conv2, conv4 = self.first[3], self.second[3]
        return dapt_ext.PatchEncoderWeights(
            conv1, bias1, conv2.weight[..., 0], conv2.bias,
            *conv3.chunk(2, dim=1), bias3, conv4.weight[..., 0], conv4.bias,
        )  # fmt: skip


def trained(
    forward: Callable, inputs: list[Tensor], parameters: list[Tensor], dtype: torch.dtype
) -> Callable[[], list[Tensor]]:
    """A call that runs forward and backward under autocast and returns outputs and gradients."""
    wanted = [t for t in (*inputs, *parameters) if t.requires_grad]
    device = inputs[0].device.type
    slopes: list[Tensor] = []  # the incoming gradients, the same at every call

    def call() -> list[Tensor]:
        with torch.autocast(device, torch.bfloat16, enabled=dtype == torch.bfloat16):
            outputs = forward(*inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        if not slopes:
            rng = torch.Generator(device).manual_seed(1)
            slopes.extend(
                torch.randn(out.shape, generator=rng, device=device).to(out.dtype)
                for out in outputs
            )
        return [*outputs, *torch.autograd.grad(outputs, wanted, slopes)]

    return call


def agree(dtype: torch.dtype) -> Callable:
    def check(name: str, ours, theirs) -> None:
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            error = (a.double() - b.double()).norm() / b.double().norm()
            assert error < TOLERANCE[dtype], f"{name}: result {i} differs by {error:.1e}"

    return check


def threads(device: str) -> int:
    return 2 if device == "cpu" else 1


def adapter_cases(device: str) -> Iterator[Case]:
    torch.manual_seed(0)
    B, T, C, rank = 34, 129, 384, 64
    module = Adapter(C, rank).to(device)
    parameters = list(module.parameters())
    factor = torch.ones(B, device=device)
    for dtype, goal in ((torch.float32, 1.5), (torch.bfloat16, 2)):
        rows = [
            torch.randn(B, T, C, device=device, dtype=dtype, requires_grad=True) for _ in range(3)
        ]
        inputs = [*rows, factor]
        yield Case(
            op="adapter",
            name=f"{B * T} x {C}, r={rank}, train, {NAMES[dtype]}",
            ours=trained(module.fused, inputs, parameters, dtype),
            peers={"torch eager": trained(module, inputs, parameters, dtype)},
            check=agree(dtype),
            threads=threads(device),
            goal=goal if device == "cpu" else 5,
        )


def scale_shift_cases(device: str) -> Iterator[Case]:
    torch.manual_seed(0)
    tokens, C = 4386, 384
    linear = nn.Linear(C, 4 * C, device=device).requires_grad_(False)
    scale = (1 + 0.02 * torch.randn(4 * C, device=device)).requires_grad_()
    shift = (0.02 * torch.randn(4 * C, device=device)).requires_grad_()
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(tokens, C, device=device, dtype=dtype, requires_grad=True)
        yield Case(
            op="scale_shift",
            name=f"{tokens} x {C} -> {4 * C}, train, {NAMES[dtype]}",
            ours=trained(
                lambda x: dapt_ext.scale_shift_linear(x, linear.weight, linear.bias, scale, shift),
                [x], [scale, shift], dtype,
            ),
            peers={"torch eager": trained(
                lambda x: scale * linear(x) + shift, [x], [scale, shift], dtype
            )},
            check=agree(dtype),
            threads=threads(device),
        )  # fmt: skip


def attention_cases(device: str) -> Iterator[Case]:
    """CPU only, against torch's fused attention, which `dapt_ext` itself calls on CUDA."""
    torch.manual_seed(0)
    if device != "cpu":
        return
    B, T, C, heads = 8, 130, 384, 6

    def fused(qkv: Tensor) -> Tensor:
        q, k, v = qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    for dtype in (torch.float32, torch.bfloat16):
        qkv = torch.randn(B, T, 3 * C, dtype=dtype, requires_grad=True)
        yield Case(
            op="attention",
            name=f"B={B}, {T} x {C}, {heads} heads, train, {NAMES[dtype]}",
            ours=trained(lambda qkv: dapt_ext.attention(qkv, heads), [qkv], [], dtype),
            peers={
                "torch sdpa": trained(fused, [qkv], [], dtype),
                "torch eager": trained(
                    lambda qkv: reference.attention(qkv, heads), [qkv], [], dtype
                ),
            },
            check=agree(dtype),
            threads=threads(device),
        )


def patch_encoder_cases(device: str) -> Iterator[Case]:
    torch.manual_seed(0)
    B, G, K, C = 8, 128, 32, 384
    module = PatchEncoder(C).to(device).eval().requires_grad_(False)
    weights = module.folded()
    patches = 0.2 * torch.randn(B, G, K, 3, device=device)
    for dtype in (torch.float32, torch.bfloat16):

        def tokens(forward: Callable, *rest, dtype=dtype) -> list[Tensor]:
            with torch.autocast(device, torch.bfloat16, enabled=dtype == torch.bfloat16):
                return [forward(patches, *rest)]

        yield Case(
            op="patch_encoder",
            name=f"B={B}, {G} x {K} -> {C}, eval, {NAMES[dtype]}",
            ours=lambda t=tokens: t(dapt_ext.patch_encoder, weights),
            peers={"torch eager": lambda t=tokens: t(module)},
            check=agree(dtype),
            threads=threads(device),
            goal=1.8 if device == "cpu" else 3,
        )
