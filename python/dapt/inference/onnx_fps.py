"""Farthest point sampling as an ONNX loop."""

from onnxscript import FLOAT, INT64, script
from onnxscript import opset18 as op

from dapt.errors import UsageError


@script(default_opset=op)
def sample_farthest(points: FLOAT, count: INT64) -> INT64:
    """Indices of the sampled points, int64 [B, count].

    Distances are those of `plain_ops.squared_distance`.

    Args:
        points: [B, N, 3].
        count: The number of points to sample.
    """
    clouds = op.Shape(points, start=0, end=1)
    size = op.Shape(points, start=1, end=2)
    once = op.Constant(value_ints=[1])
    numbers = op.Range(0, op.Squeeze(size), 1)  # [N]
    last = op.Expand(op.Constant(value_ints=[0]), op.Concat(clouds, once, axis=0))  # [B, 1]
    nearest = op.Expand(op.Constant(value_float=float("inf")), op.Concat(clouds, size, axis=0))
    chosen = last
    for _ in range(count - 1):
        rows = op.Concat(clouds, op.Constant(value_ints=[1, 3]), axis=0)
        center = op.GatherElements(points, op.Expand(op.Unsqueeze(last, [2]), rows), axis=1)
        difference = op.Cast(points - center, to=11)  # float64
        dx, dy, dz = op.Split(difference, axis=2, num_outputs=3)
        sq_x = op.Cast(op.Cast(dx * dx, to=1), to=11)
        sq_xy = op.Cast(op.Cast(dy * dy + sq_x, to=1), to=11)
        distance = op.Squeeze(op.Cast(dz * dz + sq_xy, to=1), [2])  # [B, N]
        nearest = op.Where(op.Equal(numbers, last), -1.0, op.Min(nearest, distance))
        last = op.ArgMax(nearest, axis=1, keepdims=1, select_last_index=0)
        chosen = op.Concat(chosen, last, axis=1)
    return chosen


def fps(points, num_samples, lengths=None, starts=None, start=0, skip_near_origin=False):
    """The translation of the op that `torch.onnx.export` calls."""
    if lengths is not None or starts is not None or start or skip_near_origin:
        raise UsageError("a network that samples with lengths or starts cannot be exported")
    return sample_farthest(op.Cast(points, to=1), op.Constant(value_int=num_samples))
