"""What a model costs before it is trained: parameters, memory and arithmetic."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from dapt.assembly import build_model, check_groups
from dapt.config import Tree, section
from dapt.memory import CountSaved
from dapt.tasks import task_class


def measure(
    tree: Tree, num_classes: int, num_parts: int, num_points: int, batch_size: int
) -> dict[str, int]:
    """Counted on one batch of random points on the CPU."""
    name, fields = section(tree, "task")
    kind, sizes = task_class(name), {"num_classes": num_classes, "num_parts": num_parts}
    task = kind(**{size: sizes[size] for size in sizes if size in kind.from_data}, **fields)
    model = build_model(tree, task, seed=0)
    check_groups(num_points, model.backbone)
    points = torch.randn(batch_size, num_points, 3)
    inputs = task.inputs({"labels": torch.zeros(batch_size, dtype=torch.int64)})
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
        "adapter_bytes": sum(v.numel() * v.element_size() for v in model.own_state().values()),
        "flops_per_cloud": flops.get_total_flops(),
        "saved_activation_bytes": saved.bytes,
    }
