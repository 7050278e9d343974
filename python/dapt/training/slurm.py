"""Runs as Slurm jobs, through submitit; without Slurm, submitit runs them as local processes."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dapt.errors import check_at_least
from dapt.runs.children import run_child, threads
from dapt.runs.folder import RunFolder

log = logging.getLogger(__name__)

MOST_REQUEUES = 1000  # a run that takes longer than its job continues in the next one


@dataclass(frozen=True, kw_only=True)
class SlurmOptions:
    """What each run requests from Slurm.

    Args:
        partition: The partition of the cluster; its default otherwise.
        time: Minutes per job. A run that needs more continues in another job.
        gpus: GPUs per job.
        cpus: Cores per job.
        memory: GB per job.
        account: The account to charge.
        qos: Quality of service.
        constraint: Features that a node must have.
        setup: A shell command before the run, such as "module load cuda".
    """

    partition: str | None = None
    time: int = 1440
    gpus: int = 0
    cpus: int = 4
    memory: int | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    setup: str | None = None

    def __post_init__(self):
        check_at_least(self, time=1, gpus=0, cpus=1)
        if self.memory is not None:
            check_at_least(self, memory=1)

    def parameters(self) -> dict[str, object]:
        """The options under submitit's names; None leaves the choice to Slurm."""
        own = {name: getattr(self, name) for name in ("partition", "account", "qos", "constraint")}
        setup = None if self.setup is None else [self.setup]
        return {
            "name": "dapt",
            "timeout_min": self.time,
            "gpus_per_node": self.gpus,
            "cpus_per_task": self.cpus,
            "mem_gb": self.memory,
            "tasks_per_node": 1,
            "stderr_to_stdout": True,
            "slurm_setup": setup,
            "local_setup": setup,
            **{f"slurm_{name}": value for name, value in own.items()},
        }


class Queue:
    """The destination of jobs.

    Args:
        folder: The folder for submitit's own files and the logs of the jobs.
        options: What a job requests.
    """

    def __init__(self, folder: Path, options: SlurmOptions):
        import submitit

        self._executor = submitit.AutoExecutor(folder, slurm_max_num_timeout=MOST_REQUEUES)
        self._executor.update_parameters(**options.parameters())
        self.is_here = self._executor.cluster != "slurm"
        if self.is_here:
            log.warning("there is no Slurm (no srun on the PATH): the jobs run on this machine")

    def submit(self, command: Sequence[str], folder: RunFolder, cores: int | None) -> "Job":
        """Submit a training.

        Args:
            command: Its program and arguments.
            folder: The folder of the run.
            cores: The number of threads; None for all cores of the job.
        """
        return Job(self._executor.submit(Training(list(command), folder, cores)))


class Job:
    """A submitted training.

    Args:
        job: The job object from submitit.
    """

    def __init__(self, job):
        self._job = job

    @property
    def log(self) -> Path:
        """The file with its output."""
        return self._job.paths.stdout

    def poll(self) -> int | None:
        """Its exit code, None while it waits or runs; 1 if it has none."""
        if not self._job.done():
            return None
        if self._job.exception() is not None:
            return 1
        return self._job.result()

    def stop(self) -> None:
        """Cancel it; it saves its state first."""
        self._job.cancel()


@dataclass
class Training:
    """The work of a job; if a job runs out of time, another one continues it.

    Args:
        command: The `dapt train --resume` to run.
        folder: The folder of the run.
        cores: The number of threads; None for all cores of the job.
    """

    command: list[str]
    folder: RunFolder
    cores: int | None

    def __call__(self) -> int:
        self.folder.wait()
        # Lightning would mistake the job's tasks for its own processes, which it starts itself
        own = threads(self.cores) | {"SLURM_JOB_NAME": "interactive"}
        return run_child([sys.executable, *self.command], own)

    def checkpoint(self, *_):
        """Return what submitit requeues when the job runs out of time."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)
