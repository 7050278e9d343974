"""Find the network and task of a released file from its tensors and config."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dapt.errors import DaptError, UsageError
from dapt.models.hierarchical import PointM2aeConfig
from dapt.models.point_femae import PointFemaeConfig
from dapt.models.point_gpt import PointGptConfig
from dapt.models.recon_pp import ReconPpConfig
from dapt.models.transformer import PointTransformerConfig
from dapt.models.weight_files import State
from dapt.tasks import Classification, PartSegmentation, SemanticSegmentation, Task

HEAD = "cls_head_finetune"
HEAD_WIDTH = 64  # width of an attention head, if a config does not give the number of heads

BackboneConfig = PointTransformerConfig | PointM2aeConfig | ReconPpConfig


@dataclass(frozen=True)
class ReleasedFile:
    """The tensors of a file, and the settings that their shapes do not reveal.

    Args:
        source: The name of the file, for errors.
        state: Tensors by their keys.
        settings: The settings of the published config.
    """

    source: str
    state: State
    settings: Mapping[str, Any]

    def size(self, key: str, axis: int) -> int:
        """The length of a tensor's axis.

        Args:
            key: The key of the tensor.
            axis: The axis of the tensor.
        """
        if key not in self.state:
            raise DaptError(
                f"{self.source} is not a released model of this kind: '{key}' is missing"
            )
        return self.state[key].shape[axis]

    def count(self, pattern: str) -> int:
        """Count numbered parts: one more than the greatest number in the file's keys.

        Args:
            pattern: A pattern for keys, with a group for the number.
        """
        numbers = (re.match(pattern, key) for key in self.state)
        return 1 + max((int(number[1]) for number in numbers if number), default=-1)

    @property
    def head(self) -> str:
        """The prefix of the classification head's keys."""
        named = (re.match(rf"(blocks\.)?{HEAD}(?=\.)", key) for key in self.state)
        return next((match[0] for match in named if match), HEAD)

    @property
    def encoder_widths(self) -> tuple[int, ...]:
        """The widths of the patch encoder's inner layers; larger networks have one more of them."""
        keys = (r"\w+\.first_conv\.[036]\.weight", r"\w+\.second_conv\.0\.weight")
        widths = [
            [self.size(key, 0) for key in self.state if re.fullmatch(pattern, key)]
            for pattern in keys
        ]
        return (*widths[0], *widths[1])

    def setting(self, name: str, default: Any = None) -> Any:
        """Read a setting of the released config.

        Args:
            name: The name of the setting.
            default: The value if the config does not set it; None if the config must set it.
        """
        value = self.settings.get(name, default)
        if value is None:
            raise UsageError(f"the config of {self.source} must set '{name}'")
        return value


def _sizes(file: ReleasedFile, dim: int, block: str) -> dict[str, int]:
    """The fields of all plain transformers; `block` is the pattern of a block's key."""
    return {
        "num_groups": file.setting("num_group"),
        "group_size": file.setting("group_size"),
        "dim": dim,
        "depth": file.count(block),
        "num_heads": file.setting("num_heads", max(dim // HEAD_WIDTH, 1)),
    }


def plain_backbone(file: ReleasedFile) -> PointTransformerConfig:
    """Find the sizes of a network like Point-MAE's from the tensors.

    Args:
        file: The released file.
    """
    dim = file.size("norm.weight", 0)
    return PointTransformerConfig(
        **_sizes(file, dim, r"blocks\.blocks\.(\d+)\."),
        mlp_ratio=file.size("blocks.blocks.0.mlp.fc1.weight", 0) // dim,
        encoder_dim=file.size("encoder.second_conv.3.weight", 0),
        class_token="cls_token" in file.state,
        drop_path=file.setting("drop_path_rate", 0.1),
        encoder_widths=file.encoder_widths,
        positions="sincos" if file.size("pos_embed.0.weight", 1) == dim else "mlp",
    )


def femae_backbone(file: ReleasedFile) -> PointFemaeConfig:
    """Find the sizes of a Point-FEMAE from the tensors.

    Args:
        file: The released file.
    """
    plain = dataclasses.asdict(plain_backbone(file))
    module = r"blocks\.blocks\.(\d+)\.cls\.conv1\.0\.weight"
    where = [int(match[1]) for key in file.state if (match := re.fullmatch(module, key))]
    inner = file.size(f"blocks.blocks.{where[0]}.cls.conv1.0.weight", 0)
    return PointFemaeConfig(
        **plain,
        neighbors=file.setting("gcn_k", 20),
        reduction=plain["dim"] // inner,
        local_blocks=None if where == list(range(plain["depth"])) else tuple(where),
    )


def gpt_backbone(file: ReleasedFile) -> PointGptConfig:
    """Find the sizes of a PointGPT from the tensors.

    Args:
        file: The released file.
    """
    dim = file.size("blocks.ln_f.weight", 0)
    return PointGptConfig(
        **_sizes(file, dim, r"blocks\.layers\.(\d+)\."),
        mlp_ratio=file.size("blocks.layers.0.mlp.0.weight", 0) // dim,
        encoder_dim=dim,
        class_token="cls_token" in file.state,
        encoder_widths=file.encoder_widths,
    )


def recon_pp_backbone(file: ReleasedFile) -> ReconPpConfig:
    """Find the sizes of a ReCon++ from the tensors.

    Args:
        file: The released file.
    """
    dim = file.size("encoder.ln_f1.weight", 0)
    blocks = "encoder.blocks.local_blocks"
    config = ReconPpConfig(
        **_sizes(file, dim, rf"{blocks}\.(\d+)\."),
        mlp_ratio=file.size(f"{blocks}.0.mlp.fc1.weight", 0) // dim,
        drop_path=file.setting("drop_path_rate", 0.2),
    )
    return config.fitted(file.state)


def m2ae_backbone(file: ReleasedFile) -> PointM2aeConfig:
    """Read the sizes of a Point-M2AE from the config.

    Args:
        file: The released file.
    """
    return PointM2aeConfig(
        num_groups=tuple(file.setting("num_groups")),
        group_size=tuple(file.setting("group_sizes")),
        dims=tuple(file.setting("encoder_dims")),
        depths=tuple(file.setting("encoder_depths")),
        radius=tuple(file.setting("local_radius")),
        num_heads=file.setting("num_heads"),
    )


def task_of(file: ReleasedFile, head: str, dropout: float) -> Task:
    """Find the task whose head is in the file.

    Args:
        file: The released file.
        head: The kind of head with the published layers; other kinds are recognized by their keys.
        dropout: The dropout rate of such a head.
    """
    if "convs3.weight" in file.state:
        labels = file.size("convs3.weight", 0)
        if "label_conv.0.weight" in file.state:
            return PartSegmentation(file.size("label_conv.0.weight", 1), labels)
        return SemanticSegmentation(labels)
    if f"{file.head}.8.weight" in file.state:
        classes = file.size(f"{file.head}.8.weight", 0)
        return Classification(classes, head=head, dropout=dropout)
    if f"{file.head}.3.weight" in file.state:
        return Classification(file.size(f"{file.head}.3.weight", 0), head="point_bert")
    return Classification(file.size(f"{file.head}.0.weight", 0), head="linear")
