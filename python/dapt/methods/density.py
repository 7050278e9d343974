"""Density loss (DEFT): drives activations of the MLPs to zero, and measures how many are not."""

import warnings
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dapt.errors import UsageError
from dapt.methods.method import register
from dapt.methods.on_top import OnTop
from dapt.methods.replacements import Replacements
from dapt.methods.reversible import ReversibleStack
from dapt.methods.scale_shift import ScaleShift, ScaleShiftLinear
from dapt.models.blocks import Mlp

THRESHOLDS = (0.0, 1e-3, 1e-2)  # an activation is active if its magnitude is above
# A sparse product is faster below this share of active units, with at least so many units.
SPARSE_BELOW = 0.04
SPARSE_FROM = 2**20

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")


@register("density")
@dataclass(frozen=True)
class Density(OnTop):
    """The density loss on top of any method that keeps its activations, such as `density:dapt`.

    Args:
        density_weight: The weight of the loss.
        density_epsilon: The square of the magnitude above which a unit counts as active.
        relu: Replace GELU, which is rarely exactly zero, with ReLU.
    """

    density_weight: float = 1.0
    density_epsilon: float = 1e-7
    relu: bool = False

    def __post_init__(self):
        super().__post_init__()
        if type(self) is Density:
            raise UsageError(
                "density needs a method underneath: use density:dapt, or call "
                "dapt.Density.on(dapt.Dapt())"
            )
        if not self.density_weight >= 0:
            raise UsageError(f"density_weight must be at least 0, got {self.density_weight}")
        if not self.density_epsilon > 0:
            raise UsageError(f"density_epsilon must be above 0, got {self.density_epsilon}")

    def wrap(self, backbone: nn.Module, replacements: Replacements) -> None:
        super().wrap(backbone, replacements)
        for stack in backbone.stacks:
            if isinstance(stack, ReversibleStack):
                raise UsageError("density needs the activations, which reversible does not keep")
            for mlp in [module for module in stack.modules() if isinstance(module, Mlp)]:
                if self.relu and not isinstance(mlp.act, nn.GELU):
                    kind = type(mlp.act).__name__
                    raise UsageError(f"density: relu replaces GELU, and this MLP has a {kind}")
                activation = nn.ReLU() if self.relu else mlp.act
                metered = MeteredActivation(activation, self.density_epsilon)
                replacements.put(mlp, "act", metered)
                if self.relu:
                    replacements.put(mlp, "fc2", SparseInput(mlp.fc2))

    def extra_loss(self, backbone: nn.Module) -> Tensor | None:
        losses = [activation.taken_loss() for activation in _metered(backbone)]
        below = super().extra_loss(backbone)
        own = self.density_weight * torch.stack(losses).mean()
        return own if below is None else own + below

    def meters(self, backbone: nn.Module) -> dict[str, float]:
        """The shares of active units since the last reading, over all blocks and per block."""
        counts = torch.stack([activation.taken_counts() for activation in _metered(backbone)])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(counts)
        counts = counts.cpu()
        measured = super().meters(backbone)
        for i, threshold in enumerate(THRESHOLDS):
            name = f"density_above_{threshold:g}"
            total = counts.sum(0)
            measured[name] = float(total[i] / total[-1])
            for block, row in enumerate(counts):
                measured[f"{name}_block_{block}"] = float(row[i] / row[-1])
        return measured


def _metered(backbone: nn.Module) -> list["MeteredActivation"]:
    modules = [module for stack in backbone.stacks for module in stack.modules()]
    return [module for module in modules if isinstance(module, MeteredActivation)]


class MeteredActivation(nn.Module):
    """An activation that measures its output.

    With gradients it keeps the loss of each pass; without gradients it counts the active units.

    Args:
        activation: The backbone's own activation.
        epsilon: `density_epsilon` of `Density`.
    """

    def __init__(self, activation: nn.Module, epsilon: float):
        super().__init__()
        self.activation = activation
        self.epsilon = epsilon
        self.loss: Tensor | None = None
        self.counts: Tensor | None = None  # int64 [thresholds + 1]: above each one, and all

    def forward(self, x: Tensor) -> Tensor:
        a = self.activation(x)
        if torch.is_grad_enabled():
            self.loss = _SoftDensity.apply(a, self.epsilon)
        else:
            self._count(a)
        return a

    def _count(self, a: Tensor) -> None:
        size = a.abs()
        above = [(size > threshold).sum() for threshold in THRESHOLDS]
        counts = torch.stack([*above, torch.full_like(above[0], a.numel())])
        self.counts = counts if self.counts is None else self.counts + counts

    def taken_loss(self) -> Tensor:
        """Take the loss of the last pass with gradients; a second call raises."""
        if self.loss is None:
            raise UsageError("there is no density loss yet: run a forward pass with gradients")
        loss, self.loss = self.loss, None
        return loss

    def taken_counts(self) -> Tensor:
        """Take the counts of the passes without gradients since the last reading."""
        if self.counts is None:
            raise UsageError("the density has not been measured yet: run an evaluation")
        counts, self.counts = self.counts, None
        return counts


class _SoftDensity(torch.autograd.Function):
    """mean of a² / (a² + ε), which keeps only a for the backward."""

    @staticmethod
    def forward(ctx, a, epsilon):
        ctx.save_for_backward(a)
        ctx.epsilon = epsilon
        square = _precise(a).square()
        return (square / (square + epsilon)).mean()

    @staticmethod
    def backward(ctx, grad):
        (a,) = ctx.saved_tensors
        value = _precise(a)
        slope = 2 * ctx.epsilon * value / (value.square() + ctx.epsilon).square()
        return (slope * (grad / a.numel())).to(a.dtype), None


def _precise(a: Tensor) -> Tensor:
    return a.to(torch.promote_types(a.dtype, torch.float32))


class SparseInput(nn.Module):
    """A Linear that multiplies only the active units if there are few, at inference on a CPU.

    Args:
        dense: A frozen Linear.
    """

    def __init__(self, dense: nn.Module):
        super().__init__()
        self.dense = dense

    def forward(self, a: Tensor) -> Tensor:  # [B, T, H] -> [B, T, C]
        return self._sparse(a) if self._is_worth_it(a) else self.dense(a)

    def _is_worth_it(self, a: Tensor) -> bool:
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return False
        if a.device.type != "cpu" or a.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
            return False
        if a.numel() < SPARSE_FROM or not isinstance(self.dense, nn.Linear | ScaleShiftLinear):
            return False
        return int(a.count_nonzero()) < SPARSE_BELOW * a.numel()

    def _sparse(self, a: Tensor) -> Tensor:
        linear = self.dense if isinstance(self.dense, nn.Linear) else self.dense.frozen
        out = torch.addmm(linear.bias, a.flatten(0, 1).to_sparse_csr(), linear.weight.T)
        if isinstance(self.dense, ScaleShiftLinear):
            out = ScaleShift.forward(self.dense, out)
        return out.view(*a.shape[:2], -1)
