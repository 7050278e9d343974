"""A backbone that carries adapters: run, trained, switched, counted and saved."""

import logging
import os
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dapt.adapters import adapter_files
from dapt.adapters.adapter_files import BackboneRecord
from dapt.adapters.bounds import within
from dapt.data import PointDataset
from dapt.errors import DaptError, UsageError
from dapt.methods.method import Method
from dapt.methods.replacements import Replacements
from dapt.models import Features, count_parameters
from dapt.models.protocols import Backbone, missing
from dapt.tasks import Task

PREPARED_AT_ONCE = 32  # clouds in a batch that `prepare` makes itself

log = logging.getLogger(__name__)

_carrying = weakref.WeakSet()  # the backbones of all AdaptedModels


@dataclass(frozen=True)
class Attachment:
    """One adapter: what was asked for, and what was made of it."""

    method: Method
    task: Task
    head: nn.Module
    replacements: Replacements
    fixed: frozenset[str]  # own parameters that the method made without a gradient


class AdaptedModel(nn.Module):
    """A frozen backbone and its adapters, of which one is active.

    Every entry of the model's state is either the active adapter's own, which trains, is saved
    and is counted, or belongs to the pre-trained network; `owns` tells which. What a method made
    without a gradient is saved, too, but stays as it is.
    """

    def __init__(self, backbone: nn.Module):
        super().__init__()
        if not isinstance(backbone, nn.Module):
            kind = type(backbone).__name__
            raise UsageError(
                f"the backbone must be a network of dapt.create_backbone, got a {kind}"
            )
        lacking = missing(backbone, Backbone)
        if lacking:
            raise UsageError(
                f"a {type(backbone).__name__} cannot be adapted: dapt.models.protocols.Backbone "
                f"has {', '.join(lacking)}, which it lacks"
            )
        if backbone in _carrying:
            raise UsageError(
                "this backbone already carries an adapter: add another with model.add_adapter, "
                "or take it off with dapt.detach"
            )
        _carrying.add(backbone)
        self.backbone = backbone
        self.head = None
        self.adapters: dict[str, Attachment] = {}
        self.active: str | None = None
        self.is_merged = False
        self._modes_before = {module: module.training for module in backbone.modules()}
        self._trainable_before = {w: w.requires_grad for w in backbone.parameters()}
        backbone.requires_grad_(False)

    def forward(
        self, points: Tensor, *inputs: Tensor, queries: Tensor | None = None
    ) -> Tensor:  # [B, N, 3] -> logits
        """``inputs`` are what the task's head asks for beside the points; ``queries`` [B, M, 3]
        are the points to label where they are not those that the network sees."""
        features = self.features(points)
        labeled = points if queries is None else queries
        return self.adapter.head(features, labeled[..., :3], *inputs)

    def features(self, points: Tensor) -> Features:  # [B, N, 3]
        """What the adapted network makes of the clouds: all that its head reads of them."""
        return self.adapter.method.features(self.backbone, points, self.adapter.head.levels)

    def prepare(self, clouds: Tensor | PointDataset | Iterable[Tensor]) -> None:
        """Give the method what it needs of the training clouds.

        Args:
            clouds: A tensor [S, N, 3], a dataset, or batches, each [B, N, 3] or a dictionary with
                such `points`.
        """
        self.adapter.method.prepare(self.backbone, _batches(clouds))

    def extra_loss(self) -> Tensor | None:
        """What the method adds to the task's loss, of the forward pass just made."""
        return self.adapter.method.extra_loss(self.backbone)

    def meters(self) -> dict[str, float]:
        """What the method measured of itself since the last reading."""
        return self.adapter.method.meters(self.backbone)

    def train(self, mode: bool = True) -> "AdaptedModel":
        """What is frozen stays in eval mode: its batch norms, or all of it where nothing trains."""
        super().train(mode)
        if not mode or self.active is None:
            return self
        method = self.adapter.method
        if not any(method.owns(entry) for entry in self.backbone.state_dict()):
            self.backbone.eval()
        for name, module in self.backbone.named_modules():
            if isinstance(module, _BatchNorm) and not method.owns(f"{name}.running_mean"):
                module.eval()
        return self

    @property
    def adapter(self) -> Attachment:
        if self.active is None:
            raise UsageError("the model carries no adapter; attach one with dapt.attach")
        return self.adapters[self.active]

    @property
    def device(self) -> torch.device:
        return next(self.backbone.parameters()).device

    def owns(self, entry: str) -> bool:
        """Whether an entry of the model's state is the active adapter's own."""
        part, _, rest = entry.partition(".")
        return part == "head" or self.adapter.method.owns(rest)

    def trains(self, entry: str) -> bool:
        """Whether a parameter of the model is one that training changes."""
        return self.owns(entry) and entry not in self.adapter.fixed

    def own_state(self) -> dict[str, Tensor]:
        return {entry: value for entry, value in self.state_dict().items() if self.owns(entry)}

    def own_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """What trains."""
        return [(name, weight) for name, weight in self.named_parameters() if self.trains(name)]

    def load_own_state(self, state: Mapping[str, Tensor]) -> None:
        """The reverse of `own_state`; nothing is loaded unless everything fits."""
        own = self.own_state()
        for entry in sorted(own.keys() ^ state.keys()):
            where = "missing" if entry in own else "not a part of this adapter"
            raise DaptError(f"adapter state: '{entry}' is {where}")
        prefix = "backbone."
        of_backbone = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        self.adapter.method.make_room(self.backbone, of_backbone)
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

    def count_parameters(self) -> tuple[int, int]:
        """How many train, and how many there are."""
        trained = sum(weight.numel() for _, weight in self.own_parameters())
        return trained, count_parameters(self)

    def print_trainable_parameters(self) -> None:
        trained, total = self.count_parameters()
        print(f"trainable: {trained:,} of {total:,} parameters ({trained / total:.2%})")

    def add_adapter(self, name: str, method: Method, task: Task) -> None:
        """Attach another adapter beside those that are there, and make it the active one."""
        self._refuse_if_merged("carry another adapter")
        if name in self.adapters:
            raise UsageError(f"the model already carries an adapter named '{name}'")
        with self.pretrained():
            pretrained = {id(value) for value in _state(self.backbone).values()}
            replacements = Replacements()
            try:
                method.check(self.backbone)
                method.wrap(self.backbone, replacements)
                _check_predicate(method, self.backbone, pretrained)
                fixed = frozenset(
                    f"backbone.{entry}"
                    for entry, weight in self.backbone.named_parameters()
                    if method.owns(entry) and not weight.requires_grad
                )
                head = task.build_head(self.backbone, method.head_tokens_for(self.backbone))
            finally:
                replacements.undo(self.device)
        self.adapters[name] = Attachment(method, task, head, replacements, fixed)
        self.set_adapter(name)

    def set_adapter(self, name: str) -> None:
        """Make another of the adapters the active one; nothing is copied."""
        self._refuse_if_merged("switch adapters")
        if name not in self.adapters:
            carried = ", ".join(self.adapters)
            raise UsageError(f"the model carries no adapter named '{name}'; it carries {carried}")
        self._take_off()
        self.active = name
        self.adapter.replacements.redo(self.device)
        self.head = self.adapter.head.to(self.device)
        for entry, value in _state(self).items():
            if isinstance(value, nn.Parameter):
                value.requires_grad_(self.trains(entry))
        self.train(self.training)

    @contextmanager
    def pretrained(self) -> Iterator[nn.Module]:
        """The pre-trained network as it was, for as long as the context lasts."""
        self._refuse_if_merged("show its pre-trained network")
        active = self.active
        self._take_off()
        try:
            yield self.backbone
        finally:
            if active is not None:
                self.set_adapter(active)

    def delete_adapter(self, name: str) -> None:
        self._refuse_if_merged("lose an adapter")
        if name == self.active:
            self._take_off()
        del self.adapters[name]

    def save_adapter(self, folder: str | os.PathLike) -> None:
        """Write the active adapter's adapter_config.json and adapter_model.safetensors."""
        method, task = self.adapter.method, self.adapter.task
        with self.pretrained() as backbone:
            record = BackboneRecord.of(backbone, method.owns)
        adapter_files.write(folder, method, task, record, self.own_state())

    def load_adapter(self, folder: str | os.PathLike, name: str) -> None:
        """Add an adapter from its files, and make it the active one."""
        file = adapter_files.read(folder)
        with self.pretrained() as backbone:
            record = BackboneRecord.of(backbone, file.method.owns)
        adapter_files.check_backbone(
            folder, wanted=file.backbone.completed(self.backbone), got=record
        )
        previous = self.active
        tensors = [*file.state.values(), *self.backbone.state_dict().values()]
        with within(tensors, str(Path(folder) / adapter_files.CONFIG)):
            self.add_adapter(name, file.method, file.task)
        try:
            self.load_own_state(file.state)
        except DaptError:
            self.delete_adapter(name)
            if previous is not None:
                self.set_adapter(previous)
            raise

    def merge(self) -> None:
        """Fold the active adapter into the network for good, as far as its method folds."""
        self._refuse_if_merged("be merged again")
        if len(self.adapters) > 1:
            raise UsageError("a model with several adapters cannot be merged: delete the others")
        method, count = self.adapter.method, 0
        for parent in list(self.backbone.modules()):
            for name, child in list(parent.named_children()):
                plain = method.folded(child)
                if plain is not None:
                    setattr(parent, name, plain)
                    count += 1
        if not count and any(method.owns(entry) for entry in self.backbone.state_dict()):
            log.warning("nothing of method '%s' folds: its modules stay as they are", method.name)
        self.is_merged = True
        self.requires_grad_(False).eval()

    def detach(self) -> nn.Module:
        """Take every adapter off and give back the backbone, bit for bit as it came."""
        self._refuse_if_merged("be detached")
        self._take_off()
        self.adapters.clear()
        for module, mode in self._modes_before.items():
            module.training = mode
        for weight, trainable in self._trainable_before.items():
            weight.requires_grad_(trainable)
        _carrying.discard(self.backbone)
        return self.backbone

    def _take_off(self) -> None:
        if self.active is not None:
            self.adapter.replacements.undo(self.device)
            self.active, self.head = None, None

    def _refuse_if_merged(self, what: str) -> None:
        if self.is_merged:
            raise UsageError(f"a merged model cannot {what}: its pre-trained weights are gone")


