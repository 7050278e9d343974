"""A model's view of a cloud: its prediction, and what happens at its tokens.

Vocabulary: N points, L blocks, T tokens in all passes over the cloud, G patches in one pass,
C channels.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

import dapt_ext
from dapt.adapters import AdaptedModel
from dapt.data.clouds import check_cloud, unit_ball, upright
from dapt.errors import UsageError
from dapt.inference.rooms import label_room, probabilities
from dapt.inference.score import log_probabilities
from dapt.methods.dapt import DynamicAdapter
from dapt.models import Features
from dapt.models.blocks import Attention


class Watch:
    """A context that records what the passes through a model compute at its patches.

    For a network with several stacks of blocks, only features are recorded. Passes that other
    threads make through the same model are recorded, too.

    Args:
        model: A trained model.
    """

    def __init__(self, model: AdaptedModel):
        self.model = model
        self.features: Features | None = None
        self._scales: list[Tensor] = []
        self._attention: list[Tensor] = []
        self._hooks: list = []

    def __enter__(self) -> "Watch":
        self._hooks = [self.model.head.register_forward_pre_hook(self._keep_features)]
        if len(getattr(self.model.backbone, "stacks", ())) != 1:
            return self
        for module in self.model.backbone.modules():
            if isinstance(module, DynamicAdapter):
                self._hooks.append(module.register_forward_pre_hook(self._keep_scales))
            whole = isinstance(module, Attention) and not getattr(module, "causal", False)
            if whole and self.model.backbone.num_class_tokens:
                keep = partial(self._keep_attention, module.num_heads)
                self._hooks.append(module.qkv.register_forward_hook(keep))
        return self

    def __exit__(self, *_) -> None:
        for hook in self._hooks:
            hook.remove()

    def _keep_features(self, head: nn.Module, inputs: tuple) -> None:
        self.features = inputs[0]

    def _keep_scales(self, adapter: DynamicAdapter, inputs: tuple) -> None:
        tokens = inputs[0]  # [B, tokens, C]
        self._scales.append(adapter.scale(adapter.norm(tokens)).relu()[..., 0])

    def _keep_attention(self, num_heads: int, _: nn.Module, __: tuple, qkv: Tensor) -> None:
        """Record the attention of the class token to each token, averaged over the heads."""
        B, tokens, width = qkv.shape
        query, key, _ = qkv.view(B, tokens, 3, num_heads, -1).unbind(2)
        logits = torch.einsum("bhd,bthd->bht", query[:, 0], key) * query.shape[-1] ** -0.5
        self._attention.append(logits.softmax(-1).mean(1))

    @property
    def centers(self) -> Tensor:  # [B, G, 3]
        """The centers of the patches in the last pass."""
        return self.features.centers

    def take_scales(self) -> Tensor | None:
        """The dynamic adapters' scales of the last pass [L, B, G]."""
        return self._take(self._scales)

    def take_attention(self) -> Tensor | None:
        """The class token's attention in the last pass [L, B, G]."""
        return self._take(self._attention)

    def _take(self, kept: list[Tensor]) -> Tensor | None:
        if not kept:
            return None
        G = self.centers.shape[1]
        stacked = torch.stack([tokens[:, -G:] for tokens in kept]).float()
        kept.clear()
        return stacked


@torch.no_grad()
def token_scales(model: AdaptedModel, points: Tensor) -> Tensor:  # [B, N, 3] -> [L, B, N]
    """The dynamic adapters' scale at each point and block [L, B, N], from the nearest patch.

    Args:
        model: A plain transformer with dynamic adapters.
        points: [B, N, 3].
    """
    was_training = model.training
    model.eval()
    try:
        with Watch(model) as watch:
            features = model.features(points)
            watch.features = features
            scales = watch.take_scales()
    finally:
        model.train(was_training)
    if scales is None:
        raise UsageError("token scales are those of a plain transformer's dynamic adapters")
    _, nearest = dapt_ext.knn(points, features.centers, 1)  # [B, N, 1]
    return scales.gather(2, nearest[..., 0].expand(len(scales), -1, -1))


@dataclass
class Insight:
    """A model's view of one cloud.

    Args:
        token: The token whose patch is nearest to each point, int64 [N].
        scales: The dynamic adapters' scales, float32 [L, T].
        attention: The class token's attention to each token, as shares, float32 [L, T].
        probabilities: The class probabilities of the whole cloud, float32 [classes].
        labels: The predicted label of each point, int64 [N].
        confidence: The probability of each point's label, float32 [N].
    """

    token: np.ndarray
    scales: np.ndarray | None = None
    attention: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    labels: np.ndarray | None = None
    confidence: np.ndarray | None = None


