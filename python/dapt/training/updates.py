"""How the weights change: gradients of batches, the optimizer, the running mean."""

from collections.abc import Mapping
from contextlib import nullcontext

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from dapt.runs.memory import CountSaved
from dapt.runs.options import TrainOptions
from dapt.training.job import Batch, Job
from dapt.training.optimization import (
    RunningMean,
    adamw,
    batch_statistics,
    load_optimizer,
    set_schedule,
)
from dapt.training.step_graph import StepGraph, takes_graph


class Updates:
    """Updates the weights of a job's model, with the gradients of one or several batches each.

    Args:
        job: The training job, whose model is on its device.
        options: The options of the run.
        fabric: The processes that train it together.
        steps_per_epoch: The number of batches in an epoch.
    """

    def __init__(self, job: Job, options: TrainOptions, fabric: Fabric, steps_per_epoch: int):
        self.job, self.options, self.fabric = job, options, fabric
        self.steps_per_epoch = steps_per_epoch
        named = job.parameters()
        self.weights = [weight for _, weight in named]
        self.graph: StepGraph | None = None
        if takes_graph(options, fabric.device, fabric.world_size, job.model):
            required = options.cuda_graph == "on"
            self.graph = StepGraph(self._whole_update, fabric.device, required=required)
        capturable = self.graph is not None
        self.optimizer = adamw(named, options, fabric.device, capturable=capturable)
        averaged = [*self.weights, *batch_statistics(job.model)]
        self.mean = RunningMean(averaged, options.ema) if options.ema else None
        self.totals = torch.zeros(2, dtype=torch.float64, device=fabric.device)  # loss, steps
        self.activation_bytes = 0  # kept for the backward pass of a step

    def begin(self) -> None:
        """Make the network that trains, once the job is prepared and its state is loaded."""
        self.job.model.train()
        module = torch.compile(self.job.model) if self.options.compile else self.job.model
        self.network = self.fabric.setup_module(module)

    def step(self, number: int, batch: Batch) -> None:
        """Add the gradients of a batch; if it is the last of those that belong together, update
        the weights.

        Args:
            number: The number of the step, counted over all epochs.
            batch: The batch on the device, as the network sees it.
        """
        set_schedule(self.optimizer, number / self.steps_per_epoch, self.options)
        if self.graph is not None:
            self.graph(batch)
            return
        in_epoch, accumulate = number % self.steps_per_epoch, self.options.accumulate
        first = in_epoch - in_epoch % accumulate
        together = min(accumulate, self.steps_per_epoch - first)
        complete = in_epoch + 1 == first + together
        with self.fabric.no_backward_sync(self.network, enabled=not complete):
            self._differentiate(batch, together)
        if complete:
            self._update()

    def summed_totals(self) -> Tensor:
        """The loss and the number of steps since `totals` was last zeroed, over all processes."""
        return self.fabric.all_reduce(self.totals.clone(), reduce_op="sum")

    def state(self) -> dict[str, object]:
        """The state in a checkpoint; the processes must ask for it together.

        `totals` is the mean over them, so that the sum is right after a restart.
        """
        return {
            "optimizer": self.optimizer.state_dict(),
            "mean": self.mean.mean if self.mean else [],
            "totals": (self.summed_totals() / self.fabric.world_size).cpu(),
            "activation_bytes": self.activation_bytes,
        }

    def load_state(self, state: Mapping) -> None:
        """Restore what `state` returned.

        Args:
            state: The state of the checkpoint.
        """
        load_optimizer(self.optimizer, state["optimizer"])
        if self.mean:
            self.mean.load(state["mean"])
        self.totals.copy_(state["totals"])
        self.activation_bytes = state["activation_bytes"]

    def _whole_update(self, batch: Batch) -> None:
        self.optimizer.zero_grad()  # a capture that failed leaves gradients behind
        self._differentiate(batch, together=1)
        self._update()

    def _differentiate(self, batch: Batch, together: int) -> None:
        """Compute the gradients of one of the batches that form an update."""
        count = nullcontext() if self.activation_bytes else CountSaved(self.job.model)
        with count:
            loss = self.job.loss(self.network, batch)
        if isinstance(count, CountSaved):
            self.activation_bytes = count.bytes
        self.fabric.backward(loss / together)
        self.totals += torch.stack([loss.detach().double(), torch.ones_like(self.totals[0])])

    def _update(self) -> None:
        if self.options.clip_norm:
            nn.utils.clip_grad_norm_(self.weights, self.options.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.mean:
            self.mean.update()
