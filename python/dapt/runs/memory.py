"""Measure the memory that a step takes."""

import resource
import sys

import torch
from torch import Tensor, nn


class CountSaved(torch.autograd.graph.saved_tensors_hooks):
    """Counts the bytes that autograd keeps for the backward pass: each storage once, no weights.

    Args:
        model: The model whose weights are not counted.
    """

    def __init__(self, model: nn.Module):
        state = [tensor.untyped_storage() for tensor in model.state_dict().values()]
        # kept alive while counting, so that no new storage reuses the address of a freed one
        self._seen = {storage.data_ptr(): storage for storage in state}
        self.bytes = 0
        super().__init__(self._count, lambda tensor: tensor)

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen[storage.data_ptr()] = storage
            self.bytes += storage.nbytes()
        return tensor

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._seen.clear()


def peak_memory(device: torch.device) -> int:
    """The peak memory of a device, or of this process on a CPU, in bytes.

    Args:
        device: The device of the computation.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
