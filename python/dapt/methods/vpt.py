"""Visual prompt tuning (ECCV 2022), deep: new learned tokens in front of every block."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dapt.errors import UsageError
from dapt.methods.method import Method, register
from dapt.methods.replacements import Replacements, own_class_token
from dapt.models.blocks import Block, widen_mask


@register("vpt")
@dataclass(frozen=True)
class Vpt(Method):
    """Learned tokens in front of the patches, new ones in each block.

    Args:
        prompts: The number of tokens in each block.
    """

    prompts: int = 10

    def __post_init__(self):
        if self.prompts < 1:
            raise UsageError(f"prompts must be at least 1, got {self.prompts}")

    def kin(self) -> "Vpt":
        return self

    def owns(self, entry: str) -> bool:
        own = {"prompt_tokens", "prompt_token_positions", "cls_token", "cls_pos"}
        return not own.isdisjoint(entry.split("."))

    def wrap(self, backbone: nn.Module, replacements: Replacements) -> None:
        own_class_token(backbone, replacements)
        for stack in backbone.stacks:
            for i, block in enumerate(list(stack)):
                wrapped = PromptedBlock(block, self.prompts, backbone.num_class_tokens)
                replacements.put(stack, str(i), wrapped)


class PromptedBlock(nn.Module):
    """A frozen block that inserts learned tokens with learned positions and drops them afterward.

    Args:
        frozen: The backbone's block.
        prompts: The number of learned tokens.
        prompt_at: The index among the tokens at which they are inserted.
    """

    def __init__(self, frozen: Block, prompts: int, prompt_at: int):
        super().__init__()
        self.dim = frozen.dim
        self.frozen = frozen
        self.prompt_at = prompt_at
        self.prompt_tokens = nn.Parameter(torch.empty(prompts, frozen.dim))
        self.prompt_token_positions = nn.Parameter(torch.empty(prompts, frozen.dim))
        nn.init.trunc_normal_(self.prompt_tokens, std=0.02)
        nn.init.trunc_normal_(self.prompt_token_positions, std=0.02)

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self._insert(x, self.prompt_tokens)  # [B, T + P, C]
        positions = self._insert(positions, self.prompt_token_positions)
        x = self.frozen(x, positions, widen_mask(mask, x.shape[1]))
        at = self.prompt_at
        return torch.cat([x[:, :at], x[:, at + self.prompt_tokens.shape[-2] :]], 1)

    def _insert(self, x: Tensor, rows: Tensor) -> Tensor:
        rows = rows.to(x.dtype).expand(x.shape[0], -1, -1)
        return torch.cat([x[:, : self.prompt_at], rows, x[:, self.prompt_at :]], 1)
