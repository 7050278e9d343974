"""The field's recipe: AdamW, decay for matrices only, cosine with warm-up, a running mean."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dapt.runs.options import TrainOptions


def decays(name: str, weight: nn.Parameter) -> bool:
    """Whether weight decay acts on a parameter: not on vectors, biases and tokens."""
    own = name.rpartition(".")[2]
    return weight.ndim > 1 and own != "bias" and "token" not in own


def adamw(named: Sequence[tuple[str, nn.Parameter]], options: TrainOptions) -> torch.optim.AdamW:
    """AdamW with weight decay for matrices alone."""
    groups = [
        {"params": [w for n, w in named if decays(n, w)], "weight_decay": options.weight_decay},
        {"params": [w for n, w in named if not decays(n, w)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=options.learning_rate, fused=True
    )


def learning_rate(epoch: float, options: TrainOptions) -> float:
    """At a time in epochs: up along a line, then down along a cosine."""
    low, high = options.min_learning_rate, options.learning_rate
    warmup = min(options.warmup_epochs, options.epochs / 2)  # a short run warms up, too
    if epoch < warmup:
        return low + (high - low) * epoch / warmup
    progress = (epoch - warmup) / (options.epochs - warmup)
    return low + (high - low) * (1 + math.cos(math.pi * progress)) / 2


class RunningMean:
    """Exponential mean of the weights, for evaluation."""

    def __init__(self, weights: Sequence[nn.Parameter], decay: float):
        self.weights = [weight.detach() for weight in weights]
        self.mean = [weight.clone() for weight in self.weights]
        self.decay = decay

    def update(self) -> None:
        """Move the mean toward the weights."""
        torch._foreach_lerp_(self.mean, self.weights, 1 - self.decay)

    def swap(self) -> None:
        """Exchange the mean and the weights; a second call brings them back."""
        for mean, weight in zip(self.mean, self.weights, strict=True):
            held = weight.clone()
            weight.copy_(mean)
            mean.copy_(held)

    def load(self, mean: Sequence[Tensor]) -> None:
        """Take up the mean of a checkpoint."""
        for own, value in zip(self.mean, mean, strict=True):
            own.copy_(value)
