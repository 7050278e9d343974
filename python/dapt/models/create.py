"""Backbones by name or by size, with published weights."""

import dataclasses
import logging
import os

import torch
from torch import nn

from dapt.errors import UsageError
from dapt.models.checkpoints import load_weights
from dapt.models.compression import Quantizer, Storage, compress
from dapt.models.hierarchical import PointM2ae, PointM2aeConfig
from dapt.models.layout import Layout
from dapt.models.layouts import AUTOENCODER_LAYOUTS
from dapt.models.masked_autoencoder import MaskedAutoencoder, Objective
from dapt.models.point_femae import PointFemaeConfig
from dapt.models.point_gpt import LARGE_ENCODER, PointGptConfig
from dapt.models.pretrained import RANDOM, SHIPPED, is_shipped, shipped_checkpoint
from dapt.models.ptv3 import Ptv3Config
from dapt.models.recon_pp import ReconPpConfig
from dapt.models.sources import local_file
from dapt.models.transformer import PointTransformer, PointTransformerConfig
from dapt.models.uni3d import Uni3dConfig
from dapt.models.weight_files import State, read_state
from dapt.plugins import entry, installed

BackboneConfig = (
    PointTransformerConfig
    | PointM2aeConfig
    | PointFemaeConfig
    | PointGptConfig
    | Ptv3Config
    | ReconPpConfig
    | Uni3dConfig
)

_PTV3_DEEP = {"depths": (3, 3, 3, 12, 3)}
_UTONIA = {"grid_size": 0.01, "scale": 0.5, "rope_base": 10.0}
_PTV3 = {
    "tiny": Ptv3Config(
        dims=(16, 32, 64, 128, 256), depths=(1, 1, 1, 3, 1), num_heads=(1, 2, 4, 8, 16)
    ),
    "small": Ptv3Config(),
    "base": Ptv3Config(dims=(48, 96, 192, 384, 512), num_heads=(3, 6, 12, 24, 32), **_PTV3_DEEP),
    "large": Ptv3Config(dims=(64, 128, 256, 512, 768), num_heads=(4, 8, 16, 32, 48), **_PTV3_DEEP),
    "utonia_tiny": Ptv3Config(dims=(18, 36, 72, 144, 216), num_heads=(1, 2, 4, 8, 12), **_UTONIA),
    "utonia_small": Ptv3Config(
        dims=(36, 72, 144, 288, 432), num_heads=(2, 4, 8, 16, 24), **_UTONIA
    ),
    "utonia_base": Ptv3Config(
        dims=(54, 108, 216, 432, 576), num_heads=(3, 6, 12, 24, 32), **_PTV3_DEEP, **_UTONIA
    ),
}
_PTV3 |= {f"sonata_{size}": _PTV3[size] for size in ("small", "base")}
_PTV3 |= {f"concerto_{size}": _PTV3[size] for size in ("tiny", "small", "base", "large")}

BACKBONES: dict[str, BackboneConfig] = {
    "point_mae": PointTransformerConfig(),
    "point_bert": PointTransformerConfig(encoder_dim=256),
    "act": PointTransformerConfig(),
    "recon": PointTransformerConfig(),
    "point_m2ae": PointM2aeConfig(),
    "pcp_mae": PointTransformerConfig(positions="sincos"),
    "point_femae": PointFemaeConfig(),
    "point_gpt_s": PointGptConfig(),
    "point_gpt_b": PointGptConfig(
        dim=768, num_heads=12, encoder_dim=768, encoder_widths=LARGE_ENCODER
    ),
    "point_gpt_l": PointGptConfig(
        dim=1024, depth=24, num_heads=16, encoder_dim=1024, encoder_widths=LARGE_ENCODER
    ),
    "recon_pp_small": ReconPpConfig(),
    "recon_pp_base": ReconPpConfig(dim=768, num_heads=12, encoder_widths=LARGE_ENCODER),
    "recon_pp_large": ReconPpConfig(dim=1024, depth=24, num_heads=16, encoder_widths=LARGE_ENCODER),
    "uni3d_tiny": Uni3dConfig(dim=192, num_heads=3, hidden=512),
    "uni3d_small": Uni3dConfig(),
    "uni3d_base": Uni3dConfig(dim=768, num_heads=12, hidden=2048, mlp="swiglu_norm"),
    "uni3d_large": Uni3dConfig(dim=1024, depth=24, num_heads=16, hidden=2730, mlp="swiglu_norm"),
    "uni3d_giant": Uni3dConfig(dim=1408, depth=40, num_heads=16, hidden=6144, mlp="gelu"),
    **{f"ptv3_{size}": config for size, config in _PTV3.items()},
    "point_mae_tiny": PointTransformerConfig(
        num_groups=32,
        dim=192,
        depth=6,
        num_heads=3,
        encoder_dim=192,
        encoder_widths=(64, 128, 256),
    ),
}

