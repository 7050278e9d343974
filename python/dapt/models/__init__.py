"""Point-cloud networks: tokenizers, backbones, and their published weights."""

from dapt.models.checkpoints import LoadReport
from dapt.models.compression import Storage, count_parameters, weight_bytes
from dapt.models.create import (
    BACKBONES,
    backbone_config,
    create_autoencoder,
    create_backbone,
    names,
    register,
)
from dapt.models.foreign import VitBackbone
from dapt.models.hierarchical import PointM2ae, PointM2aeConfig
from dapt.models.masked_autoencoder import MaskedAutoencoder, Objective
from dapt.models.point_femae import PointFemae, PointFemaeConfig
from dapt.models.point_gpt import PointGpt, PointGptConfig
from dapt.models.ptv3 import Ptv3, Ptv3Config, SceneFeatures
from dapt.models.recon_pp import ReconPp, ReconPpConfig
from dapt.models.transformer import Features, PointTransformer, PointTransformerConfig
from dapt.models.uni3d import Uni3d, Uni3dConfig

__all__ = [
    "BACKBONES",
    "Features",
    "LoadReport",
    "MaskedAutoencoder",
    "Objective",
    "PointFemae",
    "PointFemaeConfig",
    "PointGpt",
    "PointGptConfig",
    "PointM2ae",
    "PointM2aeConfig",
    "PointTransformer",
    "PointTransformerConfig",
    "Ptv3",
    "Ptv3Config",
    "ReconPp",
    "ReconPpConfig",
    "SceneFeatures",
    "Storage",
    "Uni3d",
    "Uni3dConfig",
    "VitBackbone",
    "backbone_config",
    "count_parameters",
    "create_autoencoder",
    "create_backbone",
    "names",
    "register",
    "weight_bytes",
]
