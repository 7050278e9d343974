"""A backbone with adapters: run, train, switch, count and save them."""

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

from dapt.adapters import hub
from dapt.adapters.attachment import Attachment
from dapt.adapters.batches import batches_of
from dapt.adapters.hub import Provenance
from dapt.adapters.mixture import Mixtures, chosen, named
from dapt.data import PointDataset
from dapt.data.preprocessing import Preprocessing
from dapt.errors import UsageError
from dapt.methods.method import Method
from dapt.models import Features, count_parameters
from dapt.models.protocols import Backbone, missing
from dapt.tasks import Task

_carrying = weakref.WeakSet()  # the backbones of all AdaptedModels
_changing = threading.RLock()  # held while a model's table of adapters changes


class AdaptedModel(nn.Module):
    """A frozen backbone and its adapters, of which one is active.

    Every entry of the model's state belongs either to the active adapter or to the pre-trained
    network; `owns` tells which. The entries of the adapter train, and are saved and counted. Those
    that a method computed without a gradient are also saved, but do not train.

    The original backbone is never changed: `model.backbone` is the active adapter's network, which
    shares its tensors. A call uses the adapter that is active when it starts, so adapters may be
    added, switched, saved and deleted while other threads run the model.

    Args:
        backbone: A network from `create_backbone`, or any other that follows
            `dapt.models.protocols.Backbone`.
    """

    provenance = Provenance()  # of the training, for the card of a pushed adapter

    def __init__(self, backbone: nn.Module):
        super().__init__()
        if not isinstance(backbone, nn.Module):
            kind = type(backbone).__name__
            raise UsageError(
                f"the backbone must be a network from dapt.create_backbone, got a {kind}"
            )
        lacking = missing(backbone, Backbone)
        if lacking:
            raise UsageError(
                f"a {type(backbone).__name__} cannot be adapted: it lacks {', '.join(lacking)} of "
                "dapt.models.protocols.Backbone"
            )
        if backbone in _carrying:
            raise UsageError(
                "this backbone already carries an adapter: add another with model.add_adapter, "
                "or remove it with dapt.detach"
            )
        _carrying.add(backbone)
        self.adapters: dict[str, Attachment] = {}
        self.is_merged = False
        self._mixtures = Mixtures()
        self._modes_before = {module: module.training for module in backbone.modules()}
        self._trainable_before = {w: w.requires_grad for w in backbone.parameters()}
        self._pretrained = (backbone,)  # a tuple keeps it out of the model's state
        backbone.requires_grad_(False).eval()
        self._activate(None)

    def forward(
        self,
        points: Tensor,
        *inputs: Tensor,
        queries: Tensor | None = None,
        adapters: Sequence[str | Attachment | None] | None = None,
    ) -> Tensor | list[Tensor]:
        """Compute the logits with the active adapter, or with one adapter per cloud.

        This is the network itself: prepare clouds as in training (up axis, scale, number of
        points). The models from `dapt.load_run` and `dapt.load_adapter` have a method `predict`
        that does so.

        With one adapter per cloud, no gradients are computed. Clouds whose adapters are of the same
        kind, such as DAPT of the same rank, share a pass through the frozen layers; each further
        kind takes another pass.

        Args:
            points: [B, N, 3], or with the channels that the backbone reads.
            inputs: Further inputs of the task's head.
            queries: [B, M, 3], the points to label, if they are not those that the network reads.
            adapters: The adapter of each cloud: its name, or a value of `model.adapters`, which
                may have been deleted since. None stands for the pre-trained network, whose output
                is its tokens, pooled as its own heads read them.

        Returns:
            Logits [B, classes] or [B, N, labels]. With `adapters`, a list of B tensors if their
            sizes differ or a cloud has no adapter.
        """
        if adapters is None:
            return self.adapter(points, *inputs, queries=queries)
        self._refuse_if_merged("use one adapter per cloud")
        if self.training:
            raise UsageError(
                "one adapter per cloud works in evaluation only: call model.eval() first"
            )
        own = chosen(self.adapters, adapters, points)
        out = self._mixtures.run(self._pretrained[0], own, points, inputs, queries)
        alike = out and len({row.shape for row in out}) == 1 and None not in own
        return torch.stack(out) if alike else out

    def features(self, points: Tensor) -> Features:  # [B, N, 3]
        """Run the adapted network up to the head.

        Args:
            points: [B, N, 3], or with the channels that the backbone reads.
        """
        return self.adapter.features(points)

    def prepare(self, clouds: Tensor | PointDataset | Iterable[Tensor]) -> None:
        """Collect what the method needs from the training clouds.

        Args:
            clouds: A tensor [S, N, 3], a dataset, or batches, each [B, N, 3] or a dictionary with
                such `points`.
        """
        self.adapter.method.prepare(self.adapter.network, batches_of(clouds))

    def extra_loss(self) -> Tensor | None:
        """The method's term of the loss for the latest forward pass; None if it has none."""
        return self.adapter.method.extra_loss(self.adapter.network)

    def meters(self) -> dict[str, float]:
        """The method's own measurements since they were last read."""
        return self.adapter.method.meters(self.adapter.network)

    def train(self, mode: bool = True) -> "AdaptedModel":
        """Set the mode; frozen batch norms, or an entirely frozen backbone, stay in eval mode."""
        self.training = mode
        for adapter in self.adapters.values():
            if adapter is self._active or adapter.head.training != mode:
                adapter.set_mode(mode)
        return self

    @property
    def adapter(self) -> Attachment:
        """The active adapter; raises if there is none."""
        active = self._active
        if active is None:
            raise UsageError("the model has no adapter: attach one with dapt.attach")
        return active

    @property
    def active(self) -> str | None:
        """The name of the active adapter; None if there is none."""
        active = self._active
        return None if active is None else active.name

    @property
    def device(self) -> torch.device:
        """The device of the backbone."""
        return next(self.backbone.parameters()).device

    def owns(self, entry: str) -> bool:
        """Whether an entry of the model's state belongs to the active adapter.

        Args:
            entry: Its name in the model's `state_dict`.
        """
        return self.adapter.owns(entry)

    def trains(self, entry: str) -> bool:
        """Whether a parameter of the model trains.

        Args:
            entry: Its name in the model's `state_dict`.
        """
        return self.owns(entry) and entry not in self.adapter.fixed

    def own_state(self) -> dict[str, Tensor]:
        """The active adapter's own tensors, by their names in the model's state."""
        return self.adapter.own_state()

    def own_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """The parameters that train, by name."""
        return [(name, weight) for name, weight in self.named_parameters() if self.trains(name)]

    def load_own_state(self, state: Mapping[str, Tensor]) -> None:
        """Load what `own_state` returned; nothing is loaded unless everything fits.

        Args:
            state: The tensors that `own_state` returned.
        """
        self.adapter.load_own_state(state)

    def count_parameters(self) -> tuple[int, int]:
        """The number of parameters that train, and of all parameters."""
        trained = sum(weight.numel() for _, weight in self.own_parameters())
        return trained, count_parameters(self)

    def print_trainable_parameters(self) -> None:
        """Print how many of the parameters train."""
        trained, total = self.count_parameters()
        print(f"trainable: {trained:,} of {total:,} parameters ({trained / total:.2%})")

    def add_adapter(self, name: str, method: Method, task: Task) -> None:
        """Attach another adapter and make it the active one.

        Args:
            name: Its name in this model.
            method: The method that adapts the backbone.
            task: The task that it solves.
        """
        self._refuse_if_merged("carry another adapter")
        self._refuse_if_carried(name)
        _check_kind("method", method, Method, "dapt.Dapt(rank=64)")
        _check_kind("task", task, Task, "dapt.Classification(15)")
        self._enter(Attachment.on(self._pretrained[0], name, method, task))

    def set_adapter(self, name: str) -> None:
        """Make an adapter the active one; nothing is copied.

        Args:
            name: The name of the adapter.
        """
        self._refuse_if_merged("switch adapters")
        adapter = self._named(name)
        adapter.set_mode(self.training)
        self._activate(adapter)

    @contextmanager
    def pretrained(self) -> Iterator[nn.Module]:
        """Give access to the pre-trained network, in eval mode; the adapters stay attached."""
        self._refuse_if_merged("show its pre-trained network")
        yield self._pretrained[0]

    def delete_adapter(self, name: str) -> None:
        """Remove an adapter; the others stay.

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
            folder: The folder to write.
            name: The name of the adapter; None for the active one.
            preprocessing: How its training clouds were prepared; by default, as recorded in the
                file that it was loaded from.
        """
        self._refuse_if_merged("be saved")
        adapter = self.adapter if name is None else self._named(name)
        adapter.save(folder, self._pretrained[0], preprocessing)

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
            folder: The folder that `save_adapter` wrote.
            name: The adapter's name in this model.
            replace: Whether it may replace an adapter of the same name; calls in progress finish
                with the old one.
            activate: Whether it becomes the active one. A replacement of the active one always
                does.
        """
        self._refuse_if_merged("carry another adapter")
        if not replace:
            self._refuse_if_carried(name)
        self._enter(Attachment.saved(folder, self._pretrained[0], name), replace, activate)

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
        """Load an adapter from a hub, on its backbone.

        Two files are read, JSON and safetensors, both from the same commit, which
        `model.adapter.source` records. If `revision` is not that commit, a warning names it.

        Args:
            repository: "owner/repository".
            revision: A commit, a tag or a branch; the newest by default.
            backbone: The pre-trained network; by default, it is built as the adapter's file says.
            checkpoint: The backbone's weights, as for `create_backbone`; not needed for shipped
                weights.
            name: The adapter's name in the model.
            token: The access token for a private repository; by default that of the hub's login.
        """
        fetched = hub.fetch(repository, revision, token)
        if backbone is None:
            backbone = hub.backbone_for(fetched, checkpoint)
        model = cls(backbone)
        try:
            adapter = Attachment.saved(fetched.folder, backbone, name)
            model._enter(dataclasses.replace(adapter, source=fetched.source))
        except BaseException:
            model.detach()
            raise
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
        """Push an adapter's two files and a card that describes it; return the commit.

        A model from `dapt.load_run` knows its data and metrics.

        Args:
            repository: "owner/repository"; created if it does not exist.
            name: The name of the adapter; None for the active one.
            license: The license of the adapter in the hub's notation, such as "mit".
            data: The data that it was trained on, in a few words.
            metrics: Its scores by name.
            preprocessing: As in `save_adapter`.
            revision: The branch; the main one by default.
            private: Whether a new repository is private.
            token: The hub's access token; by default that of the hub's login.
        """
        known = self.provenance
        if data is not None:
            known = dataclasses.replace(known, data=data)
        if metrics is not None:
            known = dataclasses.replace(known, metrics=dict(metrics), split=None)
        with tempfile.TemporaryDirectory() as folder:
            self.save_adapter(folder, name, preprocessing)
            report = getattr(self._pretrained[0], "load_report", None)
            of_weights = None if report is None else report.license
            card = hub.card(repository, Path(folder), known, license, of_weights)
            where = {"revision": revision, "private": private, "token": token}
            return hub.push(repository, Path(folder), card, **where)

    def merge(self) -> None:
        """Fold the active adapter into the network permanently, as far as its method allows."""
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
        """Remove every adapter and return the original backbone, bit for bit."""
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
        """Activate an adapter. Calls read only `_active`; the others make up the state."""
        with _changing:
            self._active = adapter
            self.backbone = self._pretrained[0] if adapter is None else adapter.network
            self.head = None if adapter is None else adapter.head

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> "AdaptedModel":
        """Also move the inactive adapters, and each shared tensor only once."""
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