_log = logging.getLogger("dapt")


def names() -> list[str]:
    """The names of all backbones, installed plug-ins included."""
    return sorted({*BACKBONES, *installed("backbone")})


def register(name: str, config: BackboneConfig) -> None:
    """Register a backbone under a name.

    Args:
        name: The value of `backbone.name` that selects it.
        config: A dataclass of its sizes whose `build()` returns the network.
    """
    if name in BACKBONES and type(config).__module__ != "__main__":
        raise NameError(f"backbone '{name}' is registered twice")
    if not (dataclasses.is_dataclass(config) and callable(getattr(config, "build", None))):
        raise TypeError(f"backbone '{name}' must be a dataclass of sizes with a method build()")
    BACKBONES[name] = config


def create_backbone(
    name: str, checkpoint: str | os.PathLike | None = None, **fields
) -> PointTransformer | PointM2ae:
    """Create a backbone by name.

    A checkpoint must contain every weight, in the right shape. ``backbone.load_report`` says what
    happened to each tensor, and so does the "dapt" logger at level INFO. Without a checkpoint, the
    backbone gets the weights shipped with the package if they fit; otherwise its weights are
    random, which logs a warning unless the checkpoint is "none".

    Args:
        name: A key of `BACKBONES`.
        checkpoint: A .pth or safetensors file, or hf://owner/repository/file@revision for a file
            on a hub; "shipped" for the weights that come with the package, if there are any of
            this size; "none" for random weights.
        **fields: Config fields that replace the defaults of this size.
    """
    config = backbone_config(name, **fields)
    if checkpoint is None and is_shipped(name) and _fits(config, name):
        checkpoint = SHIPPED
    if checkpoint is None:
        _log.warning(
            "%s has random weights: pass checkpoint= for pre-trained ones, or "
            "checkpoint='none' if random ones are intended",
            name,
        )
    if checkpoint in (None, RANDOM):
        return _compressed(config.build())
    checkpoint = _file_of(checkpoint, config, name)
    if hasattr(config, "fitted"):
        config = config.fitted(read_state(checkpoint), fields)
    with torch.device("meta"):  # the weights come from the file
        backbone = config.build()
    if isinstance(config, Storage) and Quantizer.can(config):
        report = load_weights(backbone, checkpoint, take=Quantizer(backbone).take)
    else:
        report = load_weights(backbone, checkpoint)
        _compressed(backbone)
    backbone.load_report = report
    _log.info("%s", report)
    return backbone


def _fits(config: BackboneConfig, name: str) -> bool:
    """Whether the weights of the named network fit the shapes of this config."""
    if getattr(config, "in_channels", 3) > 3:  # loading adds the columns of the extra channels
        config = dataclasses.replace(config, in_channels=3)
    return _shapes(config) == _shapes(BACKBONES[name])


def _shapes(config: BackboneConfig) -> dict[str, torch.Size]:
    """Shapes of the entries in a file of its weights; no such file holds a class token."""
    with torch.device("meta"):
        state = config.build().state_dict()
    return {entry: value.shape for entry, value in state.items() if not entry.startswith("cls_")}


