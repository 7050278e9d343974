"""The cost of a model before it is trained: parameters, memory and arithmetic."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from dapt.models import weight_bytes
from dapt.runs.assembly import build_model, check_groups
from dapt.runs.memory import CountSaved
from dapt.runs.settings import Section
from dapt.tasks import task_class


def measure(
    backbone: Section,
    method: Section,
    task: Section,
    *,
    num_classes: int,
    num_parts: int,
    num_points: int,
    batch_size: int,
) -> dict[str, int]:
    """Measure one batch of random points on the CPU.

    Args:
        backbone: The backbone's section.
        method: The method's section.
        task: The task's section; the sizes that a dataset would provide are the next arguments.
        num_classes: The number of classes, or of object categories.
        num_parts: The number of point labels.
        num_points: The number of points per cloud.
        batch_size: The number of clouds in the batch whose activations are counted.
    """
    kind, sizes = task_class(task.name), {"num_classes": num_classes, "num_parts": num_parts}
    chosen = kind(**{size: sizes[size] for size in sizes if size in kind.from_data}, **task.options)
    model = build_model(backbone, method, chosen, seed=0)
    check_groups(num_points, model.backbone)
    points = torch.randn(batch_size, num_points, 3)
    inputs = chosen.inputs({"labels": torch.zeros(batch_size, dtype=torch.int64)})
    model.prepare([points])
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        model(points[:1], *(values[:1] for values in inputs))
    model.train()
    saved = CountSaved(model)
    with saved:
        model(points, *inputs)
    trained, total = model.count_parameters()
    return {
        "trainable_parameters": trained,
        "total_parameters": total,
        "backbone_bytes": weight_bytes(model.backbone),
        "adapter_bytes": sum(v.numel() * v.element_size() for v in model.own_state().values()),
        "flops_per_cloud": flops.get_total_flops(),
        "saved_activation_bytes": saved.bytes,
    }
