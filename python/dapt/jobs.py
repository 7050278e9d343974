"""What the training loop trains: a model, its loss, its metrics and the files that it leaves."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping

import safetensors.torch
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from dapt.config import PretrainOptions, TrainOptions, Tree, options_in, section
from dapt.data import PointDataset, Subset, has_split, load, split_validation, transforms
from dapt.distributed import launch, sum_over_processes
from dapt.errors import UsageError
from dapt.evaluate import SCORES, reduction, test_batches
from dapt.methods import AdaptedModel, attach, load_adapter, method_class
from dapt.models import create_autoencoder, create_backbone
from dapt.probe import linear_probe
from dapt.runs import RunFolder, write_atomically
from dapt.tasks import task_class

EVALUATION_BATCH = 32
PROBE_CLOUDS = 1500  # of the training split, on which a linear probe learns


class Job(ABC):
    """One kind of training. The loop knows nothing of what it trains but this."""

    model: nn.Module
    train: PointDataset
    validation: PointDataset
    metric: str  # the validation metric by which the best epoch is chosen
    higher_is_better: bool

    @abstractmethod
    def parameters(self) -> list[tuple[str, nn.Parameter]]: ...

    @abstractmethod
    def state(self) -> Mapping[str, Tensor]:
        """What a checkpoint keeps of the model."""

    @abstractmethod
    def load_state(self, state: Mapping[str, Tensor]) -> None: ...

    @abstractmethod
    def views(self, points: Tensor, share: transforms.Share) -> Tensor:
        """The clouds as one training step sees them."""

    @abstractmethod
    def loss(
        self, network: nn.Module, points: Tensor, batch: Mapping[str, Tensor], share
    ) -> Tensor: ...

    @abstractmethod
    def evaluate(self, fabric: Fabric) -> dict[str, float]:
        """The metrics of an epoch, the validation metric among them."""

    @abstractmethod
    def write(self, folder: RunFolder) -> None:
        """Leave the trained weights in their own format."""

    @abstractmethod
    def load_best(self, folder: RunFolder) -> None: ...

    def prepare(self, fabric: Fabric) -> None:  # noqa: B027, most jobs need nothing
        """What has to be known of the training data before the first step."""

    def probe(self, epoch: int, fabric: Fabric) -> dict[str, float]:
        """Further measurements for the epoch's line; a job decides in which epochs."""
        return {}

    def final(self, fabric: Fabric) -> dict[str, object]:
        """The result of the best epoch, once."""
        return {}


class Adaptation(Job):
    """A frozen backbone, adapted to a task by a method."""

    higher_is_better = True

    def __init__(self, tree: Tree):
        options = options_in(tree, TrainOptions)
        name, fields = section(tree, "data")
        whole = load(name, fields, "train")
        self.train, self.validation = split_validation(whole, options.validation, options.seed)
        self.test = load(name, fields, "test") if has_split(name, fields, "test") else None
        self.num_points = options.num_points or whole.num_points
        self.model = build_model(tree, whole.num_classes, whole.class_names, options.seed)
        for dataset in filter(None, (self.train, self.test)):
            check_points(dataset, self.num_points, self.model.backbone)
        self.task = self.model.adapter.task
        self.metric = f"validation_{self.task.metric}"
        resample = [transforms.Resample(options.num_points)] if options.num_points else []
        self._views = transforms.Compose([*resample, transforms.augmentation(options.augmentation)])

    def parameters(self) -> list[tuple[str, nn.Parameter]]:
        return self.model.own_parameters()

    def state(self) -> Mapping[str, Tensor]:
        return self.model.own_state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.model.load_own_state(state)

    def prepare(self, fabric: Fabric) -> None:
        self.model.prepare(self._clouds(fabric))

    def _clouds(self, fabric: Fabric) -> Iterator[Tensor]:
        for batch in test_batches(self.train, EVALUATION_BATCH, fabric):
            yield reduction(self.num_points)(batch["points"], None)

    def views(self, points: Tensor, share: transforms.Share) -> Tensor:
        return self._views(points, share)

    def loss(self, network, points, batch, share) -> Tensor:
        loss = self.task.loss(network(points), batch)
        extra = self.model.adapter.method.extra_loss(self.model)
        return loss if extra is None else loss + extra

    def evaluate(self, fabric: Fabric) -> dict[str, float]:
        splits = {"validation": self.validation, "test": self.test}
        scores = {
            f"{split}_{name}": value
            for split, dataset in splits.items()
            if dataset is not None
            for name, value in self._scores(dataset, fabric).summary().items()
        }
        return scores | self.model.adapter.method.meters(self.model)

    def _scores(self, dataset: PointDataset, fabric: Fabric):
        score = SCORES[self.task.name]
        return score(self.model, dataset, fabric, self.num_points, EVALUATION_BATCH)

    def write(self, folder: RunFolder) -> None:
        self.model.save_adapter(folder.adapter)

    def load_best(self, folder: RunFolder) -> None:
        path = folder.adapter / "adapter_model.safetensors"
        self.model.load_own_state(safetensors.torch.load_file(path))

    def final(self, fabric: Fabric) -> dict[str, object]:
        split, dataset = ("test", self.test) if self.test else ("validation", self.validation)
        scores = self._scores(dataset, fabric)
        per_class = scores.per_class(dataset.class_names)
        head = sum(weight.numel() for weight in self.model.head.parameters())
        summary = {"split": split, **scores.summary(), "per_class": per_class}
        return summary | {"head_parameters": head}


