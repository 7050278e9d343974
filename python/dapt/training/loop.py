"""The single training loop, for every method and task, on one device or several.

All randomness in a step derives from (seed, step, rank), so a killed run resumes from a checkpoint
of weights and counters exactly as if nothing had happened.
"""

import logging
import math
import platform
import time
from contextlib import nullcontext, suppress
from importlib.metadata import PackageNotFoundError, version
from typing import NoReturn

import numpy as np
import torch
from lightning_fabric import Fabric

from dapt.data import BatchSampler, loader
from dapt.data.transforms import Share
from dapt.errors import DaptError, Interrupted, UsageError
from dapt.models import count_parameters
from dapt.runs.children import on_signals
from dapt.runs.folder import RunFolder
from dapt.runs.memory import peak_memory
from dapt.runs.processes import any_process, choose_precision, launch, synchronize_batch_norms
from dapt.runs.settings import Settings
from dapt.training.adaptation import Adaptation
from dapt.training.announcement import announce
from dapt.training.best_epoch import BestEpoch
from dapt.training.folds import is_of_folds, train_folds
from dapt.training.job import Batch, Job
from dapt.training.optimization import learning_rate
from dapt.training.pretraining import Pretraining
from dapt.training.progress import Progress
from dapt.training.step_graph import check_graph
from dapt.training.updates import Updates
from dapt.version import __version__

log = logging.getLogger(__name__)

AGREE_EVERY = 10  # steps between synchronizations of several processes


def train(settings: Settings) -> dict:
    """Start or resume the training that the settings describe.

    Args:
        settings: The settings; with a method an adaptation, otherwise a pre-training.

    Returns:
        The content of result.json.
    """
    if is_of_folds(settings):
        return train_folds(settings, train)
    folder = RunFolder(settings.training.out)
    settings = settings.but(precision=_precision(settings, folder))
    fabric = launch(settings.training)
    if settings.training.cuda_graph == "on":
        check_graph(settings.training, fabric.device, fabric.world_size)
    job = Pretraining(settings) if settings.is_pretraining else Adaptation(settings)
    settings = settings.but(num_points=job.num_points)
    with folder.locked() if fabric.is_global_zero else nullcontext():
        if fabric.is_global_zero:
            folder.begin(settings)
        fabric.barrier()
        return Trainer(job, settings, fabric, folder).run()


def _precision(settings: Settings, folder: RunFolder) -> str:
    """The precision that `auto` stands for on this machine, or on the one where the run began."""
    options = settings.training
    if options.precision != "auto":
        return options.precision
    if options.resume and folder.config.is_file():
        return folder.settings().training.precision
    return choose_precision(options.accelerator)