@torch.no_grad()
def look_at_cloud(
    model: AdaptedModel, points: np.ndarray, num_points: int, normalize: bool, *inputs: Tensor
) -> Insight:
    """Predict a label for an upright cloud [N, 3], or for each of its points.

    Args:
        model: The model.
        points: At least `num_points` points.
        num_points: The number of points that the network reads.
        normalize: Whether the cloud is scaled to the unit ball.
        inputs: Further inputs of the head, each [1].
    """
    check_cloud("the cloud", points, num_points)
    model.eval()
    seen = _as_seen(points, normalize)
    cloud = torch.from_numpy(seen).to(model.device)[None]
    with Watch(model) as watch:
        if model.adapter.task.labels_points:
            chances = probabilities(model, points, num_points, normalize, *inputs)
            insight = _of_points(model, chances, *inputs)
        else:
            generator = torch.Generator().manual_seed(0)
            logs = log_probabilities(model, {"points": cloud}, num_points, 1, generator)
            insight = Insight(np.zeros(0), probabilities=logs[0].exp().cpu().numpy())
        insight.token = _nearest(cloud, watch.centers)
        insight.scales = _numbers(watch.take_scales())
        insight.attention = _numbers(watch.take_attention())
    return insight


def _of_points(model: AdaptedModel, chances: np.ndarray, *inputs: Tensor) -> Insight:
    """Choose labels by the probabilities [N, labels], among the parts that the category has."""
    task = model.adapter.task
    if inputs:
        own = task.own_parts(torch.device("cpu"))[int(inputs[0])].numpy()
        chances = np.where(own, chances, 0)
        chances = chances / np.maximum(chances.sum(1, keepdims=True), np.finfo(np.float32).tiny)
    return Insight(np.zeros(0), labels=chances.argmax(1), confidence=chances.max(1))


@dataclass
class _Blocks:
    """The tokens of all blocks of a room; a point belongs to the block with the nearest center."""

    points: np.ndarray
    up: str
    normalize: bool
    watch: Watch
    token: np.ndarray = field(init=False)
    away: np.ndarray = field(init=False)
    scales: list[np.ndarray] = field(default_factory=list)
    attention: list[np.ndarray] = field(default_factory=list)
    tokens: int = 0

    def __post_init__(self):
        self.token = np.zeros(len(self.points), np.int64)
        self.away = np.full(len(self.points), np.inf)
        self.ground = np.delete(self.points, "xyz".index(self.up), axis=1)  # [N, 2]

    def add(self, index: np.ndarray) -> None:
        ground = self.ground[index]
        middle = (ground.min(0) + ground.max(0)) / 2
        away = np.abs(ground - middle).max(1)
        closer = away < self.away[index]
        own = index[closer]
        cloud = _as_seen(upright(self.points[index], self.up), self.normalize)[closer]
        if len(own):
            here = torch.from_numpy(cloud).to(self.watch.centers.device)[None]
            self.token[own] = self.tokens + _nearest(here, self.watch.centers)
            self.away[own] = away[closer]
        for kept, taken in (
            (self.scales, self.watch.take_scales()),
            (self.attention, self.watch.take_attention()),
        ):
            if taken is not None:
                kept.append(_numbers(taken))
        self.tokens += self.watch.centers.shape[1]


def look_at_room(
    model: AdaptedModel,
    points: np.ndarray,
    num_points: int,
    normalize: bool,
    block: float,
    stride: float,
    up: str,
    where: str = "the room",
    after_block: Callable[[np.ndarray], None] = lambda index: None,
) -> Insight:
    """Predict the labels of a scene of any size, block by block.

    Args:
        model: A model that labels points.
        points: [N, 3].
        num_points: The number of points per block that the network reads.
        normalize: Whether each block is scaled to the unit ball.
        block: The side of a square block, in the scene's unit.
        stride: The distance from one block to the next.
        up: The vertical axis.
        where: The name of the scene in errors.
        after_block: Called with the indices of a block's points after each block.
    """
    with Watch(model) as watch:
        blocks = _Blocks(points, up, normalize, watch)

        def look(index: np.ndarray) -> None:
            blocks.add(index)
            after_block(index)

        result = label_room(
            model, points, num_points, block, stride, up, normalize, where, after_block=look
        )
    return Insight(
        token=blocks.token,
        scales=np.concatenate(blocks.scales, 1) if blocks.scales else None,
        attention=np.concatenate(blocks.attention, 1) if blocks.attention else None,
        labels=result.labels,
        confidence=result.confidence,
    )


def _as_seen(points: np.ndarray, normalize: bool) -> np.ndarray:
    points = np.asarray(points, np.float64)
    return (unit_ball(points) if normalize else points).astype(np.float32)


def _nearest(cloud: Tensor, centers: Tensor) -> np.ndarray:  # [1, N, 3], [1, G, 3] -> [N]
    _, nearest = dapt_ext.knn(cloud, centers.float(), 1)
    return nearest[0, :, 0].cpu().numpy()


def _numbers(values: Tensor | None) -> np.ndarray | None:  # [L, 1, G] -> [L, G]
    return None if values is None else values[:, 0].cpu().numpy()
