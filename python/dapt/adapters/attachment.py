"""One adapter on a backbone."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dapt.adapters import adapter_files
from dapt.adapters.adapter_files import BackboneRecord
from dapt.adapters.bounds import within
from dapt.data.preprocessing import Preprocessing
from dapt.errors import DaptError, UsageError, check_sizes
from dapt.methods.method import Method
from dapt.methods.replacements import Replacements
from dapt.models import Features
from dapt.models.checkpoints import FIRST_LAYER
from dapt.models.views import View, sharing_copy
from dapt.tasks import Task

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Attachment:
    """An adapter with its own network, which shares the pre-trained tensors with all others.

    Its parts are never replaced, so a call that started with it finishes with it, whatever happens
    to the model in the meantime.

    Args:
        name: Its name in the model.
        method: How the network is adapted.
        task: The task that it solves.
        network: The adapted backbone.
        head: The head that reads its features.
        fixed: Its parameters that the method computed without a gradient.
        preprocessing: How its training clouds were prepared, if known.
        source: The location and commit of its files on a hub; None for others.
    """

    name: str
    method: Method
    task: Task
    network: nn.Module
    head: nn.Module
    fixed: frozenset[str]
    preprocessing: Preprocessing | None = None
    source: str | None = None

    @classmethod
    def on(cls, backbone: nn.Module, name: str, method: Method, task: Task) -> "Attachment":
        """Make a new adapter.

        Args:
            backbone: Left unchanged.
            name: The name under which the model carries it.
            method: The method with its settings.
            task: The task with its settings.
        """
        check_sizes(method, smallest=0)
        method.check(backbone)
        _check_channels(method, backbone)
        view = View(backbone)
        method.wrap(view.network, Replacements())
        network = view.share_untouched()
        _check_predicate(method, network, {id(value) for value in _state(backbone).values()})
        fixed = frozenset(
            f"backbone.{entry}"
            for entry, weight in network.named_parameters()
            if method.owns(entry) and not weight.requires_grad
        )
        head = task.build_head(network, method.head_tokens_for(network))
        device = next(backbone.parameters()).device
        return cls(name, method, task, network.to(device), head.to(device), fixed)

    @classmethod
    def saved(cls, folder: str | os.PathLike, backbone: nn.Module, name: str) -> "Attachment":
        """Make the adapter that `save` wrote.

        Args:
            folder: The folder of its files.
            backbone: The network that it was trained on, left unchanged.
            name: The name under which the model carries it.
        """
        file = adapter_files.read(folder)
        record = BackboneRecord.of(backbone, file.method.owns)
        wanted = file.backbone.completed(backbone)
        adapter_files.check_backbone(folder, wanted=wanted, got=record)
        tensors = [*file.state.values(), *backbone.state_dict().values()]
        with within(tensors, str(Path(folder) / adapter_files.CONFIG)):
            adapter = cls.on(backbone, name, file.method, file.task)
        adapter = replace(adapter, preprocessing=file.preprocessing)
        adapter.load_own_state(file.state)
        return adapter

    def save(
        self,
        folder: str | os.PathLike,
        backbone: nn.Module,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        """Write the adapter's two files.

        Args:
            folder: The folder to write.
            backbone: The network that it was trained on.
            preprocessing: How its training clouds were prepared; by default, as far as known.
        """
        record = BackboneRecord.of(backbone, self.method.owns)
        known = self.preprocessing if preprocessing is None else preprocessing
        adapter_files.write(folder, self.method, self.task, record, self.own_state(), known)

    def __call__(self, points: Tensor, *inputs: Tensor, queries: Tensor | None = None) -> Tensor:
        """Logits of the clouds [B, N, 3]; the rest is as in `AdaptedModel.forward`."""
        features = self.features(points)
        labeled = points if queries is None else queries
        return self.head(features, labeled[..., :3], *inputs)

    def features(self, points: Tensor) -> Features:  # [B, N, 3]
        """Run the network on clouds, with the levels that the head reads.

        Args:
            points: [B, N, 3].
        """
        return self.method.features(self.network, points, self.head.levels)

    def set_mode(self, training: bool) -> None:
        """Set training or eval mode; frozen batch norms, or a fully frozen network, stay in eval
        mode.

        Args:
            training: As in `nn.Module.train`.
        """
        self.head.train(training)
        trains = any(self.method.owns(entry) for entry in self.network.state_dict())
        self.network.train(training and trains)
        for name, module in self.network.named_modules():
            if isinstance(module, _BatchNorm) and not self.method.owns(f"{name}.running_mean"):
                module.eval()

    def owns(self, entry: str) -> bool:
        """Whether an entry in the state of a model with this adapter is the adapter's own.

        Args:
            entry: A name in the model's state.
        """
        part, _, rest = entry.partition(".")
        return part == "head" or self.method.owns(rest)

    def own_state(self) -> dict[str, Tensor]:
        """The adapter's tensors, sharing memory, by their names in a model's state."""
        return {entry: value.detach() for entry, value in self._own().items()}

    def _own(self) -> dict[str, Tensor]:
        state = {f"backbone.{entry}": value for entry, value in _state(self.network).items()}
        state |= {f"head.{entry}": value for entry, value in _state(self.head).items()}
        return {entry: value for entry, value in state.items() if self.owns(entry)}

    @cached_property
    def own_entries(self) -> dict[str, Tensor]:
        """The network's entries that belong to the adapter; always the same tensors if the method's
        adapters can run side by side."""
        state = _state(self.network).items()
        return {entry: value for entry, value in state if self.method.owns(entry)}

    @cached_property
    def kin(self) -> str | None:
        """Adapters with equal values on one backbone can run side by side; None if this one runs
        alone."""
        kin = self.method.kin()
        return None if kin is None else repr(kin)

    def load_own_state(self, state: Mapping[str, Tensor]) -> None:
        """Load what `own_state` returned; nothing is loaded unless everything fits.

        Args:
            state: The adapter's own tensors.
        """
        own = self.own_state()
        for entry in sorted(own.keys() ^ state.keys()):
            where = "missing" if entry in own else "not a part of this adapter"
            raise DaptError(f"adapter state: '{entry}' is {where}")
        prefix = "backbone."
        of_backbone = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        self.method.make_room(self.network, of_backbone)
        own = self.own_state()
        for entry, value in state.items():
            if value.shape != own[entry].shape:
                raise DaptError(
                    f"adapter state: '{entry}' is {list(value.shape)}, "
                    f"wanted {list(own[entry].shape)}"
                )
        with torch.no_grad():
            for entry, value in state.items():
                own[entry].copy_(value)

    def folded(self) -> "Attachment":
        """A copy with the adapter folded into the network's layers, as far as its method allows."""
        network, count = sharing_copy(self.network), 0
        for parent in list(network.modules()):
            for name, child in list(parent.named_children()):
                plain = self.method.folded(child)
                if plain is not None:
                    setattr(parent, name, plain)
                    count += 1
        if not count and any(self.method.owns(entry) for entry in network.state_dict()):
            name = self.method.name
            log.warning("method '%s' has nothing to fold: its modules stay unchanged", name)
        return replace(self, network=network.eval())


def _check_channels(method: Method, backbone: nn.Module) -> None:
    """Refuse a method that leaves the zero columns of extra channels untrained."""
    report = getattr(backbone, "load_report", None)
    zero = report is not None and any(FIRST_LAYER in entry for entry in report.fresh)
    if zero and not method.owns(FIRST_LAYER):
        raise UsageError(
            f"the backbone's weights read coordinates only, and {method.name} does not "
            "train the layer that would read more channels: choose full, ppt or "
            "point_lora, which train it, or a backbone that was pre-trained with color"
        )


def _state(module: nn.Module) -> dict[str, Tensor]:
    return module.state_dict(keep_vars=True)


def _check_predicate(method: Method, network: nn.Module, pretrained: set[int]) -> None:
    """Check that a method owns exactly what it put in place."""
    for entry, value in _state(network).items():
        if method.owns(entry) == (id(value) in pretrained):
            claim = "owns" if method.owns(entry) else "does not own"
            fact = "the pre-trained network's" if id(value) in pretrained else "its own"
            raise TypeError(f"method '{method.name}' says it {claim} '{entry}', which is {fact}")
