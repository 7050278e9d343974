"""What a model costs before it is trained: parameters, memory and arithmetic."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from dapt.config import Tree
from dapt.jobs import build_model, check_groups
from dapt.memory import CountSaved


def measure(tree: Tree, num_classes: int, num_points: int, batch_size: int) -> dict[str, int]:
    """Counted on one batch of random points on the CPU."""
    names = [str(label) for label in range(num_classes)]
    model = build_model(tree, num_classes, names, seed=0)
    check_groups(num_points, model.backbone)
    points = torch.randn(batch_size, num_points, 3)
    model.prepare([points])
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        model(points[:1])
    model.train()
    saved = CountSaved(model)
    with saved:
        model(points)
    trained, total = model.count_parameters()
    return {
        "trainable_parameters": trained,
        "total_parameters": total,
        "adapter_bytes": sum(v.numel() * v.element_size() for v in model.own_state().values()),
        "flops_per_cloud": flops.get_total_flops(),
        "saved_activation_bytes": saved.bytes,
    }