def _file_of(checkpoint: str | os.PathLike, config: BackboneConfig, name: str) -> str | os.PathLike:
    """The file of a checkpoint, which may be "shipped" if those weights fit."""
    if os.fspath(checkpoint) == SHIPPED:
        checkpoint = shipped_checkpoint(name)
        _check_fits(config, name)
    return local_file(checkpoint)


def _check_fits(config: BackboneConfig, name: str) -> None:
    ours = BACKBONES[name]
    if _fits(config, name):
        return
    fields = (field.name for field in dataclasses.fields(config))
    other = [key for key in fields if getattr(config, key) != getattr(ours, key)]
    told = ", ".join(f"{key}={getattr(config, key)}" for key in other)
    raise UsageError(
        f"the shipped weights fit {name} at its default sizes, not with {told}: name a "
        f"checkpoint, or use checkpoint {RANDOM} for random weights"
    )


def _compressed(backbone: nn.Module) -> nn.Module:
    """The backbone, compressed in place if its config says so."""
    if isinstance(backbone.config, Storage) and backbone.config.compressed:
        compress(backbone)
    return backbone


def create_autoencoder(
    name: str,
    checkpoint: str | os.PathLike | None = None,
    mask_ratio: float = 0.6,
    decoder_depth: int = 4,
    objective: Objective = "rebuild",
    num_classes: int = 0,
    **fields,
) -> MaskedAutoencoder:
    """Create Point-MAE's pre-training network around a backbone without a class token.

    Args:
        name: The name of the backbone.
        checkpoint: Weights to start from: of a backbone, or of a pre-training with this or another
            objective, whose missing parts start at random; "shipped" for the weights that come
            with the package. None or "none" means random weights.
        mask_ratio: Share of the patches that are hidden.
        decoder_depth: The number of decoder blocks.
        objective: "rebuild", "classify" or "both".
        num_classes: The number of classes, for an objective that uses the labels.
        fields: Config fields that replace the defaults of the backbone.
    """
    config = backbone_config(name, class_token=False, **fields)
    if getattr(config, "in_channels", 3) > 3:
        raise UsageError("in_channels: pre-training predicts coordinates only, so leave it at 3")
    if config.compressed:
        raise UsageError(f"pre-training trains the weights, and these are {config.compressed}")
    backbone = config.build()
    autoencoder = MaskedAutoencoder(
        backbone, mask_ratio, decoder_depth, objective=objective, num_classes=num_classes
    )
    if checkpoint in (None, RANDOM):
        return autoencoder
    source = _file_of(checkpoint, config, name)
    state = read_state(source)
    layout = next((layout for layout in AUTOENCODER_LAYOUTS if layout.matches(state)), None)
    if layout is None:
        report = load_weights(backbone, source)
    else:
        report = load_weights(autoencoder, source, (_without_heads(layout, state, autoencoder),))
    _log.info("%s", report)
    return autoencoder


def _without_heads(layout: Layout, state: State, network: nn.Module) -> Layout:
    """The layout of a file that may lack whole parts of a network: all but its backbone."""
    held = {entry: layout.key(entry) in state for entry in network.state_dict()}
    parts = {entry.partition(".")[0] for entry in held if held[entry]} | {"backbone"}
    fresh = {entry: "random" for entry in held if entry.partition(".")[0] not in parts}
    return dataclasses.replace(layout, fresh=fresh)


def backbone_config(name: str, **fields) -> BackboneConfig:
    """Return the config of a named backbone, with the given fields replaced.

    Args:
        name: The name of the backbone.
        fields: Config fields that replace the defaults.
    """
    config = entry("backbone", name, BACKBONES)
    known = [field.name for field in dataclasses.fields(config)]
    for field in fields:
        if field not in known:
            raise UsageError(f"backbone '{name}' has no field '{field}'; it has {', '.join(known)}")
    return dataclasses.replace(config, **fields)
