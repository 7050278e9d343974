"""DAPT (CVPR 2024): dynamic adapters, scale and shift (TFTS) and internal prompts."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import dapt_ext
from dapt.errors import UsageError
from dapt.methods.method import Method, is_packed, register
from dapt.methods.replacements import BATCH_NORM_STATISTICS, Replacements, own_class_token
from dapt.methods.scale_shift import ScaleShift, put_scale_shift
from dapt.models.blocks import Block, widen_mask
from dapt.models.drop_path import drop_path_factor, drop_path_rates, of_kept


@register("dapt")
@dataclass(frozen=True)
class Dapt(Method):
    """Dynamic adapters beside the MLPs, scales and shifts after frozen layers, and prompts.

    The prompts are means of the adapters' outputs.

    Args:
        rank: r, hidden units per adapter.
        dropout: The dropout rate inside the adapters.
        drop_path: The drop-path rate of the last block; it grows from 0 in the first.
        head_tokens: What the head reads; None for the backbone's own tokens and the mean of the
            prompts.
        freeze_bn: False lets batch norms update their statistics, as in the published code.
        positions: Where the positions are added: "once", before the first block, as published, or
            in "each_block", as most backbones do in their pre-training.
        memory: "low" keeps only the inputs of blocks and recomputes the rest in the backward.
    """

    packs: ClassVar[bool] = True

    rank: int = 64
    dropout: float = 0.2
    drop_path: float = 0.3
    head_tokens: tuple[str, ...] | None = None
    freeze_bn: bool = True
    positions: Literal["once", "each_block"] = "once"
    memory: Literal["default", "low"] = "default"

    def __post_init__(self):
        if not 1 <= self.rank <= 256:
            raise UsageError(f"rank must be from 1 to 256, got {self.rank}")
        for name in ("dropout", "drop_path"):
            rate = getattr(self, name)
            if not 0 <= rate < 1:
                raise UsageError(f"{name} must be at least 0 and below 1, got {rate}")
        if self.positions not in ("once", "each_block"):
            raise UsageError(f"positions must be 'once' or 'each_block', got '{self.positions}'")
        if self.memory not in ("default", "low"):
            raise UsageError(f"memory must be 'default' or 'low', got '{self.memory}'")
        if self.head_tokens is not None:
            object.__setattr__(self, "head_tokens", tuple(self.head_tokens))

    def head_tokens_for(self, backbone: nn.Module) -> tuple[str, ...]:
        own = backbone.head_tokens
        if is_packed(backbone):
            if any("prompt" in name for name in self.head_tokens or ()):
                raise UsageError(f"head_tokens: {type(backbone).__name__} takes no prompts to read")
            return self.head_tokens or own
        if self.head_tokens is not None:
            return self.head_tokens
        n = own.count("cls")  # the class token comes first
        return (*own[:n], "prompt:mean", *own[n:])

    def kin(self) -> "Dapt":
        return replace(self, dropout=0.0, drop_path=0.0, memory="default", head_tokens=None)

    def owns(self, entry: str) -> bool:
        words = entry.split(".")
        if words[-1] in BATCH_NORM_STATISTICS:
            return not self.freeze_bn
        return not {"adapter", "scale", "shift", "cls_token", "cls_pos"}.isdisjoint(words)

    def wrap(self, backbone: nn.Module, replacements: Replacements) -> None:
        own_class_token(backbone, replacements)
        for tokenizer in backbone.tokenizers:
            put_scale_shift(replacements, tokenizer, "project")
        put_scale_shift(replacements, backbone, "norm")

        rates = iter(drop_path_rates(self.drop_path, sum(map(len, backbone.stacks))))
        for stack in backbone.stacks:
            for i, block in enumerate(list(stack)):
                put_scale_shift(replacements, block, "norm1", "norm2")
                put_scale_shift(replacements, block.attn, "qkv", "proj")
                put_scale_shift(replacements, block.mlp, "fc1", "fc2")
                # A prompt from the last block of an inner scale would reach nothing.
                reaches = stack is backbone.stacks[-1] or i < len(stack) - 1
                with_prompt = reaches and not is_packed(backbone)
                wrapped = DaptBlock(
                    block,
                    self,
                    drop_path=next(rates),
                    add_positions=i == 0 or block.own_positions or self.positions != "once",
                    prompt_at=backbone.num_class_tokens,
                    with_prompt=with_prompt,
                )
                replacements.put(stack, str(i), wrapped)
        if not self.freeze_bn:
            replacements.own_batch_norm_statistics(backbone)


class DynamicAdapter(nn.Module):
    """A bottleneck beside the frozen MLP, scaled token by token.

    Args:
        dim: C, the width of the tokens.
        rank: Hidden units.
        dropout: The dropout rate, on the hidden units.
        memory: As in `Dapt`: "low" recomputes in the backward pass instead of keeping.
    """

    def __init__(self, dim: int, rank: int, dropout: float, memory: str):
        super().__init__()
        self.dropout = dropout
        self.memory = memory
        self.norm = nn.LayerNorm(dim)
        self.scale = nn.Linear(dim, 1)
        self.down = nn.Linear(dim, rank)
        self.up = nn.Linear(rank, dim)
        for linear in (self.scale, self.down):
            nn.init.kaiming_uniform_(linear.weight, a=math.sqrt(5))
        nn.init.zeros_(self.up.weight)
        for linear in (self.scale, self.down, self.up):
            nn.init.zeros_(linear.bias)

    def forward(
        self, x: Tensor, mlp_out: Tensor, residual: Tensor, path_factor: Tensor | None, prompt: bool
    ) -> tuple[Tensor, Tensor | None]:
        """residual + path_factor * (mlp_out + adapter(x)), and mean over tokens of GELU(adapter)"""
        return dapt_ext.dynamic_adapter(
            x,
            self.down.weight,
            self.down.bias,
            self.up.weight,
            self.up.bias,
            norm_weight=self.norm.weight,
            norm_bias=self.norm.bias,
            scale_weight=self.scale.weight,
            scale_bias=self.scale.bias,
            mlp_out=mlp_out,
            residual=residual,
            path_factor=path_factor,
            dropout=self.dropout,
            training=self.training,
            prompt=prompt,
            eps=self.norm.eps,
            memory=self.memory,
        )


class DaptBlock(nn.Module):
    """A frozen block with an adapter in its second half, which adds one prompt token.

    Args:
        frozen: The backbone's block, whose layers already carry their scale and shift.
        config: The settings of the method.
        drop_path: Rate of this block.
        add_positions: Whether the block adds the positions, to all tokens but the prompts.
        prompt_at: Where among the tokens the prompts are inserted.
        with_prompt: Whether this block inserts one.
    """

    def __init__(
        self,
        frozen: Block,
        config: Dapt,
        drop_path: float,
        add_positions: bool,
        prompt_at: int,
        with_prompt: bool,
    ):
        super().__init__()
        self.dim = dim = frozen.dim
        self.frozen = frozen  # its layers already carry their scale and shift
        self.adapter = DynamicAdapter(dim, config.rank, config.dropout, config.memory)
        self.prompt = ScaleShift(dim) if with_prompt else None
        self.prompt_at = prompt_at
        self.drop_path = drop_path
        self.add_positions = add_positions
        self.keeps_only_input = config.memory == "low"

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.place(x, positions)
        if self.keeps_only_input and torch.is_grad_enabled():
            return checkpoint(self._run, x, mask, use_reentrant=False)
        return self._run(x, mask)

    def place(self, x: Tensor, positions: Tensor) -> Tensor:
        """The tokens, with their positions if this block adds them.

        Args:
            x: [B, T + P, C], with the P prompts of the blocks before.
            positions: [B, T, C].
        """
        if not self.add_positions:
            return x
        prompts = x.shape[1] - positions.shape[1]
        if prompts and not self.frozen.own_positions:
            none = positions.new_zeros(positions.shape[0], prompts, self.dim)
            before, after = positions.tensor_split([self.prompt_at], 1)
            positions = torch.cat([before, none, after], 1)
        return self.frozen.place(x, positions)

    def attend(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The first half."""
        return self.frozen.attend(x, widen_mask(mask, x.shape[1]), self._path_factor(x))

    def transform(self, x: Tensor) -> Tensor:  # [B, T, C] -> [B, T + 1, C]
        """The second half, with the adapter beside the MLP and one more prompt."""
        block, factor, with_prompt = self.frozen, self._path_factor(x), self.prompt is not None
        u = block.norm2(x)
        x, mean = self.adapter(u, of_kept(block.mlp, u, factor), x, factor, with_prompt)
        if self.prompt is None:
            return x
        prompt = self.prompt(mean)[:, None]
        before, after = x.split([self.prompt_at, x.shape[1] - self.prompt_at], 1)
        return torch.cat([before, prompt, after], 1)

    def _run(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self.transform(self.attend(x, mask))

    def _path_factor(self, x: Tensor) -> Tensor | None:
        return drop_path_factor(x, self.drop_path, self.training)
