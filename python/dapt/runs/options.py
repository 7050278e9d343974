"""The training itself, as settings: the top level of a config."""

import dataclasses
import math
from pathlib import Path
from typing import ClassVar, Literal

from dapt import data, models
from dapt.errors import UsageError, check_at_least, check_rates

LARGEST_SEED = 2**63 - 1
Augmentation = Literal[tuple(data.transforms.AUGMENTATIONS)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The training itself.

    Args:
        out: The run folder.
        resume: Go on with the run in `out` from its last checkpoint. `--resume FOLDER` names the
            run, and needs no other option.
        seed: Fixes everything: weights, split, order, augmentation, dropout.
        epochs: How often each training cloud is seen.
        batch_size: Clouds in a step, of all processes together.
        accumulate: Batches whose gradients are summed up to one update.
        learning_rate: At the top of the schedule.
        min_learning_rate: At the start of the warm-up and at the end of the cosine.
        warmup_epochs: Epochs in which the learning rate rises.
        schedule: cosine, which rises along a line and falls along a cosine; or one_cycle, which
            rises along a cosine, too, from a tenth, while AdamW's first beta goes from 0.95 to
            0.85 and back.
        rates: Factors of the learning rate for weights whose name contains a word, the first that
            fits: {scales: 0.1} for the blocks of PTv3's fine-tuning, say.
        weight_decay: For matrices; none for biases, other 1-D parameters and tokens.
        clip_norm: Largest norm of the gradient; 0 for no limit.
        num_points: Points of each cloud that the network sees; all by default.
        augmentation: none, scale_translate, slight_scale_translate (part segmentation's), rotate
            or scale_rotate about the y axis, rotate_freely about any, or occlude_scale_rotate, for
            pre-training, which cuts off a side and adds noise as well.
        validation: Share of the training data on which the best epoch is chosen; with 0 all of it
            trains and the last epoch counts.
        label_share: Share of the labels that it learns from, of every class, one at least: what is
            left of the training data once the validation split is taken; 1 for all.
        evaluate_every: Epochs from one evaluation to the next; the last epoch always has one.
        test_every: Epochs from one look at the test split to the next, by which nothing is chosen;
            with 0 it is scored once, at the end.
        patience: Stop after so many epochs without a better one; 0 for never.
        ema: Decay of the running mean of the weights, which is evaluated and saved; 0 for none.
        precision: fp32; bf16 for matrix products in bfloat16; auto for bf16 where this machine
            multiplies it faster. A run that goes on keeps what it was begun with.
        compile: Compile the network by torch.compile.
        cuda_graph: Repeat the training step as one CUDA graph: the same result, without the time
            that a CPU takes to launch a thousand kernels. On one GPU, with methods whose steps are
            alike; others are refused in a sentence.
        accelerator: auto, cpu or cuda.
        devices: Processes to start on this machine; under torchrun it decides.
        num_workers: Processes that load data, for datasets that compute their clouds.
        checkpoint_seconds: Time between two checkpoints within an epoch.
        tensorboard: Write TensorBoard events.
        logger: Another logger beside it, by name: csv, wandb, mlflow, comet, neptune, or a class of
            Lightning's kind as package.module.Class.
        imports: A module of methods, datasets, backbones or tasks of your own, or its .py file. A
            run notes it, and needs it again: it is imported where this option names it, alone.
    """

    out: Path
    resume: bool = False
    seed: int = 0
    epochs: int = 300
    batch_size: int = 32
    accumulate: int = 1
    learning_rate: float = 5e-4
    min_learning_rate: float = 1e-6
    warmup_epochs: float = 10
    schedule: Literal["cosine", "one_cycle"] = "cosine"
    rates: dict[str, float] = dataclasses.field(default_factory=dict)
    weight_decay: float = 0.05
    clip_norm: float = 10.0
    num_points: int | None = None
    augmentation: Augmentation = "scale_translate"
    validation: float = 0.1
    label_share: float = 1.0
    evaluate_every: int = 1
    test_every: int = 1
    patience: int = 0
    ema: float = 0.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool = False
    cuda_graph: bool = False
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = 1
    num_workers: int = 0
    checkpoint_seconds: float = 300.0
    tensorboard: bool = True
    logger: str | None = None
    imports: tuple[str, ...] = ()

    # what may change when a run goes on: it does not touch the result
    FREE: ClassVar[tuple[str, ...]] = (
        *("out", "resume", "devices", "num_workers", "checkpoint_seconds", "tensorboard", "logger"),
        "cuda_graph",
        "imports",
    )

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if getattr(self, field.name) is None and "None" not in str(field.type):
                raise UsageError(f"{field.name} must have a value, got none")
        object.__setattr__(self, "out", Path(self.out))
        check_at_least(self, epochs=1, batch_size=1, accumulate=1, devices=1, evaluate_every=1)
        check_at_least(self, seed=0, clip_norm=0, warmup_epochs=0, weight_decay=0, ema=0)
        check_at_least(self, patience=0, num_workers=0, min_learning_rate=0, test_every=0)
        check_at_least(self, checkpoint_seconds=0)
        if self.num_points is not None:
            check_at_least(self, num_points=1)
        if not 0 < self.learning_rate < math.inf:
            raise UsageError(f"learning_rate must be above 0 and finite, got {self.learning_rate}")
        if self.min_learning_rate > self.learning_rate:
            raise UsageError(
                f"min_learning_rate must be at most the learning_rate of {self.learning_rate}, "
                f"got {self.min_learning_rate}"
            )
        for word, rate in self.rates.items():
            if not 0 <= rate < math.inf:
                raise UsageError(
                    f"rates: that of {word!r} must be 0 or more and finite, got {rate}"
                )
        if self.seed > LARGEST_SEED:
            raise UsageError(f"seed must be at most {LARGEST_SEED}, got {self.seed}")
        check_rates(self, "ema", "validation")
        if not 0 < self.label_share <= 1:
            raise UsageError(f"label_share must be above 0 and at most 1, got {self.label_share}")
        if self.patience and not self.validation:
            raise UsageError("patience needs a validation share to wait on, and validation is 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainOptions(TrainOptions):
    """Pre-training by hiding patches; its further options are those of `dapt train`.

    Args:
        objective: rebuild the hidden patches (Point-MAE), classify the clouds by what is left of
            them, or both.
        mask_ratio: Share of the patches that are hidden.
        decoder_depth: Blocks of the decoder.
        probe_every: Epochs between two linear probes of the backbone, by the classes of the data;
            the last epoch has one, too. 0 for none.
    """

    objective: models.Objective = "rebuild"
    mask_ratio: float = 0.6
    decoder_depth: int = 4
    probe_every: int = 10
    batch_size: int = 128
    learning_rate: float = 1e-3
    num_points: int | None = 1024
    validation: float = 0.05

    def __post_init__(self):
        super().__post_init__()
        check_at_least(self, probe_every=0, decoder_depth=1)
        check_rates(self, "mask_ratio")
