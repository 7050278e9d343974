"""The usual recipe: AdamW, decay for matrices only, cosine with warm-up, a running mean."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dapt.errors import UsageError, listed
from dapt.runs.options import TrainOptions


def decays(name: str, weight: nn.Parameter) -> bool:
    """Whether weight decay applies to a parameter: not to vectors, biases and tokens.

    Args:
        name: The name of the parameter.
        weight: The parameter.
    """
    own = name.rpartition(".")[2]
    return weight.ndim > 1 and own != "bias" and "token" not in own


def adamw(
    named: Sequence[tuple[str, nn.Parameter]],
    options: TrainOptions,
    device: torch.device,
    *,
    capturable: bool = False,
) -> torch.optim.AdamW:
    """Create AdamW with weight decay for matrices only, and separate rates as `rates` says.

    Args:
        named: The trained parameters, with their names.
        options: The options of the optimizer.
        device: The device of the parameters.
        capturable: Whether a CUDA graph can contain the update; the rates are tensors then.
    """
    members: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, weight in sorted(named, key=lambda pair: not decays(*pair)):
        members.setdefault((decays(name, weight), _rate(name, options)), []).append(weight)
    for word in options.rates:
        if not any(word in name for name, _ in named):
            there = listed(sorted({name.rpartition(".")[0] for name, _ in named}), most=8)
            raise UsageError(
                f"rates: no trained weight has a name with {word!r}; their names are {there}"
            )
    groups = [
        {"params": weights, "weight_decay": options.weight_decay if decay else 0.0, "rate": rate}
        for (decay, rate), weights in members.items()
    ]
    for group in groups if capturable else ():
        group["lr"] = torch.tensor(options.learning_rate, device=device)
    return torch.optim.AdamW(groups, lr=options.learning_rate, fused=True, capturable=capturable)


def _rate(name: str, options: TrainOptions) -> float:
    return next((rate for word, rate in options.rates.items() if word in name), 1.0)


def set_schedule(optimizer: torch.optim.Optimizer, epoch: float, options: TrainOptions) -> None:
    """Set the learning rate, and with it the momentum, in float32 as a CUDA graph reads it.

    Args:
        optimizer: From `adamw`.
        epoch: The time, in epochs.
        options: The options of the schedule.
    """
    for group in optimizer.param_groups:
        rate = torch.tensor(learning_rate(epoch, options) * group.get("rate", 1.0))
        if isinstance(group["lr"], Tensor):
            group["lr"].copy_(rate)
        else:
            group["lr"] = rate.item()
        if options.schedule == "one_cycle":
            group["betas"] = (0.95 - 0.1 * _height(epoch, options), group["betas"][1])


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Restore the state from a checkpoint, except whether a graph can capture the optimizer.

    Args:
        optimizer: From `adamw`.
        state: The state of the checkpoint.
    """
    own = [{key: group[key] for key in ("lr", "capturable")} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, kept in zip(optimizer.param_groups, own, strict=True):
        group.update(kept)


def learning_rate(epoch: float, options: TrainOptions) -> float:
    """The learning rate at a point in time: a warm-up, then a cosine.

    Args:
        epoch: The time, in epochs.
        options: The options of the schedule.
    """
    low, high = options.min_learning_rate, options.learning_rate
    if options.schedule == "one_cycle" and epoch < _warmup(options):
        low = high / 10
    return low + (high - low) * _height(epoch, options)


def _warmup(options: TrainOptions) -> float:
    return min(options.warmup_epochs, options.epochs / 2)  # a short run also warms up


def _height(epoch: float, options: TrainOptions) -> float:
    """The height of the schedule, from 0 to 1."""
    warmup = _warmup(options)
    if epoch < warmup:
        progress = epoch / warmup
        return progress if options.schedule == "cosine" else (1 - math.cos(math.pi * progress)) / 2
    progress = (epoch - warmup) / (options.epochs - warmup)
    return (1 + math.cos(math.pi * progress)) / 2


def batch_statistics(model: nn.Module) -> list[Tensor]:
    """The running means and variances of all batch norms, which fit only the weights at that time.

    Args:
        model: The model.
    """
    norms = (each for each in model.modules() if isinstance(each, _BatchNorm))
    kept = ((each.running_mean, each.running_var) for each in norms)
    return [each for pair in kept for each in pair if each is not None]


class RunningMean:
    """The exponential moving average of the weights and of the batch statistics, for evaluation.

    Args:
        weights: The trained weights and the `batch_statistics`.
        decay: The decay of the mean at each step.
    """

    def __init__(self, weights: Sequence[Tensor], decay: float):
        self.weights = [weight.detach() for weight in weights]
        self.mean = [weight.clone() for weight in self.weights]
        self.decay = decay

    def update(self) -> None:
        """Move the mean toward the weights."""
        torch._foreach_lerp_(self.mean, self.weights, 1 - self.decay)

    def swap(self) -> None:
        """Swap the mean and the weights; a second call swaps them back."""
        for mean, weight in zip(self.mean, self.weights, strict=True):
            held = weight.clone()
            weight.copy_(mean)
            mean.copy_(held)

    def load(self, mean: Sequence[Tensor]) -> None:
        """Restore the mean from a checkpoint.

        Args:
            mean: One tensor per weight.
        """
        for own, value in zip(self.mean, mean, strict=True):
            own.copy_(value)
