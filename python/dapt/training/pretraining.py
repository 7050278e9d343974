"""The pre-training of a backbone as a masked autoencoder, as the training loop runs it."""

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from dapt.data import Subset, load, split_validation, transforms
from dapt.files import write_atomically
from dapt.inference.probe import linear_probe
from dapt.inference.score import reduction, test_batches
from dapt.models import create_autoencoder
from dapt.runs.assembly import check_points
from dapt.runs.best import Best
from dapt.runs.folder import RunFolder
from dapt.runs.settings import Settings
from dapt.training.job import Batch, Job

EVALUATION_BATCH = 32
PROBE_CLOUDS = 1500  # clouds of the training split for the linear probe


class Pretraining(Job):
    """A masked autoencoder whose encoder becomes a backbone.

    Args:
        settings: The settings of the run.
    """

    metric = "validation_loss"
    higher_is_better = False

    def __init__(self, settings: Settings):
        options = settings.training
        whole = load(settings.data.name, settings.data.options, "train")
        self.train, self.validation = split_validation(whole, options.validation, options.seed)
        self.num_points = options.num_points or whole.num_points
        fields = dict(settings.backbone.options)
        checkpoint = fields.pop("checkpoint")
        fields.pop("class_token", None)
        torch.manual_seed(options.seed)
        self.model = create_autoencoder(
            settings.backbone.name,
            checkpoint,
            mask_ratio=options.mask_ratio,
            decoder_depth=options.decoder_depth,
            objective=options.objective,
            num_classes=whole.num_classes,
            **fields,
        )
        check_points(self.train, self.num_points, self.model.backbone)
        self.epochs, self.probe_every = options.epochs, options.probe_every
        rows = torch.linspace(0, len(self.train) - 1, min(PROBE_CLOUDS, len(self.train))).long()
        self._probe_clouds = Subset(self.train, rows)
        sample = transforms.RandomPoints(self.num_points)
        self._views = transforms.Compose([sample, transforms.augmentation(options.augmentation)])

    def parameters(self) -> list[tuple[str, nn.Parameter]]:
        return list(self.model.named_parameters())

    def state(self) -> Mapping[str, Tensor]:
        return self.model.state_dict()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.model.load_state_dict(state)

    def views(self, batch: Batch, share: transforms.Share) -> Batch:
        points = self._views(batch["points"], share)
        return {**batch, "points": points, "hidden": self._hidden(points, share)}

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        return network(batch["points"], batch["hidden"], batch["labels"])

    def _hidden(self, points: Tensor, share: transforms.Share) -> Tensor:  # [B, G]
        """Draw the hidden patches for the whole batch, so that several processes hide the same
        patches as one."""
        rows, groups = len(points), self.model.backbone.config.num_groups
        chance = torch.rand(rows * share.world_size, groups, generator=share.generator)
        rank = chance[rows * share.rank : rows * (share.rank + 1)].argsort(1).argsort(1)
        return (rank < self.model.num_masked).to(points.device)

    @torch.no_grad()
    def evaluate(self, epoch: int, fabric: Fabric) -> dict[str, float]:
        """The loss with the same hidden patches in every epoch."""
        totals = torch.zeros(2, dtype=torch.float64, device=fabric.device)
        share = transforms.Share(torch.Generator().manual_seed(0))
        self.model.eval()
        for batch in test_batches(self.validation, EVALUATION_BATCH, fabric, "validation"):
            points = reduction(self.num_points)(batch["points"], None)
            with fabric.autocast():
                view = {**batch, "points": points, "hidden": self._hidden(points, share)}
                loss = self.loss(self.model, view)
            totals += torch.stack([loss.double() * len(points), totals.new_tensor(len(points))])
        self.model.train()
        total, samples = fabric.all_reduce(totals, reduce_op="sum").tolist()
        return {"validation_loss": total / samples}

    def probe(self, epoch: int, fabric: Fabric) -> dict[str, float]:
        is_last = epoch + 1 == self.epochs
        due = self.probe_every and ((epoch + 1) % self.probe_every == 0 or is_last)
        if not due or self.train.num_classes < 2:
            return {}
        data = self._probe_clouds, self.validation, self.num_points
        return {"probe_accuracy": linear_probe(self.model.backbone, *data)}

    def write(self, path: Path) -> None:
        state = {name: value.detach().contiguous() for name, value in self.state().items()}
        write_atomically(path, safetensors.torch.save(state))

    def best(self, folder: RunFolder) -> Best:
        return Best(folder.backbone)

    def inputs(self) -> dict[str, str]:
        return {"training data": self.train.digest()}

    def load_best(self, file: Path) -> None:
        self.load_state(safetensors.torch.load_file(file))
