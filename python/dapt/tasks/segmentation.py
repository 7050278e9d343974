"""Labels for points: the parts of objects, the contents of scenes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dapt.data import PointDataset
from dapt.data.labels import IGNORED
from dapt.errors import UsageError, check_at_least, check_rates, listed
from dapt.models.ptv3 import Ptv3
from dapt.tasks.metrics import PartScores, PointScores, Scores
from dapt.tasks.scene_heads import DecoderSceneHead, LinearSceneHead, lovasz_loss
from dapt.tasks.segmentation_head import SegmentationHead, levels_of
from dapt.tasks.task import Task, names_or_numbers, set_names


@dataclass(frozen=True)
class PartSegmentation(Task):
    """Labels for the points of an object whose category is known.

    Args:
        num_classes: The number of object categories.
        num_parts: The number of point labels, over all categories.
        dropout: In the head.
        class_parts: The labels that each category has; all of them by default.
        class_names: The names of the categories; numbers by default.
        part_names: The names of the labels; numbers by default.
    """

    name: ClassVar[str] = "part_segmentation"
    metric: ClassVar[str] = "instance_miou"
    from_data: ClassVar[frozenset[str]] = frozenset(
        {"num_classes", "num_parts", "class_parts", "class_names", "part_names"}
    )
    labels_points: ClassVar[bool] = True
    evaluation_batch: ClassVar[int] = 8

    num_classes: int
    num_parts: int
    dropout: float = 0.5
    class_parts: tuple[tuple[int, ...], ...] | None = None
    class_names: tuple[str, ...] | None = None
    part_names: tuple[str, ...] | None = None

    def __post_init__(self):
        check_at_least(self, num_classes=1, num_parts=1)
        check_rates(self, "dropout")
        set_names(self, "class_names", "categories", self.num_classes)
        set_names(self, "part_names", "parts", self.num_parts)
        if self.class_parts is None:
            return
        class_parts = tuple(map(tuple, self.class_parts))
        object.__setattr__(self, "class_parts", class_parts)
        known = range(self.num_parts)
        if len(class_parts) != self.num_classes or not all(class_parts):
            raise UsageError(
                f"class_parts must list the parts of each of {self.num_classes} categories, "
                f"got {class_parts}"
            )
        for part in (part for parts in class_parts for part in parts if part not in known):
            raise UsageError(f"class_parts must lie in 0 to {self.num_parts - 1}, got {part}")

    @property
    def label_names(self) -> tuple[str, ...]:
        return names_or_numbers(self.part_names, self.num_parts)

    @property
    def category_names(self) -> tuple[str, ...]:
        """One name per category of objects."""
        return names_or_numbers(self.class_names, self.num_classes)

    @classmethod
    def of(cls, dataset: PointDataset, **fields) -> "PartSegmentation":
        _check_has_parts(cls, dataset)
        return cls(
            dataset.num_classes,
            dataset.num_parts,
            class_parts=dataset.class_parts,
            class_names=tuple(dataset.class_names),
            part_names=tuple(dataset.part_names),
            **fields,
        )

    def build_head(self, backbone: nn.Module, head_tokens: Sequence[str]) -> nn.Module:
        levels, token_dim = levels_of(backbone)
        return SegmentationHead(
            backbone.dim, self.num_parts, levels, self.num_classes, self.dropout, token_dim
        )

    def inputs(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        return (batch["labels"],)

    def loss(self, output: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        return _point_loss(output, batch["part_labels"])

    def own_parts(self, device: torch.device) -> Tensor:  # bool [categories, parts]
        """The parts that the objects of each category have.

        Args:
            device: Where to make the table.
        """
        own = torch.zeros(self.num_classes, self.num_parts, dtype=torch.bool, device=device)
        for category in range(self.num_classes):
            own[category, ... if self.class_parts is None else self.class_parts[category]] = True
        return own

    def scores(self, device: torch.device) -> Scores:
        return PartScores(self.category_names, self.own_parts(device))


@dataclass(frozen=True)
class SemanticSegmentation(Task):
    """Labels for the points of a scene.

    Args:
        num_classes: The number of point labels.
        dropout: In the head.
        weighted: Whether rare classes count more in the loss.
        class_weights: The weight of each class in the loss; from the training data by default.
        class_names: The names of the classes; numbers by default.
        head: auto, or for PTv3 encoders linear (one layer over all scales, the choice of auto) or
            decoder (the published one).
        decoder_depth: Blocks of each scale of the decoder.
        lovasz: Weight of the Lovász loss, a surrogate for the mean IoU, beside cross entropy.
    """

    name: ClassVar[str] = "semantic_segmentation"
    metric: ClassVar[str] = "miou"
    from_data: ClassVar[frozenset[str]] = frozenset({"num_classes", "class_weights", "class_names"})
    labels_points: ClassVar[bool] = True
    evaluation_batch: ClassVar[int] = 8

    num_classes: int
    dropout: float = 0.5
    weighted: bool = True
    class_weights: tuple[float, ...] | None = None
    class_names: tuple[str, ...] | None = None
    head: Literal["auto", "linear", "decoder"] = "auto"
    decoder_depth: int = 2
    lovasz: float = 0.0

    def __post_init__(self):
        check_at_least(self, num_classes=1, decoder_depth=0, lovasz=0)
        check_rates(self, "dropout")
        if self.head not in ("auto", "linear", "decoder"):
            raise UsageError(f"head must be auto, linear or decoder, got {self.head!r}")
        set_names(self, "class_names", "classes", self.num_classes)
        if self.class_weights is not None:
            weights = tuple(self.class_weights)
            object.__setattr__(self, "class_weights", weights)
            if len(weights) != self.num_classes or not all(weight >= 0 for weight in weights):
                raise UsageError(
                    f"class_weights must be {self.num_classes} numbers of at least 0, "
                    f"got {listed(weights)}"
                )

    @property
    def label_names(self) -> tuple[str, ...]:
        return names_or_numbers(self.class_names, self.num_classes)

    @classmethod
    def of(cls, dataset: PointDataset, weighted: bool = True, **fields) -> "SemanticSegmentation":
        """Weight each class by the cube root of how much rarer it is than the most common one."""
        _check_has_parts(cls, dataset)
        weights = None
        if weighted:
            counts = dataset.part_counts().clip(min=1)
            weights = tuple(((counts.max() / counts) ** (1 / 3)).tolist())
        return cls(
            dataset.num_parts,
            weighted=weighted,
            class_weights=weights,
            class_names=tuple(dataset.part_names),
            **fields,
        )

    def build_head(self, backbone: nn.Module, head_tokens: Sequence[str]) -> nn.Module:
        if isinstance(backbone, Ptv3):
            if self.head == "decoder":
                return DecoderSceneHead(backbone.config, self.num_classes, self.decoder_depth)
            return LinearSceneHead(backbone.config.dims, self.num_classes)
        if self.head != "auto":
            raise UsageError(
                f"head '{self.head}' reads the scales of a PTv3 encoder, and this backbone is a "
                f"{type(backbone).__name__}: use auto"
            )
        levels, token_dim = levels_of(backbone)
        return SegmentationHead(
            backbone.dim, self.num_classes, levels, dropout=self.dropout, token_dim=token_dim
        )

    def loss(self, output: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        weights = None if self.class_weights is None else output.new_tensor(self.class_weights)
        truth = batch["part_labels"]
        loss = _point_loss(output, truth, weights)
        if not self.lovasz:
            return loss
        return loss + self.lovasz * lovasz_loss(output.flatten(0, 1), truth.flatten(), IGNORED)

    def scores(self, device: torch.device) -> Scores:
        return PointScores(self.label_names, device)


def _point_loss(output: Tensor, truth: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross entropy of logits [B, N, P], without the points to ignore."""
    return F.cross_entropy(
        output.flatten(0, 1), truth.flatten(), weights, ignore_index=IGNORED, reduction="mean"
    )


def _check_has_parts(task: type[Task], dataset: PointDataset) -> None:
    if not dataset.num_parts:
        raise UsageError(
            f"task '{task.name}' needs one label per point, and the dataset has none: "
            "an npz file holds them as part_labels [S, N]"
        )