def _batches(clouds: Tensor | PointDataset | Iterable[Tensor]) -> Iterator[Tensor]:
    """The clouds in batches [B, N, 3]."""
    if isinstance(clouds, Tensor):
        if clouds.ndim != 3:
            raise UsageError(f"clouds must be [S, N, 3], got {list(clouds.shape)}")
        yield from clouds.split(PREPARED_AT_ONCE)
    elif isinstance(clouds, PointDataset):
        for begin in range(0, len(clouds), PREPARED_AT_ONCE):
            rows = range(begin, min(begin + PREPARED_AT_ONCE, len(clouds)))
            yield clouds.batch(rows)["points"]
    else:
        for batch in clouds:
            yield batch["points"] if isinstance(batch, Mapping) else batch


def _state(module: nn.Module) -> dict[str, Tensor]:
    return module.state_dict(keep_vars=True)


def _check_predicate(method: Method, backbone: nn.Module, pretrained: set[int]) -> None:
    """What a method owns is what it put in place, nothing more and nothing less."""
    for entry, value in _state(backbone).items():
        if method.owns(entry) == (id(value) in pretrained):
            claim = "owns" if method.owns(entry) else "does not own"
            fact = "the pre-trained network's" if id(value) in pretrained else "its own"
            raise TypeError(f"method '{method.name}' says it {claim} '{entry}', which is {fact}")
