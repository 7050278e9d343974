"""How a run's model behaves on its data, beyond the score: gathered in one pass, and stored.

Vocabulary: S samples in the split, C classes or point labels, L blocks.
"""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from dapt.adapters import AdaptedModel
from dapt.data import PointDataset, Subset
from dapt.data.labels import IGNORED
from dapt.files import write_atomically
from dapt.inference.score import log_probabilities, test_batches
from dapt.runs.assembly import load_splits, restore_model
from dapt.runs.folder import RunFolder
from dapt.runs.options import TrainOptions
from dapt.runs.processes import launch
from dapt.tasks.metrics import confusion_matrix
from dapt.view.insight import Watch

BINS = 15  # number of confidence bins
EMBEDDED = 600  # number of clouds whose features are kept
KEPT = "evidence.npz"


@dataclass(frozen=True)
class Evidence:
    """The measurements of one pass over a split.

    Args:
        confusion: Counts of clouds or points, truth by prediction, int64 [C, C].
        calibration: For each bin the number of predictions, of right ones, and the sum of
            confidences, float64 [BINS, 3].
        truth: The class of each sample, int64 [S].
        predicted: The predicted class, int64 [S]; -1 if the model labels points.
        right: 1 for a right prediction, otherwise 0; the share of right points if the model labels
            points; float32 [S].
        confidence: The probability of the prediction, or its mean over points, float32 [S].
        features: The features that the head reads for the first E samples, float32 [E, D]; D = 0 if
            unknown.
        scale_mean: The mean scale of the dynamic adapters in each block, float64 [L]; L = 0 without
            any.
        scale_share: The share of tokens that the adapters change, float64 [L].
    """

    confusion: np.ndarray
    calibration: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray
    right: np.ndarray
    confidence: np.ndarray
    features: np.ndarray
    scale_mean: np.ndarray
    scale_share: np.ndarray

    def calibration_error(self) -> float:
        """Expected calibration error: how far confidence and accuracy are apart, on average."""
        count, right, confident = self.calibration.T
        return float(np.abs(right - confident).sum() / max(count.sum(), 1))


def dataset_of(folder: RunFolder, limit: int | None) -> tuple[str, PointDataset]:
    """(name, samples) of the split that scores a run: test, or validation if there is no test.

    Args:
        folder: The folder of the run.
        limit: The largest number of samples, evenly spread; all by default.
    """
    _, validation, test = load_splits(folder.settings())
    split, dataset = ("test", test) if test is not None else ("validation", validation)
    if limit is not None and len(dataset) > limit:
        rows = np.unique(np.linspace(0, len(dataset) - 1, limit).round().astype(int))
        dataset = Subset(dataset, rows)
    return split, dataset


def gather(folder: RunFolder, dataset: PointDataset, split: str) -> Evidence:
    """Load the evidence that an earlier report stored in the run folder, or measure it.

    Args:
        folder: The folder of the run.
        dataset: The samples to measure.
        split: The name of their split.
    """
    path = folder.path / KEPT
    about = _fingerprint(folder, dataset, split)
    found = _read(path, about)
    if found is None:
        training = folder.settings().training
        fabric = launch(TrainOptions(out=folder.path, precision=training.precision))
        found = measure(restore_model(folder), dataset, training.num_points, fabric)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, about=about, **vars(found))
        write_atomically(path, buffer.getvalue())
    return found


def _fingerprint(folder: RunFolder, dataset: PointDataset, split: str) -> str:
    """A fingerprint of the adapter and the data."""
    digest = hashlib.sha256((folder.adapter / "adapter_model.safetensors").read_bytes())
    digest.update(f"{split} {len(dataset)} 1".encode() + dataset.labels.tobytes())
    return digest.hexdigest()


def _read(path: Path, about: str) -> Evidence | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file["about"]) != about:
                return None
            return Evidence(**{field.name: file[field.name] for field in fields(Evidence)})
    except Exception:  # from another version, or damaged: it is measured again
        return None


@torch.no_grad()
def measure(
    model: AdaptedModel, dataset: PointDataset, num_points: int | None, fabric: Fabric
) -> Evidence:
    """Measure one pass of the model over all samples.

    Args:
        model: A trained model.
        dataset: The samples.
        num_points: The number of points per cloud that the network reads; None for all.
        fabric: The Fabric that provides device and precision.
    """
    task = model.adapter.task
    model.to(fabric.device).eval()
    counts = _Counts(len(task.label_names))
    generator = torch.Generator().manual_seed(0)
    with Watch(model) as watch:
        for batch in test_batches(dataset, task.evaluation_batch, fabric, "looking"):
            with fabric.autocast():
                logs = log_probabilities(model, batch, num_points, 1, generator)
            counts.add(*_answers(model, logs, batch), batch["labels"])
            counts.add_features(_pooled(model, watch))
            counts.add_scales(watch.take_scales())
            watch.take_attention()
    return counts.evidence()


