"""What a run logs before it starts: the data, the machine, and what trains."""

import logging

import torch
from lightning_fabric import Fabric

from dapt.models import count_parameters
from dapt.models.pretrained import RANDOM
from dapt.runs.settings import Settings
from dapt.training.job import Job

log = logging.getLogger(__name__)


def announce(job: Job, settings: Settings, fabric: Fabric, trained: int) -> None:
    """Log what trains, on which data and on which machine.

    Args:
        job: The training job.
        settings: The settings of the run.
        fabric: The processes that train it together.
        trained: The number of parameters that train.
    """
    method = settings.method
    splits = {"train": job.train, "validation": job.validation, "test": job.test}
    sizes = (f"{name} {len(split):,}" for name, split in splits.items() if split)
    classes = f", {job.train.num_classes} classes" if method else ""
    log.info("data: %s clouds, %s points%s", ", ".join(sizes), f"{job.num_points:,}", classes)
    processes = f" x {fabric.world_size}" if fabric.world_size > 1 else ""
    device, precision = fabric.device, settings.training.precision
    where = f"{torch.get_num_threads()} threads" if device.type == "cpu" else _name_of(device)
    log.info("machine: %s%s, %s, precision %s", device.type, processes, where, precision)
    total = count_parameters(job.model)
    what = f"{method.name} on {settings.backbone.name}" if method else "all weights"
    share = f"{trained / total:.2%}"
    log.info("%s: trains %s of %s parameters (%s)", what, f"{trained:,}", f"{total:,}", share)
    if method and settings.backbone.get("checkpoint") == RANDOM:
        whole = trained == total
        log.warning(
            "the backbone has random weights, %s",
            "and all of them train: from scratch" if whole else "and most of them stay frozen",
        )


def _name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
