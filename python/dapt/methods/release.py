"""Released DAPT models: backbone, adapter and head in one published file."""

import os
import re
from collections.abc import Sequence

from dapt.errors import DaptError, UsageError
from dapt.methods.attach import attach
from dapt.methods.dapt import Dapt
from dapt.methods.model import AdaptedModel
from dapt.models.checkpoints import State, load_weights, read_state
from dapt.models.layouts import Layout, plain_renames
from dapt.models.transformer import PointTransformerConfig
from dapt.tasks import Classification

_BLOCK = r"^backbone\.blocks\.(\d+)\."

RELEASE = Layout(
    title="released DAPT model",
    network="point_mae",
    marks=("blocks.blocks.0.Adapter_MLP.", "cls_head_finetune."),
    renames=(
        (rf"{_BLOCK}frozen\.norm([12])\.(scale|shift)$", r"blocks.\1.tfts_\3_\2"),
        (rf"{_BLOCK}prompt\.(scale|shift)$", r"blocks.\1.tfts_\2_3"),
        (rf"{_BLOCK}frozen\.attn\.qkv\.(scale|shift)$", r"blocks.\1.attn.tfts_\2_1"),
        (rf"{_BLOCK}frozen\.attn\.proj\.(scale|shift)$", r"blocks.\1.attn.tfts_\2_2"),
        (rf"{_BLOCK}frozen\.mlp\.fc1\.(scale|shift)$", r"blocks.\1.mlp.tfts_\2_1"),
        (rf"{_BLOCK}frozen\.mlp\.fc2\.(scale|shift)$", r"blocks.\1.mlp.tfts_\2_2"),
        (r"^backbone\.tokenizer\.project\.(scale|shift)$", r"tfts_\1_1"),
        (r"^backbone\.norm\.(scale|shift)$", r"tfts_\1_2"),
        (r"tfts_scale_", "tfts_gamma_"),
        (r"tfts_shift_", "tfts_beta_"),
        (rf"{_BLOCK}adapter\.norm\.", r"blocks.\1.Adapter_MLP.adapter_layer_norm_before."),
        (rf"{_BLOCK}adapter\.scale\.", r"blocks.\1.Adapter_MLP.scale."),
        (rf"{_BLOCK}adapter\.(down|up)\.", r"blocks.\1.Adapter_MLP.\2_proj."),
        (r"\.frozen\.", "."),
        (r"^backbone\.", ""),
        (r"^head\.layers\.", "cls_head_finetune."),
        *plain_renames(""),
    ),
)


def load_release(
    path: str | os.PathLike,
    *,
    num_groups: int,
    group_size: int,
    num_heads: int,
    head_tokens: Sequence[str],
) -> AdaptedModel:
    """A published DAPT model, whole. The arguments are what the shapes of its tensors hide."""
    source = os.fspath(path)
    state = read_state(path)
    size = _Sizes(state, source)
    dim = size("cls_token", -1)
    config = PointTransformerConfig(
        num_groups=num_groups,
        group_size=group_size,
        dim=dim,
        depth=size.count(r"blocks\.blocks\.(\d+)\."),
        num_heads=num_heads,
        mlp_ratio=size("blocks.blocks.0.mlp.fc1.weight", 0) // dim,
        encoder_dim=size("encoder.second_conv.3.weight", 0),
        encoder_widths=tuple(
            size(f"encoder.{layer}.weight", 0)
            for layer in ("first_conv.0", "first_conv.3", "second_conv.0")
        ),
    )
    head_inputs = size("cls_head_finetune.0.weight", 1)
    if head_inputs != dim * len(head_tokens):
        raise UsageError(
            f"head_tokens must name {head_inputs // dim} tokens, which the head of {source} "
            f"reads, got {list(head_tokens)}"
        )
    method = Dapt(
        rank=size("blocks.blocks.0.Adapter_MLP.down_proj.weight", 0), head_tokens=head_tokens
    )
    task = Classification(num_classes=size("cls_head_finetune.8.weight", 0))
    model = attach(config.build(), method, task)
    load_weights(model, path, (RELEASE,))
    return model.eval()


class _Sizes:
    """Sizes of a network, read off its tensors."""

    def __init__(self, state: State, source: str):
        self.state = state
        self.source = source

    def __call__(self, key: str, axis: int) -> int:
        if key not in self.state:
            raise DaptError(f"{self.source} is not a released DAPT model: '{key}' is missing")
        return self.state[key].shape[axis]

    def count(self, pattern: str) -> int:
        numbers = (re.match(pattern, key) for key in self.state)
        return 1 + max((int(number[1]) for number in numbers if number), default=-1)
