"""Quantized and pruned backbones: frozen weights in fewer bits, or fewer of them.

Only the linear layers of the blocks are compressed, which hold more than nine tenths of a
backbone's weights. The backbone stays frozen; a method trains what it adds, in float.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dapt.errors import UsageError, check_rates

Weights = Literal["float", "int8", "int4", "nf4"]
BLOCK = 64  # weights that share a scale, in four bits
GROUP_OF_FOUR, KEPT_OF_FOUR = 4, 2

# Sixteen values between -1 and 1: evenly spaced, or at the quantiles of a normal distribution
# (QLoRA, appendix E), so that all are used equally often.
LEVELS = {
    "int4": [i / 8 for i in range(-8, 8)],
    "nf4": [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
        -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
        0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
        0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ],
}  # fmt: skip


@dataclass(frozen=True)
class Storage:
    """How a backbone keeps the frozen weights of its blocks.

    Args:
        weights: Float, or quantized: int8 (one scale per row), int4 or nf4 (one scale per 64
            weights).
        sparsity: Share of the weights, those of smallest magnitude, that are set to zero.
        two_of_four: Whether two of every four adjacent weights are zero, the pattern that some
            hardware accelerates.
    """

    weights: Weights = "float"
    sparsity: float = 0.0
    two_of_four: bool = False

    def __post_init__(self):
        if hasattr(self, "drop_path"):
            check_rates(self, "drop_path")
        if self.weights not in get_args(Weights):
            raise UsageError(
                f"weights must be one of {', '.join(get_args(Weights))}, got {self.weights!r}"
            )
        if not 0 <= self.sparsity < 1:
            raise UsageError(f"sparsity must be at least 0 and below 1, got {self.sparsity}")
        if self.two_of_four and self.sparsity not in (0, 0.5):
            raise UsageError(f"two_of_four means a sparsity of 0.5, got sparsity={self.sparsity}")

    @property
    def compressed(self) -> str | None:
        """How the weights differ from the pre-trained ones, in words; None if they do not."""
        words = [] if self.weights == "float" else [self.weights]
        if self.two_of_four or self.sparsity:
            words.append("pruned")
        return " and ".join(words) or None


def _layers(backbone: nn.Module) -> list[tuple[nn.Module, str, nn.Linear]]:
    """(parent, name in it, layer) of every layer to compress."""
    return [
        (parent, name, child)
        for stack in backbone.stacks
        for parent in stack.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear)
    ]


@torch.no_grad()
def compress(backbone: nn.Module) -> None:
    """Prune and quantize the layers of the blocks, in place, as the backbone's config says.

    Args:
        backbone: A backbone whose ``config`` is a `Storage`.
    """
    storage = backbone.config
    layers = _layers(backbone)
    weights = [layer.weight for *_, layer in layers]
    if storage.two_of_four:
        for weight in weights:
            prune_two_of_four(weight)
    elif storage.sparsity:
        prune_smallest(weights, storage.sparsity)
    if storage.weights != "float":
        for parent, name, layer in layers:
            setattr(parent, name, QuantizedLinear(layer, storage.weights))


class Quantizer:
    """Quantizes weights as they are read from a file, so that only one is in float at a time.

    Pruning the smallest weights of the whole network is not possible this way; see `can`.

    Args:
        backbone: A network on the device "meta" whose config says how to quantize.
    """

    def __init__(self, backbone: nn.Module):
        self._storage = backbone.config
        names = {module: name for name, module in backbone.named_modules()}
        self._layers = {f"{names[layer[2]]}.weight": layer for layer in _layers(backbone)}

    @staticmethod
    def can(storage: Storage) -> bool:
        """Whether the settings allow each weight to be compressed independently.

        Args:
            storage: The settings.
        """
        return storage.weights != "float" and (storage.two_of_four or not storage.sparsity)

    @torch.no_grad()
    def take(self, entry: str, weight: Tensor) -> bool:
        """Compress a weight and install it if it belongs to a compressed layer.

        Args:
            entry: Its name in the network's state.
            weight: The weight as read from the file.

        Returns:
            Whether the weight was installed.
        """
        if entry not in self._layers:
            return False
        parent, name, layer = self._layers[entry]
        if self._storage.two_of_four:
            weight = weight.clone()
            prune_two_of_four(weight)
        layer.weight = nn.Parameter(weight, requires_grad=False)
        setattr(parent, name, QuantizedLinear(layer, self._storage.weights))
        layer.weight = None
        return True


def prune_smallest(weights: list[Tensor], share: float) -> None:
    """Set the smallest of all weights, ranked together, to zero in place.

    Args:
        weights: Tensors of any shapes.
        share: The share of the weights that become zero, from 0 to 1.
    """
    sizes = torch.cat([weight.abs().flatten() for weight in weights])
    count = round(share * len(sizes))
    if not count:
        return
    zeroed = torch.zeros_like(sizes, dtype=torch.bool)
    zeroed[sizes.topk(count, largest=False).indices] = True
    for weight, part in zip(weights, zeroed.split([w.numel() for w in weights]), strict=True):
        weight.masked_fill_(part.view_as(weight), 0)


def prune_two_of_four(weight: Tensor) -> None:
    """Set the two smaller of every four weights along a row to zero in place.

    Args:
        weight: [out, in], where ``in`` is divisible by 4.
    """
    if weight.shape[1] % GROUP_OF_FOUR:
        raise UsageError(
            f"two_of_four needs layers whose input width is a multiple of 4, got {weight.shape[1]}"
        )
    fours = weight.unflatten(1, (-1, GROUP_OF_FOUR))
    smaller = fours.abs().topk(GROUP_OF_FOUR - KEPT_OF_FOUR, 2, largest=False).indices
    fours.scatter_(2, smaller, 0)


class QuantizedLinear(nn.Linear):
    """A frozen layer that keeps its weight in eight or four bits and decodes it on use.

    Reading `weight` gives a float tensor.

    Args:
        layer: The layer whose weight is quantized.
        kind: "int8", "int4" or "nf4".
    """

    def __init__(self, layer: nn.Linear, kind: str):
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.kind = kind
        codes, scales = quantized(layer.weight.detach(), kind)
        self.codes = nn.Parameter(codes, requires_grad=False)
        self.scales = nn.Parameter(scales, requires_grad=False)
        self.bias = layer.bias

    @property
    def weight(self) -> Tensor:
        """The decoded weight."""
        return self.make_weight()

    def make_weight(self) -> Tensor:
        """Decode the weight again, for an op that would otherwise keep it for its backward."""
        shape = (self.out_features, self.in_features)
        return dequantized(self.codes, self.scales, self.kind, shape)

    def forward(self, x: Tensor) -> Tensor:
        learns = x.requires_grad or (self.bias is not None and self.bias.requires_grad)
        if not (torch.is_grad_enabled() and learns):
            return F.linear(x, self.weight, self.bias)
        shape = (self.out_features, self.in_features)
        return _Frozen.apply(x, self.codes, self.scales, self.bias, self.kind, shape)

    @torch.no_grad()
    def in_float(self) -> nn.Linear:
        """Return a plain layer with the decoded weight."""
        layer = nn.Linear(self.in_features, self.out_features, self.bias is not None, "meta")
        layer.weight = nn.Parameter(self.weight, requires_grad=False)
        layer.bias = self.bias
        return layer

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, weight in {self.kind}"


class _Frozen(torch.autograd.Function):
    """F.linear that keeps the codes for its backward instead of the decoded weight."""

    @staticmethod
    def forward(ctx, x, codes, scales, bias, kind, shape):
        ctx.kind, ctx.shape, ctx.x_dtype = kind, shape, x.dtype
        ctx.save_for_backward(codes, scales)
        return F.linear(x, dequantized(codes, scales, kind, shape), bias)

    @staticmethod
    def backward(ctx, grad):
        codes, scales = ctx.saved_tensors
        grad_x = grad_bias = None
        if ctx.needs_input_grad[0]:
            weight = dequantized(codes, scales, ctx.kind, ctx.shape)
            grad_x = (grad @ weight.to(grad.dtype)).to(ctx.x_dtype)
        if ctx.needs_input_grad[3]:
            grad_bias = grad.flatten(0, -2).sum(0).to(scales.dtype)
        return grad_x, None, None, grad_bias, None, None


def quantized(weight: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Quantize a weight to codes and scales.

    Eight bits: int8 [out, in] and one scale per row. Four bits: two codes per byte, uint8, and one
    scale per `BLOCK` weights in row-major order.

    Args:
        weight: [out, in].
        kind: "int8", "int4" or "nf4".
    """
    if kind == "int8":
        scales = weight.abs().amax(1, keepdim=True) / 127
        return (weight / _divisor(scales)).round().to(torch.int8), scales
    blocks = weight.flatten()
    blocks = F.pad(blocks, (0, -len(blocks) % BLOCK)).view(-1, BLOCK)
    largest = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
    scales = -largest if kind == "int4" else largest.abs()  # int4 has -1 among its levels, not 1
    levels = torch.tensor(LEVELS[kind], dtype=weight.dtype, device=weight.device)
    between = (levels[1:] + levels[:-1]) / 2
    codes = torch.bucketize(blocks / _divisor(scales), between).to(torch.uint8).flatten()
    return codes[::2] | codes[1::2] << 4, scales


