"""A backbone that carries adapters: run, trained, switched, counted and saved."""

import dataclasses
import os
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from dapt.adapters import adapter_files, hub
from dapt.adapters.adapter_files import BackboneRecord
from dapt.adapters.attachment import Attachment
from dapt.adapters.bounds import within
from dapt.adapters.hub import Provenance
from dapt.adapters.mixture import Mixtures, chosen, named
from dapt.data import PointDataset
from dapt.data.preprocessing import Preprocessing
from dapt.errors import UsageError
from dapt.methods.method import Method
from dapt.models import Features, count_parameters
from dapt.models.protocols import Backbone, missing
from dapt.tasks import Task

PREPARED_AT_ONCE = 32  # clouds in a batch that `prepare` makes itself

_carrying = weakref.WeakSet()  # the backbones of all AdaptedModels
_changing = threading.RLock()  # held while the table of a model's adapters is changed


class AdaptedModel(nn.Module):
    """A frozen backbone and its adapters, of which one is active.

    Every entry of the model's state is either the active adapter's own, which trains, is saved
    and is counted, or belongs to the pre-trained network; `owns` tells which. What a method made
    without a gradient is saved, too, but stays as it is.

    The backbone that came in is never changed: `model.backbone` is the active adapter's network,
    which shares its tensors. A call takes the adapter that is active when it begins, so adapters
    may be added, switched, saved and deleted while other threads run the model.

    Args:
        backbone: A network of `create_backbone`, or another that fulfills
            `dapt.models.protocols.Backbone`.
    """

    provenance = Provenance()  # of the training, for whoever pushes the adapter

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
        self.adapters: dict[str, Attachment] = {}
        self.is_merged = False
        self._mixtures = Mixtures()
        self._modes_before = {module: module.training for module in backbone.modules()}
        self._trainable_before = {w: w.requires_grad for w in backbone.parameters()}
        self._pretrained = (backbone,)  # in a tuple it is no part of the model's state
        backbone.requires_grad_(False).eval()
        self._activate(None)

    def forward(
        self,
        points: Tensor,
        *inputs: Tensor,
        queries: Tensor | None = None,
        adapters: Sequence[str | Attachment | None] | None = None,
    ) -> Tensor | list[Tensor]:
        """Logits of the active adapter, or of an adapter for each cloud.

        This is the raw network: clouds have to be as those of its training, upright, scaled and
        with as many points; `predict` of `dapt.load_run` and `dapt.load_adapter` sees to that.

        Clouds whose adapters are of one kind, DAPT of one rank say, go through the frozen layers
        together; each further kind is a pass more. No gradient flows through such a call.

        Args:
            points: [B, N, 3], or with the channels that the backbone reads.
            inputs: What the task's head asks for beside the points.
            queries: [B, M, 3], the points to label where they are not those that the network sees.
            adapters: The name of each cloud's adapter, or one of `model.adapters` itself, which
                may have been deleted meanwhile; or None for a cloud without one: then the
                pre-trained network's tokens are given, pooled as its own heads read them.

        Returns:
            Logits [B, classes], or [B, N, labels]. With `adapters`, where clouds have outputs of
            different sizes, a list of B tensors, each of its own.
        """
        if adapters is None:
            return self.adapter(points, *inputs, queries=queries)
        self._refuse_if_merged("take an adapter for each cloud")
        if self.training:
            raise UsageError("an adapter for each cloud is for evaluation: call model.eval() first")
        own = chosen(self.adapters, adapters, points)
        out = self._mixtures.run(self._pretrained[0], own, points, inputs, queries)
        alike = out and len({row.shape for row in out}) == 1 and None not in own
        return torch.stack(out) if alike else out

    def features(self, points: Tensor) -> Features:  # [B, N, 3]
        """What the adapted network makes of the clouds: all that its head reads of them.

        Args:
            points: [B, N, 3], or as many channels as the backbone reads.
        """
        return self.adapter.features(points)

    def prepare(self, clouds: Tensor | PointDataset | Iterable[Tensor]) -> None:
        """Give the method what it needs of the training clouds.

        Args:
            clouds: A tensor [S, N, 3], a dataset, or batches, each [B, N, 3] or a dictionary with
                such `points`.
        """
        self.adapter.method.prepare(self.adapter.network, _batches(clouds))

    def extra_loss(self) -> Tensor | None:
        """What the method adds to the task's loss, of the forward pass just made."""
        return self.adapter.method.extra_loss(self.adapter.network)

    def meters(self) -> dict[str, float]:
        """What the method measured of itself since the last reading."""
        return self.adapter.method.meters(self.adapter.network)

    def train(self, mode: bool = True) -> "AdaptedModel":
        """What is frozen stays in eval mode: its batch norms, or all of it where nothing trains."""
        self.training = mode
        for adapter in self.adapters.values():
            if adapter is self._active or adapter.head.training != mode:
                adapter.set_mode(mode)
        return self

    @property
    def adapter(self) -> Attachment:
        """The active adapter, of which there has to be one."""
        active = self._active
        if active is None:
            raise UsageError("the model carries no adapter; attach one with dapt.attach")
        return active

    @property
    def active(self) -> str | None:
        """The active adapter's name."""
        active = self._active
        return None if active is None else active.name

    @property
    def device(self) -> torch.device:
        """Where the backbone lies."""
        return next(self.backbone.parameters()).device

    def owns(self, entry: str) -> bool:
        """Whether an entry of the model's state is the active adapter's own.

        Args:
            entry: Its name in the model's `state_dict`.
        """
        return self.adapter.owns(entry)

    def trains(self, entry: str) -> bool:
        """Whether a parameter of the model is one that training changes.

        Args:
            entry: Its name in the model's `state_dict`.
        """
        return self.owns(entry) and entry not in self.adapter.fixed

    def own_state(self) -> dict[str, Tensor]:
        """The active adapter's own tensors, by the names that the model's state has for them."""
        return self.adapter.own_state()

    def own_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """What trains."""
        return [(name, weight) for name, weight in self.named_parameters() if self.trains(name)]

    def load_own_state(self, state: Mapping[str, Tensor]) -> None:
        """The reverse of `own_state`; nothing is loaded unless everything fits.

        Args:
            state: As `own_state` gives it.
        """
        self.adapter.load_own_state(state)

    def count_parameters(self) -> tuple[int, int]:
        """How many train, and how many there are."""
        trained = sum(weight.numel() for _, weight in self.own_parameters())
        return trained, count_parameters(self)

    def print_trainable_parameters(self) -> None:
        """Print how many parameters train, of how many."""
        trained, total = self.count_parameters()
        print(f"trainable: {trained:,} of {total:,} parameters ({trained / total:.2%})")

    def add_adapter(self, name: str, method: Method, task: Task) -> None:
        """Attach another adapter beside those that are there, and make it the active one.

        Args:
            name: What it is called here.
            method: How the backbone is adapted.
            task: What for.
        """
        self._refuse_if_merged("carry another adapter")
        self._refuse_if_carried(name)
        _check_kind("method", method, Method, "dapt.Dapt(rank=64)")
        _check_kind("task", task, Task, "dapt.Classification(15)")
        self._enter(Attachment.on(self._pretrained[0], name, method, task))

    def set_adapter(self, name: str) -> None:
        """Make another of the adapters the active one; nothing is copied.

        Args:
            name: The name of the adapter.
        """
        self._refuse_if_merged("switch adapters")
        adapter = self._named(name)
        adapter.set_mode(self.training)
        self._activate(adapter)

    @contextmanager
    def pretrained(self) -> Iterator[nn.Module]:
        """The pre-trained network as it was, in eval mode; the adapters stay where they are."""
        self._refuse_if_merged("show its pre-trained network")
        yield self._pretrained[0]

    def delete_adapter(self, name: str) -> None:
        """Take an adapter off; the others stay.

        Args:
            name: The name of the adapter.
        """
        self._refuse_if_merged("lose an adapter")
        with _changing:
            adapter = self._named(name)
            self.adapters = {n: a for n, a in self.adapters.items() if n != name}
            if adapter is self._active:
                self._activate(None)

    def save_adapter(
        self,
        folder: str | os.PathLike,
        name: str | None = None,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        """Write an adapter's adapter_config.json and adapter_model.safetensors.

        Args:
            folder: Where to.
            name: The name of the adapter; None for the active one.
            preprocessing: What was done to the clouds that it was trained on; by default what the
                file said that it came from.
        """
        self._refuse_if_merged("be saved")
        adapter = self.adapter if name is None else self._named(name)
        record = BackboneRecord.of(self._pretrained[0], adapter.method.owns)
        known = adapter.preprocessing if preprocessing is None else preprocessing
        state = adapter.own_state()
        adapter_files.write(folder, adapter.method, adapter.task, record, state, known)

    def load_adapter(
        self,
        folder: str | os.PathLike,
        name: str,
        *,
        replace: bool = False,
        activate: bool = True,
    ) -> None:
        """Add an adapter from its files.

        Args:
            folder: Where `save_adapter` wrote them.
            name: What the adapter is called here.
            replace: Whether it may take the place of one of that name; calls under way end with
                the one that they began with.
            activate: Whether it becomes the active one. One that replaces the active one does.
        """
        self._refuse_if_merged("carry another adapter")
        if not replace:
            self._refuse_if_carried(name)
        file, backbone = adapter_files.read(folder), self._pretrained[0]
        record = BackboneRecord.of(backbone, file.method.owns)
        wanted = file.backbone.completed(backbone)
        adapter_files.check_backbone(folder, wanted=wanted, got=record)
        tensors = [*file.state.values(), *backbone.state_dict().values()]
        with within(tensors, str(Path(folder) / adapter_files.CONFIG)):
            adapter = Attachment.on(backbone, name, file.method, file.task)
        adapter = dataclasses.replace(adapter, preprocessing=file.preprocessing)
        adapter.load_own_state(file.state)
        self._enter(adapter, replace, activate)

    @classmethod
    def from_hub(
        cls,
        repository: str,
        revision: str | None = None,
        *,
        backbone: nn.Module | None = None,
        checkpoint: str | os.PathLike | None = None,
        name: str = "default",
        token: str | None = None,
    ) -> "AdaptedModel":
        """The adapter of a hub's repository, on its backbone.

        Two files are read, JSON and safetensors, both of one commit, which
        `model.adapter.source` keeps. Where `revision` is not that commit, a warning names it.

        Args:
            repository: "owner/repository".
            revision: A commit, a tag or a branch; the newest by default.
            backbone: The pre-trained network; by default it is made as the adapter's file says.
            checkpoint: Its weights, as `create_backbone` takes them; those that come with the
                package need none.
            name: What the model calls the adapter.
            token: Of the hub, for private repositories; by default that of its login.
        """
        fetched = hub.fetch(repository, revision, token)
        if backbone is None:
            backbone = hub.backbone_for(fetched, checkpoint)
        model = cls(backbone)
        try:
            model.load_adapter(fetched.folder, name)
        except BaseException:
            model.detach()
            raise
        pinned = dataclasses.replace(model.adapter, source=fetched.source)
        model._enter(pinned, replace=True)
        return model

    def push_to_hub(
        self,
        repository: str,
        *,
        name: str | None = None,
        license: str | None = None,
        data: str | None = None,
        metrics: Mapping[str, float] | None = None,
        preprocessing: Preprocessing | None = None,
        revision: str | None = None,
        private: bool = False,
        token: str | None = None,
    ) -> str:
        """Push an adapter's two files and a card that explains it; gives the commit.

        A model of `dapt.load_run` knows its data and metrics itself.

        Args:
            repository: "owner/repository", which is made where there is none.
            name: The name of the adapter; None for the active one.
            license: The license of the adapter, by the hub's names: "mit", say.
            data: What it was trained on, in a few words.
            metrics: Its scores, by name.
            preprocessing: As in `save_adapter`.
            revision: The branch; the main one by default.
            private: Whether a new repository is.
            token: Of the hub; by default that of its login.
        """
        known = self.provenance
        if data is not None:
            known = dataclasses.replace(known, data=data)
        if metrics is not None:
            known = dataclasses.replace(known, metrics=dict(metrics), split=None)
        report = getattr(self._pretrained[0], "load_report", None) if self._pretrained else None
        of_weights = None if report is None else report.license
        with tempfile.TemporaryDirectory() as folder:
            self.save_adapter(folder, name, preprocessing)
            card = hub.card(repository, Path(folder), known, license, of_weights)
            where = {"revision": revision, "private": private, "token": token}
            return hub.push(repository, Path(folder), card, **where)

    def merge(self) -> None:
        """Fold the active adapter into the network for good, as far as its method folds."""
        self._refuse_if_merged("be merged again")
        if len(self.adapters) > 1:
            raise UsageError("a model with several adapters cannot be merged: delete the others")
        adapter = self.adapter.folded()
        self.adapters = {adapter.name: adapter}
        self._activate(adapter)
        _carrying.discard(self._pretrained[0])
        self._pretrained, self.is_merged = (), True
        self.requires_grad_(False).eval()

    def detach(self) -> nn.Module:
        """Take every adapter off and give back the backbone, bit for bit as it came."""
        self._refuse_if_merged("be detached")
        self.adapters = {}
        self._activate(None)
        for module, mode in self._modes_before.items():
            module.training = mode
        for weight, trainable in self._trainable_before.items():
            weight.requires_grad_(trainable)
        _carrying.discard(self.backbone)
        return self.backbone

    def _enter(self, adapter: Attachment, replace: bool = False, activate: bool = True) -> None:
        adapter.set_mode(self.training)
        with _changing:
            if not replace:
                self._refuse_if_carried(adapter.name)
            takes_over = adapter.name == self.active
            self.adapters = {**self.adapters, adapter.name: adapter}
            if activate or takes_over:
                self._activate(adapter)

    def _activate(self, adapter: Attachment | None) -> None:
        """What calls read is `_active` alone; the other two are the model's state."""
        with _changing:
            self._active = adapter
            self.backbone = self._pretrained[0] if adapter is None else adapter.network
            self.head = None if adapter is None else adapter.head

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> "AdaptedModel":
        """Moves the adapters that are not active, too. A tensor that networks share is moved once,
        and stays shared."""
        self._mixtures = Mixtures()
        moved: dict[int, tuple[Tensor, Tensor]] = {}

        def once(tensor: Tensor) -> Tensor:
            if id(tensor) not in moved:
                moved[id(tensor)] = (tensor, function(tensor))
            return moved[id(tensor)][1]

        super()._apply(once, recurse)
        for network in self._pretrained:
            network._apply(once)
        for adapter in self.adapters.values():
            adapter.network._apply(once)
            adapter.head._apply(once)
        return self

    def _named(self, name: str) -> Attachment:
        return named(self.adapters, name)

    def _refuse_if_carried(self, name: str) -> None:
        if name in self.adapters:
            raise UsageError(f"the model already carries an adapter named '{name}'")

    def _refuse_if_merged(self, what: str) -> None:
        if self.is_merged:
            raise UsageError(f"a merged model cannot {what}: its pre-trained weights are gone")


def _check_kind(argument: str, value: object, kind: type, example: str) -> None:
    if not isinstance(value, kind):
        raise UsageError(f"{argument} must be the settings of one, as {example}, got {value!r}")


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
