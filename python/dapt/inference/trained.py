"""A trained model that takes clouds as its user has them."""

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
    """What a model says of one cloud.

    Args:
        where: The file, or the number of the array.
        label: Of the cloud; of a scene or an object whose points are labeled, that of most points.
        probabilities: Of each class; where points are labeled, each label's share of the points.
        point_labels: int64 [N], where points are labeled.
        point_probabilities: float32 [N], of the points' labels.
    """

    where: str
    label: str
    probabilities: dict[str, float]
    point_labels: np.ndarray | None = None
    point_probabilities: np.ndarray | None = None

    @property
    def probability(self) -> float:
        """Of the label."""
        return self.probabilities[self.label]


class TrainedModel(AdaptedModel):
    """A model that knows what was done to the clouds of its training.

    `predict` takes clouds as they are in files, and does the same to them. `model(points)` is the
    raw network, for clouds that were made ready.
    """

    fallback: Preprocessing | None = None  # of files that do not say

    @property
    def preprocessing(self) -> Preprocessing:
        """What was done to the clouds that the active adapter was trained on."""
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
        """What the model says of each cloud.

        Args:
            clouds: A file of points, an array [N, D] or [S, N, D] with D of 3, 6 (with color) or
                9 (with color and normal), or any number of these.
            votes: Views of a cloud to average over, for models that label whole clouds.
            seed: Of the views.
            category: Of objects whose parts are labeled.
            block: Side of a scene's blocks; the training's by default.
            stride: From block to block; half a block by default.
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
        model: the trained model.
        clouds: to be labeled.
        trained: what the clouds of the training went through.
        category: of objects.
        block: side of a block of a scene; the training's by default.
        stride: from block to block; half a block by default.
    """
    if model.adapter.task.name == "part_segmentation":
        return labeling.label_objects(model, clouds, trained, category)
    return labeling.label_rooms(model, clouds, trained, *sides(trained, block, stride))


def sides(trained: Preprocessing, block: float | None, stride: float | None) -> tuple[float, float]:
    """(block, stride) of scenes: those that are asked for, the training's, half a block.

    Args:
        trained: What was done to the training's scenes.
        block: Side of a block, None for the training's.
        stride: From one to the next, None for half a block.
    """
    block = block or trained.block or 1.0
    return block, stride or block / 2


def answer_of(scan: labeling.Scan) -> Answer:
    """What was said of a cloud whose points were labeled.

    Args:
        scan: The cloud.
    """
    shares = dict.fromkeys(scan.label_names, 0.0) | scan.shares()
    labels, chances = scan.result
    return Answer(scan.where, max(shares, key=shares.__getitem__), shares, labels, chances)


def named_clouds(clouds: Clouds, trained: Preprocessing) -> Iterator[Cloud]:
    """(name, points [N, D]) of whatever a user has, with the columns that the network reads.

    Args:
        clouds: a file, an array, or several of either.
        trained: what the clouds of the training went through.
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
    """Adapt a backbone by the files of `AdaptedModel.save_adapter`.

    The model's `predict` makes clouds ready as the training did; calling it is the raw network.

    Args:
        folder: Of adapter_config.json and adapter_model.safetensors.
        backbone: The pre-trained network that the adapter belongs to.
        name: What the adapter is called in the model.
    """
    return loaded_into(TrainedModel(backbone), Path(folder), name)
