"""Several processes that train together: Fabric, synchronized batch norm, common decisions."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor, nn

from dapt.errors import UsageError
from dapt.inference.team import Team
from dapt.runs.children import PARENT
from dapt.runs.options import TrainOptions

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}
log = logging.getLogger(__name__)


def choose_precision(accelerator: str) -> str:
    """The faster of fp32 and bf16 on this machine.

    Args:
        accelerator: auto, cpu or cuda, as in the settings.
    """
    if accelerator != "cpu" and torch.cuda.is_available():
        fast, why = torch.cuda.is_bf16_supported(including_emulation=False), "this GPU"
    else:
        fast, why = _cpu_multiplies_bfloat16(), "this CPU"
    chosen = "bf16" if fast else "fp32"
    log.info(
        "precision %s: %s %s bfloat16 in hardware",
        chosen,
        why,
        "multiplies" if fast else "does not multiply",
    )
    return chosen


def _cpu_multiplies_bfloat16() -> bool:
    """Whether the CPU has AVX512-BF16 or AMX; otherwise torch converts to float32 and back."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


def launch(options: TrainOptions) -> Fabric:
    """Set up Fabric for this machine, or for the processes that torchrun has started.

    Args:
        options: The options, of which accelerator, devices and precision are used.
    """
    _check_accelerator(options)
    devices, nodes = options.devices, 1
    if "TORCHELASTIC_RUN_ID" in os.environ:
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    fabric = Fabric(
        accelerator=options.accelerator,
        devices=devices,
        num_nodes=nodes,
        strategy="ddp" if devices * nodes > 1 else "auto",
        precision=PRECISIONS[_precision(options)],
    )
    os.environ[PARENT] = str(os.getpid())  # for the processes that Fabric starts
    try:
        fabric.launch()
    finally:
        os.environ.pop(PARENT, None)
    return fabric


def _precision(options: TrainOptions) -> str:
    if options.precision == "auto":
        return choose_precision(options.accelerator)
    return options.precision


def autocast(options: TrainOptions) -> torch.autocast:
    """A context in which this thread computes matrix products in the precision of the options.

    Args:
        options: The options, of which accelerator and precision are used.
    """
    bf16 = _precision(options) == "bf16"
    return torch.autocast(device_of(options).type, torch.bfloat16, enabled=bf16)


def _check_accelerator(options: TrainOptions) -> None:
    if options.accelerator != "cuda":
        return
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not found:
        raise UsageError(
            "accelerator cuda: torch finds no GPU here (see `dapt doctor`); "
            "leave out --accelerator to use what is available"
        )
    if options.devices > found:
        raise UsageError(f"devices must be at most the {found} GPUs here, got {options.devices}")


@contextmanager
def team() -> Iterator[Team]:
    """The processes that torchrun has started, for work without gradients; else this one only."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Team()
        return
    dist.init_process_group("gloo", timeout=timedelta(days=30))  # a tile may take a long time

    def gather(value: object) -> list:
        found = [None] * size
        dist.all_gather_object(found, value)
        return found

    try:
        yield Team(dist.get_rank(), size, gather)
    finally:
        dist.destroy_process_group()


def device_of(options: TrainOptions) -> torch.device:
    """The device of this process: a GPU of its own if there are any.

    Args:
        options: The options, of which `accelerator` is used.
    """
    _check_accelerator(options)
    if options.accelerator == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def is_first_process() -> bool:
    """Whether this is the process that prints and writes."""
    return os.environ.get("RANK", "0") == "0"


def any_process(fabric: Fabric, flag: bool) -> bool:
    """Whether a flag is set in any process; all processes get the answer.

    Args:
        fabric: The Fabric of this process.
        flag: The flag of this process.
    """
    if fabric.world_size == 1:
        return flag
    return bool(fabric.all_reduce(torch.tensor(float(flag)), reduce_op="sum") > 0)


def synchronize_batch_norms(model: nn.Module) -> None:
    """Replace each batch norm that updates its statistics by a `SynchronizedBatchNorm`.

    Args:
        model: A model in training mode.
    """
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm1d) and child.training:
                setattr(parent, name, SynchronizedBatchNorm(child))


class SynchronizedBatchNorm(nn.BatchNorm1d):
    """Batch norm over the batches of all processes, on every device.

    Args:
        norm: The batch norm whose weights and statistics it takes over.
    """

    def __init__(self, norm: nn.BatchNorm1d):
        super().__init__(norm.num_features, norm.eps, norm.momentum, device="meta")
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked

    def forward(self, x: Tensor) -> Tensor:  # [R, C], R rows in this process
        if not self.training:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return self._normalize(x.float() if x.dtype != torch.float64 else x)

    def _normalize(self, x: Tensor) -> Tensor:
        rows = _sum_over_processes(x.new_tensor(float(len(x))))
        mean = _sum_over_processes(x.sum(0)) / rows  # [C]
        centered = x - mean
        variance = _sum_over_processes(centered.square().sum(0)) / rows  # [C]
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
            unbiased = variance * rows / (rows - 1)
            self.running_var.lerp_(unbiased.to(self.running_var), self.momentum)
        return centered * torch.rsqrt(variance + self.eps) * self.weight + self.bias


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # every process's loss depends on the sum
        total = grad.contiguous().clone()
        dist.all_reduce(total)
        return total


def _sum_over_processes(values: Tensor) -> Tensor:
    return _SumOverProcesses.apply(values)