def dequantized(codes: Tensor, scales: Tensor, kind: str, shape: tuple[int, int]) -> Tensor:
    """Decode a weight from its codes and scales, in the scales' dtype.

    Args:
        codes: The codes from `quantized`.
        scales: The scales from `quantized`.
        kind: "int8", "int4" or "nf4".
        shape: The shape (out, in) of the weight.
    """
    if kind == "int8":
        return codes.to(scales.dtype) * scales
    levels = torch.tensor(LEVELS[kind], dtype=scales.dtype, device=scales.device)
    pairs = torch.stack([levels.repeat(16), levels.repeat_interleave(16)], 1)  # of each byte
    values = F.embedding(codes.int(), pairs).view(-1, BLOCK) * scales
    return values.flatten()[: shape[0] * shape[1]].view(shape)


def _divisor(scales: Tensor) -> Tensor:
    return torch.where(scales == 0, 1, scales)


def count_parameters(network: nn.Module) -> int:
    """Count a network's parameters; a quantized weight counts as the weight it encodes.

    Args:
        network: Any network.
    """
    compressed = [m for m in network.modules() if isinstance(m, QuantizedLinear)]
    kept = sum(m.codes.numel() + m.scales.numel() for m in compressed)
    made = sum(m.in_features * m.out_features for m in compressed)
    return sum(weight.numel() for weight in network.parameters()) - kept + made


def weight_bytes(network: nn.Module) -> int:
    """Count the bytes of a network's parameters and buffers.

    Args:
        network: Any network.
    """
    return sum(value.numel() * value.element_size() for value in network.state_dict().values())
