"""A trained model that accepts raw clouds and files."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from dapt.adapters import AdaptedModel
from dapt.adapters.attach import loaded_into
from dapt.data.channels import beside, taken_apart
from dapt.data.preprocessing import Preprocessing
from dapt.errors import DataError, UsageError
from dapt.inference import labeling, prediction
from dapt.inference.prediction import Cloud

File = str | os.PathLike
Clouds = File | np.ndarray | Tensor | Iterable["File | np.ndarray | Tensor"]


@dataclass(frozen=True)
class Answer:
    """The prediction for one cloud.

    Args:
        where: The file, or the number of the array.
        label: The label of the cloud; if points are labeled, the most frequent label.
        probabilities: The probability of each class; if points are labeled, each label's share of
            the points.
        point_labels: The label of each point, int64 [N], if points are labeled.
        point_probabilities: The probability of each point's label, float32 [N].
    """

    where: str
    label: str
    probabilities: dict[str, float]
    point_labels: np.ndarray | None = None
    point_probabilities: np.ndarray | None = None

    @property
    def probability(self) -> float:
        """The probability of the label."""
        return self.probabilities[self.label]


class TrainedModel(AdaptedModel):
    """A model that knows how the clouds of its training were prepared.

    `predict` accepts raw clouds and prepares them in the same way. `model(points)` is the network
    itself, for clouds that are already prepared.
    """

    fallback: Preprocessing | None = None  # for adapter files that do not record it

    @property
    def preprocessing(self) -> Preprocessing:
        """How the training clouds of the active adapter were prepared."""
        known = self.adapter.preprocessing or self.fallback
        if known is None:
            raise UsageError(
                "the adapter's file does not record how its training clouds were prepared: prepare "
                "clouds yourself and call the model, or save it with preprocessing="
            )
        return known

    def predict(
        self,
        clouds: Clouds,
        *,
        votes: int = 1,
        seed: int = 0,
        category: str | None = None,
        block: float | None = None,
        stride: float | None = None,
    ) -> list[Answer]:
        """Predict each cloud.

        Args:
            clouds: A file of points, an array [N, D] or [S, N, D] with D of 3, 6 (with color) or
                9 (with color and normal), or an iterable of these.
            votes: The number of views of each cloud to average over, for models that label whole
                clouds.
            seed: The seed of the views.
            category: The category of the objects, for part segmentation.
            block: The side of a scene's blocks; by default that of the training.
            stride: The distance from one block to the next; half a block by default.
        """
        trained = self.preprocessing
        named = named_clouds(clouds, trained)
        if not self.adapter.task.labels_points:
            found = prediction.predict(self, named, trained, votes, seed)
            return [Answer(e["file"], e["label"], e["probabilities"]) for e in found]
        if votes > 1:
            raise UsageError("votes are for models that label whole clouds, and not points")
        return [
            answer_of(scan) for scan in label_points(self, named, trained, category, block, stride)
        ]


def label_points(
    model: AdaptedModel,
    clouds: Iterable[Cloud],
    trained: Preprocessing,
    category: str | None = None,
    block: float | None = None,
    stride: float | None = None,
) -> Iterator[labeling.Scan]:
    """Label the points of objects or of scenes, whichever the model knows.

    Args:
        model: The trained model.
        clouds: The clouds to label.
        trained: How the training clouds were prepared.
        category: The category of the objects, for part segmentation.
        block: The side of a scene's blocks; by default that of the training.
        stride: The distance from one block to the next; half a block by default.
    """
    if model.adapter.task.name == "part_segmentation":
        return labeling.label_objects(model, clouds, trained, category)
    return labeling.label_rooms(model, clouds, trained, *sides(trained, block, stride))


def sides(trained: Preprocessing, block: float | None, stride: float | None) -> tuple[float, float]:
    """(block, stride) for scenes.

    Args:
        trained: How the training scenes were prepared.
        block: The side of a block; None for that of the training.
        stride: The distance from one block to the next; None for half a block.
    """
    block = block or trained.block or 1.0
    return block, stride or block / 2


def answer_of(scan: labeling.Scan) -> Answer:
    """Summarize a cloud whose points are labeled.

    Args:
        scan: The labeled cloud.
    """
    shares = dict.fromkeys(scan.label_names, 0.0) | scan.shares()
    labels, chances = scan.result
    return Answer(scan.where, max(shares, key=shares.__getitem__), shares, labels, chances)


def named_clouds(clouds: Clouds, trained: Preprocessing) -> Iterator[Cloud]:
    """Yield (name, points [N, D]) of files and arrays, with the columns that the network reads.

    Args:
        clouds: A file, an array, or an iterable of these.
        trained: How the training clouds were prepared.
    """
    if isinstance(clouds, File):
        yield from prediction.clouds_of(clouds, trained.channels)
    elif isinstance(clouds, np.ndarray | Tensor):
        array = clouds.detach().cpu().numpy() if isinstance(clouds, Tensor) else clouds
        if array.ndim == 2:
            yield "the cloud", _told("the cloud", array, trained)
        elif array.ndim == 3:
            for row, cloud in enumerate(array):
                yield f"cloud {row}", _told(f"cloud {row}", cloud, trained)
        else:
            raise DataError(f"clouds must be [N, D] or [S, N, D], got {list(array.shape)}")
    elif isinstance(clouds, Iterable):
        for row, each in enumerate(clouds):
            for where, points in named_clouds(each, trained):
                yield f"cloud {row}" if where == "the cloud" else where, points
    else:
        raise UsageError(f"clouds must be files or arrays of points, got a {type(clouds).__name__}")


def _told(where: str, cloud: np.ndarray, trained: Preprocessing) -> np.ndarray:  # [N, D]
    own = trained.channels if cloud.shape[1] == trained.columns else None
    named = own or {3: "xyz", 6: "color", 9: "normal"}.get(cloud.shape[1])
    if named is None or cloud.dtype.kind not in "fiu":
        more = f", or [N, 4] with {trained.channels}" if trained.columns == 4 else ""
        raise DataError(
            f"{where} must be numbers [N, 3], [N, 6] with color or [N, 9] with color and normal"
            f"{more}, got {cloud.dtype} {list(cloud.shape)}"
        )
    known = beside(where, trained.channels, len(cloud), taken_apart(named, cloud[:, 3:]))
    return np.concatenate([cloud[:, :3], known], 1)


def load_adapter(
    folder: str | os.PathLike, backbone: nn.Module, name: str = "default"
) -> TrainedModel:
    """Adapt a backbone with the files that `AdaptedModel.save_adapter` wrote.

    The model's `predict` prepares raw clouds as the training did; calling the model runs the
    network on clouds that are already prepared.

    Args:
        folder: The folder with adapter_config.json and adapter_model.safetensors.
        backbone: The pre-trained network that the adapter was trained on.
        name: The name of the adapter in the model.
    """
    return loaded_into(TrainedModel(backbone), Path(folder), name)
