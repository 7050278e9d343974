"""The training options: the top level of a config."""

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
    """The training options.

    Args:
        out: The run folder.
        resume: Continue the run in `out` from its last checkpoint. `--resume FOLDER` names the run
            and needs no other option.
        seed: Fixes everything: weights, split, order, augmentation, dropout.
        epochs: Number of passes over the training clouds.
        batch_size: Clouds per step, over all processes.
        accumulate: Batches whose gradients are summed for one update.
        learning_rate: The largest learning rate of the schedule.
        min_learning_rate: The rate at the start of the warm-up and at the end of the cosine.
        warmup_epochs: Epochs during which the learning rate rises.
        schedule: cosine, with a linear rise and a cosine fall; or one_cycle, with a cosine rise
            from a tenth and a cosine fall, while AdamW's first beta goes 0.95, 0.85, 0.95.
        rates: Factors of the learning rate, by a word in the weight's name; the first match counts.
            {scales: 0.1} is for the blocks in PTv3's fine-tuning.
        weight_decay: Applies to matrices; not to biases, other 1-D parameters or tokens.
        clip_norm: Largest norm of the gradient; 0 for no limit.
        num_points: Points per cloud that the network sees; all by default.
        augmentation: none, scale_translate, slight_scale_translate (for part segmentation), rotate
            or scale_rotate about the y axis, rotate_freely about any axis, or occlude_scale_rotate,
            for pre-training, which also cuts off a side and adds noise.
        validation: Share of the training data on which the best epoch is chosen. With 0, all data
            trains and the last epoch counts.
        label_share: Share of the labels of every class to train on, at least one each, after the
            validation split is taken; 1 for all.
        evaluate_every: Epochs from one evaluation to the next; the last epoch always has one.
        test_every: Epochs from one scoring of the test split to the next, which chooses nothing;
            with 0 it is scored once, at the end.
        patience: Stop after this many epochs without improvement; 0 for never.
        ema: Decay of the running mean of the weights, which is evaluated and saved; 0 for none.
        precision: fp32; bf16 for matrix products in bfloat16; auto for bf16 if this machine
            multiplies it faster. A resumed run keeps its precision.
        compile: Compile the network with torch.compile.
        cuda_graph: Replay the training step as one CUDA graph: the same result, without the time
            that a CPU takes to launch a thousand kernels. For one GPU, and methods whose steps are
            all alike. auto takes ordinary steps where there can be no graph, which with on is an
            error; true and false mean on and off.
        accelerator: auto, cpu or cuda.
        devices: Number of processes to start on this machine; torchrun overrides it.
        num_workers: Processes that load data, for datasets that compute their clouds.
        checkpoint_seconds: Time between two checkpoints within an epoch.
        tensorboard: Write TensorBoard events.
        logger: An additional logger, by name: csv, wandb, mlflow, comet, neptune, or a class with
            Lightning's interface as package.module.Class.
        imports: A module with methods, datasets, backbones or tasks of your own, or its .py file. A
            run records it and needs it again; it is imported only if this option names it.
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
    cuda_graph: Literal["auto", "on", "off"] | bool = "auto"
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = 1
    num_workers: int = 0
    checkpoint_seconds: float = 300.0
    tensorboard: bool = True
    logger: str | None = None
    imports: tuple[str, ...] = ()

    # fields that may change when a run is resumed, because they do not affect the result
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
        if isinstance(self.cuda_graph, bool):  # which YAML also makes of on and off
            object.__setattr__(self, "cuda_graph", "on" if self.cuda_graph else "off")
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
                    f"rates: the factor of {word!r} must be at least 0 and finite, got {rate}"
                )
        if self.seed > LARGEST_SEED:
            raise UsageError(f"seed must be at most {LARGEST_SEED}, got {self.seed}")
        check_rates(self, "ema", "validation")
        if not 0 < self.label_share <= 1:
            raise UsageError(f"label_share must be above 0 and at most 1, got {self.label_share}")
        if self.patience and not self.validation:
            raise UsageError("patience needs a validation split, and validation is 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainOptions(TrainOptions):
    """Pre-training by hiding patches; the other options are those of `dapt train`.

    Args:
        objective: rebuild the hidden patches (Point-MAE), classify the clouds from the visible
            ones, or both.
        mask_ratio: Share of the patches that are hidden.
        decoder_depth: Number of decoder blocks.
        probe_every: Epochs between two linear probes of the backbone on the classes of the data;
            the last epoch always has one. 0 for none.
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