def _answers(
    model: AdaptedModel, logs: Tensor, batch: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """(truth, prediction, its probability), each [B], or [B, N] for points."""
    task = model.adapter.task
    truth = batch["part_labels"] if task.labels_points else batch["labels"]
    chances = logs.exp()
    if task.name == "part_segmentation":  # only the parts of an object's category
        own = task.own_parts(logs.device)[batch["labels"]][:, None]  # [B, 1, C]
        chances = chances.masked_fill(~own, 0)
        chances = chances / chances.sum(-1, keepdim=True).clamp_min(1e-30)
    confidence, predicted = chances.max(-1)
    return truth.cpu(), predicted.cpu(), confidence.float().cpu()


def _pooled(model: AdaptedModel, watch: Watch) -> Tensor:  # [B, D]
    """The features that a head for whole clouds reads; the mean over patches for other heads."""
    pool = getattr(model.head, "pool", None)
    pooled = watch.features.patches.mean(1) if pool is None else pool(watch.features)
    return pooled.float().cpu()


class _Counts:
    """Sums over batches."""

    def __init__(self, labels: int):
        self.labels = labels
        self.confusion = torch.zeros(labels, labels, dtype=torch.int64)
        self.calibration = torch.zeros(BINS, 3, dtype=torch.float64)
        self.samples: list[tuple[Tensor, ...]] = []
        self.features: list[Tensor] = []
        self.scales = torch.zeros(3, 0, dtype=torch.float64)  # sum, changed tokens, all: [3, L]

    def add(self, truth: Tensor, predicted: Tensor, confidence: Tensor, classes: Tensor) -> None:
        known, right = truth != IGNORED, predicted == truth
        self.confusion += confusion_matrix(truth[known], predicted[known], self.labels)
        bins = (confidence[known] * BINS).long().clamp_max(BINS - 1)
        columns = torch.ones_like(bins), right[known], confidence[known]
        self.calibration.index_add_(0, bins, torch.stack([c.double() for c in columns], 1))
        B = len(classes)
        count = known.reshape(B, -1).sum(1).clamp_min(1)
        share = (right & known).reshape(B, -1).sum(1) / count
        answer = predicted if predicted.dim() == 1 else torch.full((B,), -1)
        sure = (confidence * known).reshape(B, -1).sum(1) / count
        self.samples.append((classes.cpu(), answer, share.float(), sure))

    def add_features(self, features: Tensor) -> None:
        if sum(map(len, self.features)) < EMBEDDED:
            self.features.append(features)

    def add_scales(self, scales: Tensor | None) -> None:  # [L, B, G]
        if scales is None:
            return
        flat = scales.flatten(1).double().cpu()
        sums = torch.stack([flat.sum(1), (flat > 0).double().sum(1), torch.ones_like(flat).sum(1)])
        self.scales = sums if not self.scales.numel() else self.scales + sums

    def evidence(self) -> Evidence:
        truth, predicted, right, confidence = (
            torch.cat(c) for c in zip(*self.samples, strict=True)
        )
        total = self.scales[2].clamp_min(1)
        return Evidence(
            self.confusion.numpy(),
            self.calibration.numpy(),
            truth.numpy(),
            predicted.numpy(),
            right.numpy(),
            confidence.numpy(),
            torch.cat(self.features)[:EMBEDDED].numpy(),
            (self.scales[0] / total).numpy(),
            (self.scales[1] / total).numpy(),
        )


def embedding(features: np.ndarray) -> tuple[str, np.ndarray]:
    """Embed features in two dimensions, by t-SNE if scikit-learn is installed, otherwise by PCA.

    Args:
        features: [E, C].

    Returns:
        The name of the method, and the embedding [E, 2].
    """
    features = features - features.mean(0)
    features = features / max(features.std(), 1e-12)
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        u, s, _ = torch.linalg.svd(torch.from_numpy(features).double(), full_matrices=False)
        flat = torch.nn.functional.pad(u * s, (0, 2))[:, :2]
        return "principal components", flat.numpy()
    perplexity = min(30.0, max(1.0, (len(features) - 1) / 3))
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=0)
    return "t-SNE", tsne.fit_transform(features.astype(np.float32))
