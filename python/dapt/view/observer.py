"""Apply a run's model to the clouds that are shown, with the settings of the run."""

from dataclasses import dataclass

import torch

from dapt.adapters import AdaptedModel
from dapt.data.clouds import upright
from dapt.errors import DataError, UsageError, listed
from dapt.runs.settings import Settings
from dapt.view.insight import Insight, look_at_cloud, look_at_room
from dapt.view.subjects import Subject


@dataclass(frozen=True)
class Observer:
    """A run's model, and how it is applied to clouds.

    Args:
        model: The trained model.
        settings: The settings of the run.
        category: The category of the objects, for part segmentation, if files do not name it.
        block: The side of a scene's blocks; by default that of the run.
        stride: The distance from one block to the next; by default half a block.
        up: The vertical axis in files; by default that of the run.
    """

    model: AdaptedModel
    settings: Settings
    category: str | None = None
    block: float | None = None
    stride: float | None = None
    up: str | None = None

    @property
    def is_for_rooms(self) -> bool:
        """Whether the model labels scenes."""
        return self.model.adapter.task.name == "semantic_segmentation"

    def up_of_files(self) -> str:
        """The vertical axis in files."""
        return self.up or self.settings.data.get("up", "z" if self.is_for_rooms else "y")

    def look(self, subject: Subject, is_sample: bool = False) -> Insight:
        """Run the model on a subject.

        Args:
            subject: A cloud or a room.
            is_sample: Whether it comes from a dataset and is therefore already normalized and cut.
        """
        num_points = self.settings.training.num_points
        normalize = bool(self.settings.data.get("normalize", True)) and not is_sample
        if self.is_for_rooms and not is_sample:
            block = self.block or float(self.settings.data.get("block", 1.0))
            stride = self.stride or block / 2
            grid = {"block": block, "stride": stride, "up": subject.up}
            return look_at_room(
                self.model, subject.points, num_points, normalize, **grid, where=subject.name
            )
        if len(subject.points) < num_points:
            raise DataError(
                f"{subject.name} has {len(subject.points)} points, and the network was trained on "
                f"{num_points}: give a denser cloud"
            )
        inputs = self._category(subject)
        points = upright(subject.points, subject.up)
        return look_at_cloud(self.model, points, num_points, normalize, *inputs)

    def _category(self, subject: Subject) -> tuple[torch.Tensor, ...]:
        task = self.model.adapter.task
        if task.name != "part_segmentation":
            return ()
        chosen = self.category or subject.truth
        if chosen not in task.category_names:
            wanted = f"choose one of {listed(task.category_names)}"
            raise UsageError(
                f"parts depend on the category: set --category, {wanted}"
                if chosen is None
                else f"unknown category '{chosen}': {wanted}"
            )
        return (torch.tensor([task.category_names.index(chosen)], device=self.model.device),)
