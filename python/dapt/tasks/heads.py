"""Classification heads, and the pooled features they read."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dapt.errors import UsageError
from dapt.models.transformer import Features


def _all(features: Features) -> Tensor:
    tokens = [] if features.cls is None else [features.cls[:, None]]
    return torch.cat([*tokens, features.prompts, features.patches], 1)


_POOLS = {
    "all:mean": lambda features: _all(features).mean(1),
    "rest:max": lambda features: torch.cat([features.prompts, features.patches], 1).amax(1),
    "cls": lambda features: features.cls,
    "prompt:mean": lambda features: features.prompts.mean(1),
    "prompt:max": lambda features: features.prompts.amax(1),
    "patch:mean": lambda features: features.patch_mean,
    "patch:max": lambda features: features.patch_max,
    "patch:last": lambda features: features.patches[:, -1],
    "start|patch:max": lambda features: features.patches.amax(1).maximum(features.start),
    "image:max": lambda features: features.image.amax(1),
    "text:max": lambda features: features.text.amax(1),
    "patch:max_but_first": lambda features: features.patches[:, 1:].amax(1),
}


class Pool(nn.Module):
    """Selects the head tokens from the features.

    Args:
        head_tokens: Their names, each of which may be a sum ``"a+b"``.
    """

    def __init__(self, head_tokens: Sequence[str]):
        super().__init__()
        if isinstance(head_tokens, str) or not head_tokens:
            raise UsageError(f"head_tokens must be a list of names, got {head_tokens!r}")
        for name in "+".join(head_tokens).split("+"):
            if name not in _POOLS:
                known = ", ".join(_POOLS)
                raise UsageError(f"head_tokens: unknown name '{name}'; choose from {known}")
        self.head_tokens = tuple(head_tokens)

    def forward(self, features: Features) -> Tensor:  # [B, len(head_tokens) * C]
        return torch.cat([self._pool(features, names) for names in self.head_tokens], 1)

    @staticmethod
    def _pool(features: Features, names: str) -> Tensor:
        return sum(_POOLS[name](features) for name in names.split("+"))

    def extra_repr(self) -> str:
        return ", ".join(self.head_tokens)


class ClassificationHead(nn.Module):
    """Layers from pooled tokens to logits.

    Args:
        dim: C, the width of the tokens.
        num_classes: The number of logits.
        head_tokens: The tokens that `Pool` selects.
        style: The paper that the layers follow: "point_mae", "point_bert", "ppt" (whose activations
            are GELU) or "linear".
        hidden: Units of each layer.
        dropout: The dropout rate after each layer.
    """

    levels = ()  # intermediate features of the backbone that this head reads

    def __init__(
        self,
        dim: int,
        num_classes: int,
        head_tokens: Sequence[str],
        style: str = "point_mae",
        hidden: int = 256,
        dropout: float = 0.5,
    ):
        super().__init__()
        self.pool = Pool(head_tokens)
        in_dim = dim * len(head_tokens)
        if style in ("point_mae", "ppt"):
            activation = nn.ReLU if style == "point_mae" else nn.GELU
            self.layers = nn.Sequential(
                *(
                    nn.Linear(in_dim, hidden),
                    nn.BatchNorm1d(hidden),
                    activation(),
                    nn.Dropout(dropout),
                ),
                *(
                    nn.Linear(hidden, hidden),
                    nn.BatchNorm1d(hidden),
                    activation(),
                    nn.Dropout(dropout),
                ),
                nn.Linear(hidden, num_classes),
            )
        elif style == "point_bert":
            self.layers = nn.Sequential(
                *(nn.Linear(in_dim, hidden), nn.ReLU(), nn.Dropout(dropout)),
                nn.Linear(hidden, num_classes),
            )
        elif style == "linear":
            self.layers = nn.Sequential(nn.Linear(in_dim, num_classes))
        else:
            raise UsageError(
                f"head must be 'point_mae', 'point_bert', 'ppt' or 'linear', got {style!r}"
            )

    def forward(self, features: Features, points: Tensor) -> Tensor:  # [B, num_classes]
        return self.layers(self.pool(features))