class Trainer:
    """One run: epochs of steps, evaluations, checkpoints.

    Args:
        job: The training job.
        settings: The settings of the run.
        fabric: The processes that train it together.
        folder: The run folder.
    """

    def __init__(self, job: Job, settings: Settings, fabric: Fabric, folder: RunFolder):
        self.job, self.settings, self.fabric, self.folder = job, settings, fabric, folder
        self.options = options = settings.training
        self.batch_size = self._fitting_batch()
        self.sampler = BatchSampler(
            len(job.train),
            self.batch_size,
            seed=options.seed,
            drop_last=True,
            rank=fabric.global_rank,
            world_size=fabric.world_size,
        )
        job.model.train()
        if fabric.world_size > 1:
            synchronize_batch_norms(job.model)
        job.model.to(fabric.device)
        self.updates = Updates(job, options, fabric, len(self.sampler))
        self.weights = self.updates.weights

        self.epoch = 0
        self.spent = {"steps": 0, "seconds": 0.0}
        self.inputs = job.inputs()
        self.best = BestEpoch(job, folder, writes=fabric.is_global_zero)
        self.stop_asked = False

    def run(self) -> dict:
        """Train to the end, or until asked to stop; return the result."""
        if self.options.resume:
            self._resume()
        self.job.prepare(self.fabric)
        self.updates.begin()
        announce(self.job, self.settings, self.fabric, self._trained())
        points = self._points_per_step()
        bar = Progress(self.options, self.sampler, points, self.fabric, self.folder)
        with bar, on_signals(self._ask_to_stop):
            while self.epoch < self.options.epochs and not self._is_patience_spent():
                self._run_epoch(bar)
        return self._finish()

    def _fitting_batch(self) -> int:
        """The batch size, or a smaller one if the clouds do not fill a batch."""
        asked, clouds = self.options.batch_size, len(self.job.train)
        processes = self.fabric.world_size
        if clouds >= asked or clouds < processes:
            return asked
        fitting = clouds - clouds % processes
        log.warning(
            "%d clouds do not fill batch_size %d: using batches of %d", clouds, asked, fitting
        )
        return fitting

    def _trained(self) -> int:
        """The number of parameters that train."""
        return sum(weight.numel() for weight in self.weights)

    def _points_per_step(self) -> int:
        return self.batch_size * self.job.num_points

    def _ask_to_stop(self, _: int) -> None:
        if self.stop_asked:
            raise KeyboardInterrupt
        self.stop_asked = True

    def _run_epoch(self, bar: Progress) -> None:
        epoch, first = self.epoch, self.sampler.step
        self.sampler.set_position(epoch, first)
        batches = loader(self.job.train, self.sampler, self.options.num_workers)
        bar.start_epoch(epoch, first)
        saved_at = started = time.monotonic()
        for step, batch in enumerate(batches, first):
            begun = time.monotonic()
            self._step(epoch * len(self.sampler) + step, batch)
            self.spent["steps"] += 1
            self.spent["seconds"] += time.monotonic() - begun
            bar.advance(self.updates.totals)
            if step + 1 < len(self.sampler) and self._agreement_due(step):
                due = time.monotonic() - saved_at > self.options.checkpoint_seconds
                stop = any_process(self.fabric, self.stop_asked)
                if (stop or any_process(self.fabric, due)) and self._may_save(step):
                    self._save(epoch, step + 1)
                    saved_at = time.monotonic()
                if stop and self._may_save(step):
                    self._leave()
        self._end_epoch(epoch, len(self.sampler) - first, time.monotonic() - started, bar)
        self._save(epoch + 1, 0)
        if any_process(self.fabric, self.stop_asked) and self.epoch < self.options.epochs:
            self._leave()

    def _agreement_due(self, step: int) -> bool:
        return self.fabric.world_size == 1 or (step + 1) % AGREE_EVERY == 0

    def _may_save(self, step: int) -> bool:
        """Whether a step completed an update; a checkpoint does not contain partial gradients."""
        return (step + 1) % self.options.accumulate == 0

    def _step(self, step: int, batch: Batch) -> None:
        share = self._seed(step)
        batch = {key: values.to(self.fabric.device) for key, values in batch.items()}
        self.updates.step(step, self.job.views(batch, share))

    def _seed(self, step: int) -> Share:
        """Seed the network, and the transforms, which use the same seed in all processes."""
        seeds = np.random.SeedSequence([self.options.seed, step]).generate_state(2, np.uint64)
        shared, own = (int(seed) >> 1 for seed in seeds)
        torch.manual_seed(own + self.fabric.global_rank)
        generator = torch.Generator().manual_seed(shared)
        return Share(generator, self.fabric.global_rank, self.fabric.world_size)

    def _end_epoch(self, epoch: int, steps: int, seconds: float, bar: Progress) -> None:
        loss, mean = self._mean_loss(), self.updates.mean
        self._check_finite()
        if mean:
            mean.swap()
        line = {"epoch": epoch, "step": (epoch + 1) * len(self.sampler), "train_loss": loss}
        if (epoch + 1) % self.options.evaluate_every == 0 or epoch + 1 == self.options.epochs:
            line |= self.job.evaluate(epoch, self.fabric)
        line |= self.job.probe(epoch, self.fabric)
        last = ((epoch + 1) * len(self.sampler) - 1) / len(self.sampler)
        line["learning_rate"] = learning_rate(last, self.options)
        line["seconds"] = round(seconds, 3)
        line["points_per_second"] = round(steps * self._points_per_step() / max(seconds, 1e-9))
        if math.isnan(line.get(self.job.metric, 0.0)):
            self._give_up(f"the {self.job.metric.replace('_', ' ')} is")
        self.best.consider(line)
        if mean:
            mean.swap()
        if self.fabric.is_global_zero:
            self.folder.append_metrics(line)
        bar.end_epoch(line, is_best=self.best.line is line)
        self.updates.totals.zero_()

    def _mean_loss(self) -> float:
        total, steps = self.updates.summed_totals().tolist()
        if not math.isfinite(total):
            self._give_up("the loss is")
        return total / max(steps, 1)

    def _check_finite(self) -> None:
        """Check the weights; the loss of the last step does not show that its update diverged."""
        state = self.job.state().values()
        if not all(value.isfinite().all() for value in state if value.is_floating_point()):
            self._give_up("weights are")

    def _give_up(self, what: str) -> NoReturn:
        raise DaptError(
            f"{what} not finite in epoch {self.epoch + 1}: the run diverged; start again "
            "with a smaller learning_rate and another --out. Its earlier state is kept in "
            f"{self.folder.path}"
        )

    def _is_patience_spent(self) -> bool:
        patience, best = self.options.patience, self.best.line
        return bool(patience and best and self.epoch - 1 - best["epoch"] >= patience)

    def _save(self, epoch: int, step: int) -> None:
        self.epoch = epoch
        self.sampler.set_position(epoch, step)
        self._check_finite()
        state = self.updates.state()
        if not self.fabric.is_global_zero:
            return
        self.folder.save(
            {
                "epoch": epoch,
                "step": step,
                "model": dict(self.job.state()),
                **state,
                **self.best.state(),
                "spent": self.spent,
                "inputs": self.inputs,
            }
        )
        self.best.weights.publish()

    def _resume(self) -> None:
        state = self.folder.load()
        if self.fabric.is_global_zero:
            self.folder.restore_metrics(state)
        if state is None:
            return
        self._check_inputs(state.get("inputs", {}))
        self.best.load_state(state)
        self.job.load_state(state["model"])
        self.updates.load_state(state)
        self.epoch, self.spent = state["epoch"], state["spent"]
        self.sampler.set_position(state["epoch"], state["step"])
        log.info("resuming from epoch %d, step %d", state["epoch"], state["step"])

    def _check_inputs(self, before: dict[str, str]) -> None:
        """Check that the run resumes with the data and backbone that it began with."""
        for what, digest in self.inputs.items():
            if before.get(what, digest) != digest:
                raise UsageError(
                    f"the {what} of the run in {self.folder.path} changed since it began: "
                    "put the old one back, or start anew with another --out"
                )

    def _leave(self) -> None:
        raise Interrupted(
            f"stopped and saved: the same command with --resume continues {self.folder.path}"
        )

    def _finish(self) -> dict:
        self.best.check()
        self.fabric.barrier()  # until the first process has published the weights
        self.job.load_best(self.best.weights.file)
        method = self.settings.method
        result = {
            **self.job.final(self.fabric),
            "method": "pretrain" if method is None else method.name,
            **self.best.result(),
            "trainable_parameters": self._trained(),
            "total_parameters": count_parameters(self.job.model),
            "saved_activation_bytes": self.updates.activation_bytes,
            "peak_memory_bytes": peak_memory(self.fabric.device),
            "seconds_per_step": self.spent["seconds"] / max(self.spent["steps"], 1),
            "epochs": self.epoch,
            "seed": self.options.seed,
            "versions": versions(),
        }
        if self.fabric.is_global_zero:
            if self.job.clouds is not None:
                self.folder.write_clouds(self.job.clouds)
            self.folder.write_result(result)
        return result


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that affect the numbers.

    A package without metadata is left out; dapt itself has none when run from its source folder.
    """
    found = {"python": platform.python_version(), "dapt": __version__}
    for name in ("torch", "numpy", "lightning-fabric"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
