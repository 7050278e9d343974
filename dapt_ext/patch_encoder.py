"""The frozen mini-PointNet that turns patches into tokens."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dapt_ext._autograd import refuse_derivatives
from dapt_ext._library import check_tensors, ops, register_fake
from dapt_ext.autocast import product_dtype, tf32_allowed


class PatchEncoderWeights(NamedTuple):
    """Four layers with the batch norms folded in; weights are [out, in].

    The third layer's input is the patch's maximum followed by the point's own features, so its
    weight comes in two halves.

    Args:
        conv1: [first, D], 128 channels in the published networks.
        bias1: [first].
        conv2: [middle, first], 256.
        bias2: [middle].
        conv3_global: [last, middle], 512, applied to the patch's maximum.
        conv3_local: [last, middle], applied to the point itself.
        bias3: [last].
        conv4: [C, last].
        bias4: [C].
    """

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
    """Fold a batch norm in evaluation mode into the linear layer before it.

    Args:
        weight: [out, in], the layer's weight; [out, in, 1] for a Conv1d of width 1.
        bias: [out], the layer's bias.
        norm_weight: [out], the weight of the batch norm.
        norm_bias: [out], its bias.
        running_mean: [out], its mean.
        running_var: [out], its variance.
        eps: Added to the variance in the norm.

    Returns:
        The folded weight [out, in] and bias [out].
    """
    factor = norm_weight * (running_var + eps).rsqrt()
    return weight.flatten(1) * factor[:, None], (bias - running_mean) * factor + norm_bias


def patch_encoder(patches: Tensor, weights: PatchEncoderWeights) -> Tensor:
    """Encode patches as tokens with a frozen mini-PointNet, without a gradient.

        f = conv2 · ReLU(conv1 · point + bias1) + bias2
        token = max over points of conv4 · ReLU(conv3_global · max f + conv3_local · f + bias3)
                + bias4

    Args:
        patches: [B, G, K, D], any floating dtype and strides. Matrix products run in this dtype or
            that of autocast, sums in float32 (float64 for float64).
        weights: The layers, of any widths.

    Returns:
        [B, G, C] in the dtype of the products.
    """
    check_tensors(patches=patches, **weights._asdict())
    w = weights
    # max(f + bias2) = max f + bias2, so bias2 can be added after the maximum, and the contribution
    # of a point's own f to the third layer is a product with the input of the second.
    with torch.autocast(patches.device.type, enabled=False):
        bias3 = w.bias3 + (w.conv3_global + w.conv3_local) @ w.bias2
        conv3_local = w.conv3_local @ w.conv2
    return ops.patch_encoder(
        patches, w.conv1, w.bias1, w.conv2, w.conv3_global, conv3_local, bias3, w.conv4, w.bias4,
        product_dtype(patches), tf32_allowed(),
    )  # fmt: skip


@register_fake("dapt::patch_encoder")
def _(
    patches, conv1, bias1, conv2, conv3_global, conv3_local, bias3, conv4, bias4, compute,
    tf32=False,
):  # fmt: skip
    B, G = patches.shape[:2]
    return patches.new_empty((B, G, conv4.shape[0]), dtype=compute)


refuse_derivatives(
    "patch_encoder",
    "patches and weights must not require a gradient, as the patch encoder has none: "
    "freeze them, or call it under torch.no_grad()",
)