class Pretraining(Job):
    """A masked autoencoder whose encoder becomes a backbone."""

    metric = "validation_loss"
    higher_is_better = False

    def __init__(self, tree: Tree):
        options = options_in(tree, PretrainOptions)
        name, fields = section(tree, "data")
        whole = load(name, fields, "train")
        self.train, self.validation = split_validation(whole, options.validation, options.seed)
        self.num_points = options.num_points or whole.num_points
        name, fields = section(tree, "backbone")
        checkpoint = fields.pop("checkpoint")
        fields.pop("class_token", None)
        torch.manual_seed(options.seed)
        self.model = create_autoencoder(
            name, checkpoint, options.mask_ratio, options.decoder_depth, **fields
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

    def views(self, points: Tensor, share: transforms.Share) -> Tensor:
        return self._views(points, share)

    def loss(self, network, points, batch, share) -> Tensor:
        return network(points, self._mask(len(points), share).to(points.device))

    def _mask(self, rows: int, share: transforms.Share) -> Tensor:  # [B, G]
        """Of the whole batch, so that several processes hide what one process hides."""
        groups = self.model.backbone.config.num_groups
        chance = torch.rand(rows * share.world_size, groups, generator=share.generator)
        rank = chance[rows * share.rank : rows * (share.rank + 1)].argsort(1).argsort(1)
        return rank < self.model.num_masked

    @torch.no_grad()
    def evaluate(self, fabric: Fabric) -> dict[str, float]:
        """The loss with the same hidden patches in every epoch."""
        totals = torch.zeros(2, dtype=torch.float64, device=fabric.device)
        share = transforms.Share(torch.Generator().manual_seed(0))
        self.model.eval()
        for batch in test_batches(self.validation, EVALUATION_BATCH, fabric):
            points = reduction(self.num_points)(batch["points"], None)
            with fabric.autocast():
                loss = self.loss(self.model, points, batch, share)
            totals += torch.stack([loss.double() * len(points), totals.new_tensor(len(points))])
        self.model.train()
        total, samples = sum_over_processes(fabric, totals).tolist()
        return {"validation_loss": total / samples}

    def probe(self, epoch: int, fabric: Fabric) -> dict[str, float]:
        is_last = epoch + 1 == self.epochs
        due = self.probe_every and ((epoch + 1) % self.probe_every == 0 or is_last)
        if not due or self.train.num_classes < 2:
            return {}
        data = self._probe_clouds, self.validation, self.num_points
        return {"probe_accuracy": linear_probe(self.model.backbone, *data)}

    def write(self, folder: RunFolder) -> None:
        state = {name: value.detach().contiguous() for name, value in self.state().items()}
        write_atomically(folder.backbone, safetensors.torch.save(state))

    def load_best(self, folder: RunFolder) -> None:
        self.load_state(safetensors.torch.load_file(folder.backbone))


def build_model(tree: Tree, num_classes: int, class_names: list[str], seed: int) -> AdaptedModel:
    """The untrained model that the settings describe, the same for the same seed."""
    torch.manual_seed(seed)
    name, fields = section(tree, "backbone")
    backbone = create_backbone(name, **fields)
    name, fields = section(tree, "method")
    method = method_class(name)(**fields)
    name, fields = section(tree, "task")
    task = task_class(name)(num_classes=num_classes, class_names=tuple(class_names), **fields)
    torch.manual_seed(seed)
    return attach(backbone, method, task)


def restore_model(tree: Tree, folder: RunFolder) -> AdaptedModel:
    """The trained model of a run: its backbone made anew, its adapter from the folder."""
    torch.manual_seed(tree["seed"])  # a backbone without a checkpoint is a matter of the seed
    name, fields = section(tree, "backbone")
    return load_adapter(folder.adapter, create_backbone(name, **fields))


def evaluate_run(folder: RunFolder, split: str, votes: int, options: TrainOptions) -> dict:
    """The scores of a run's model on its validation or test split."""
    tree = folder.settings()
    if "method" not in tree:
        raise UsageError(f"{folder.path} is a run of pre-training, which has no classes to tell")
    fabric = launch(options)
    name, fields = section(tree, "data")
    if split == "test" and not has_split(name, fields, "test"):
        raise UsageError(f"the run in {folder.path} names no test data: use --split validation")
    dataset = load(name, fields, "test" if split == "test" else "train")
    if split == "validation":
        dataset = split_validation(dataset, tree["validation"], tree["seed"])[1]
    model = restore_model(tree, folder).to(fabric.device)
    score = SCORES[model.adapter.task.name]
    scores = score(model, dataset, fabric, tree["num_points"], options.batch_size, votes)
    result = {"split": split, "votes": votes, "samples": scores.samples, **scores.summary()}
    return result | {"per_class": scores.per_class(dataset.class_names)}


def check_points(dataset: PointDataset, num_points: int, backbone: nn.Module) -> None:
    if num_points > dataset.num_points:
        raise UsageError(
            f"num_points must be at most the {dataset.num_points} points of the clouds, "
            f"got {num_points}"
        )
    check_groups(num_points, backbone)


def check_groups(num_points: int, backbone: nn.Module) -> None:
    """A cloud has to have a point for each center, and each patch its points."""
    first = backbone.tokenizers[0]
    for field in ("num_groups", "group_size"):
        if getattr(first, field) > num_points:
            raise UsageError(
                f"the network sees {num_points} points of a cloud, fewer than its {field} of "
                f"{getattr(first, field)}: make backbone.{field} smaller, or give more points"
            )
