"""The host's time per call of the ops of a training step, and of eager torch.

    python benchmarks/host_time.py

The tensors are so small that the time of the kernels hardly counts. On a GPU, a step whose kernels
take less than this is bound by it, unless it is a CUDA graph. The time is that of one thread, and
the median over calls in turn, so that other work on the machine disturbs it little.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

import dapt_ext

B, T, C, D, r = 1, 2, 16, 8, 4


def cases() -> dict[str, Callable[[], Tensor | tuple[Tensor, ...]]]:
    """The ops by name, with trained scales, shifts and adapters and a frozen layer and norm."""
    x, mlp_out, residual = (torch.randn(B, T, C, requires_grad=True) for _ in range(3))
    qkv = torch.randn(B, T, 3 * C, requires_grad=True)
    shapes = ((r, C), (r,), (C, r), (C,), (C,), (C,), (1, C), (1,), (D,), (D,), (C,), (C,))
    trained = [torch.randn(shape, requires_grad=True) for shape in shapes]
    down, down_bias, up, up_bias, norm_weight, norm_bias, scale_weight, scale_bias = trained[:8]
    scale, shift, norm_scale, norm_shift = trained[8:]
    weight, bias, frozen_weight, frozen_bias = map(torch.randn, ((D, C), (D,), (C,), (C,)))

    def adapter():
        return dapt_ext.dynamic_adapter(
            x, down, down_bias, up, up_bias, norm_weight=norm_weight, norm_bias=norm_bias,
            scale_weight=scale_weight, scale_bias=scale_bias, mlp_out=mlp_out, residual=residual,
            dropout=0.1, training=True,
        )  # fmt: skip

    def eager_norm():
        return norm_scale * F.layer_norm(x, (C,), frozen_weight, frozen_bias) + norm_shift

    return {
        "scale_shift_linear": lambda: dapt_ext.scale_shift_linear(x, weight, bias, scale, shift),
        "eager linear": lambda: scale * F.linear(x, weight, bias) + shift,
        "scale_shift_norm": lambda: dapt_ext.scale_shift_norm(
            x, frozen_weight, frozen_bias, norm_scale, norm_shift
        ),
        "eager norm": eager_norm,
        "dynamic_adapter": adapter,
        "attention": lambda: dapt_ext.attention(qkv, 2),
    }


def with_backward(forward: Callable) -> Callable[[], None]:
    """The op and its backward.

    Args:
        forward: Calls the op.
    """
    results = forward()
    ones = [torch.ones_like(t) for t in (results if isinstance(results, tuple) else (results,))]

    def both():
        results = forward()
        torch.autograd.backward(results if isinstance(results, tuple) else (results,), ones)

    return both


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=500, help="calls of each")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    measured = {name: (forward, with_backward(forward)) for name, forward in cases().items()}
    seconds = {(name, i): [] for name in measured for i in range(2)}
    for _ in range(options.calls):
        for (name, i), times in seconds.items():
            begun = time.thread_time()
            measured[name][i]()
            times.append(time.thread_time() - begun)
    print(f"{'µs of the host per call':24}{'forward':>9}{'with backward':>15}")
    for name in measured:
        forward, both = (1e6 * statistics.median(seconds[name, i]) for i in range(2))
        print(f"{name:24}{forward:9.0f}{both:15.0f}")


if __name__ == "__main__":
    main()
