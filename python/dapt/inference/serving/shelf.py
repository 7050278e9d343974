"""The adapters that a server offers, by name."""

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dapt.adapters import adapter_files
from dapt.adapters.attachment import Attachment
from dapt.data.preprocessing import Preprocessing
from dapt.errors import DaptError, UsageError, listed, shown
from dapt.inference.serving.limits import Refused
from dapt.inference.trained import TrainedModel
from dapt.models import Features

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, eq=False)
class Served:
    """A served adapter. A request that holds it can finish even if it is unloaded.

    It has the interface that the labeling functions need of a model, with a fixed adapter.

    Args:
        name: Its name in requests.
        model: The model that carries it, along with others on the same backbone.
        adapter: The adapter.
        preprocessing: How its training clouds were prepared.
    """

    name: str
    model: TrainedModel
    adapter: Attachment
    preprocessing: Preprocessing

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return self.model.device

    def eval(self) -> "Served":
        """Return itself: it is always in eval mode."""
        return self

    def features(self, points: Tensor) -> Features:  # [B, N, D]
        """The features of clouds in the adapted network.

        Args:
            points: [B, N, D].
        """
        return self.adapter.features(points)

    def describe(self) -> dict[str, object]:
        """Describe the adapter to clients."""
        task, trained = self.adapter.task, self.preprocessing
        return {
            "name": self.name,
            "method": self.adapter.method.name,
            "task": task.name,
            "labels": list(task.label_names),
            "labels_points": task.labels_points,
            "categories": list(getattr(task, "category_names", ())),
            "num_points": trained.num_points,
            "channels": trained.channels,
        }


class Shelf:
    """Adapters by name, which may be loaded and unloaded while others are in use.

    Args:
        folder: The folder whose subfolders are adapters that may be loaded by name; None to forbid
            loading.
    """

    def __init__(self, folder: Path | None = None):
        if folder is not None and not folder.is_dir():
            raise UsageError(f"{folder} is not a folder of adapters")
        self.folder = folder
        self._served: dict[str, Served] = {}
        self._models: list[TrainedModel] = []  # one per backbone
        self._changing = threading.Lock()

    def __iter__(self) -> Iterator[Served]:
        return iter(list(self._served.values()))

    def __len__(self) -> int:
        return len(self._served)

    def get(self, name: str) -> Served:
        """Look up an adapter.

        Args:
            name: The name of the adapter; empty for the only one.
        """
        served = self._served
        if not name and len(served) != 1:
            raise Refused(422, f"name an adapter: {listed(served) or 'none is loaded'}")
        found = served.get(name) if name else next(iter(served.values()))
        if found is None:
            there = listed(served) or "none"
            raise Refused(404, f"there is no adapter {shown(name)[:100]!r} here: {there}")
        return found

    def put(self, name: str, model: TrainedModel, fallback: Preprocessing | None = None) -> Served:
        """Serve an adapter that a model carries.

        Args:
            name: The name of the adapter, both in the model and in requests.
            model: The model, in eval mode.
            fallback: How its training clouds were prepared, if its file does not record it.
        """
        if not NAME.fullmatch(name):
            raise UsageError(
                f"an adapter's name may have letters, digits, '.', '_' and '-', got {name!r}"
            )
        adapter = model.adapters[name]
        ready = adapter.preprocessing or fallback
        if ready is None:
            raise UsageError(
                f"the file of adapter {name} does not record how its training clouds were "
                "prepared: save it with preprocessing="
            )
        served = Served(name, model, adapter, ready)
        self._served = {**self._served, name: served}
        if all(model is not known for known in self._models):
            self._models.append(model)
        return served

    def load(self, name: str) -> Served:
        """Load the adapter of a subfolder, replacing one of the same name.

        Args:
            name: The name of the subfolder, which is an adapter's folder or a run folder.
        """
        folder = self._subfolder(name)
        reasons = []
        with self._changing:
            for model in self._models:
                try:
                    return self._loaded(name, folder, model)
                except DaptError as error:
                    reasons.append(str(error).replace(str(folder), name))
        raise Refused(422, f"adapter {name} cannot be loaded: {'; '.join(dict.fromkeys(reasons))}")

    def _loaded(self, name: str, folder: Path, model: TrainedModel) -> Served:
        before = self._served.get(name)
        file = adapter_files.read(folder)
        if file.preprocessing is None:
            raise UsageError(
                "its file does not record how its training clouds were prepared: save it with "
                "preprocessing="
            )
        model.load_adapter(folder, name, replace=True, activate=False)
        if before is not None and before.model is not model:
            before.model.delete_adapter(name)
        return self.put(name, model)

    def _subfolder(self, name: str) -> Path:
        """Find the subfolder by listing names, so that a name is never followed as a path."""
        if self.folder is None:
            raise Refused(403, "this server loads no adapters: it was started without --adapters")
        known = {each.name: each for each in self.folder.iterdir() if each.is_dir()}
        if not NAME.fullmatch(name) or name not in known:
            raise Refused(404, f"there is no folder {shown(name)[:100]!r} among the adapters")
        found = known[name]
        is_adapter = (found / adapter_files.CONFIG).is_file()
        return found if is_adapter else found / "adapter"

    def unload(self, name: str) -> None:
        """Unload an adapter; requests in progress still use it.

        Args:
            name: The name of the adapter.
        """
        with self._changing:
            served = self.get(name)
            self._served = {n: each for n, each in self._served.items() if n != name}
            served.model.delete_adapter(name)
