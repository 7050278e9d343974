"""The frozen mini-PointNet that turns patches into tokens."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class PatchEncoderWeights(NamedTuple):
    """Four layers with the batch norms folded in, weights [out, in]. The third one sees the patch's
    maximum in front of each point, so its weight comes in two halves."""

    conv1: Tensor  # [128, 3]
    bias1: Tensor
    conv2: Tensor  # [256, 128]
    bias2: Tensor
    conv3_global: Tensor  # [512, 256]
    conv3_local: Tensor  # [512, 256]
    bias3: Tensor
    conv4: Tensor  # [C, 512]
    bias4: Tensor


def fold_batch_norm(
    weight: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """Weight [out, in] and bias of the one linear layer that equals a linear layer (or a Conv1d of
    width 1, weight [out, in, 1]) followed by a batch norm in evaluation mode."""
    factor = norm_weight * (running_var + eps).rsqrt()
    return weight.flatten(1) * factor[:, None], (bias - running_mean) * factor + norm_bias


def patch_encoder(patches: Tensor, weights: PatchEncoderWeights) -> Tensor:
    from dapt_ext import reference

    return reference.patch_encoder(patches, weights)
