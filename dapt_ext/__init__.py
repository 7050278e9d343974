"""Exact, repeatable point-cloud ops with hand-written CPU and CUDA kernels."""

from dapt_ext.attention import attention
from dapt_ext.ball_query import ball_query
from dapt_ext.build_info import build_info
from dapt_ext.chamfer import chamfer
from dapt_ext.curve_codes import CELL_BITS, CURVES, curve_codes
from dapt_ext.dynamic_adapter import dynamic_adapter, dynamic_adapters
from dapt_ext.fps import farthest_point_sample
from dapt_ext.gather import gather
from dapt_ext.group import Groups, group
from dapt_ext.interpolate import interpolate
from dapt_ext.knn import knn
from dapt_ext.patch_encoder import PatchEncoderWeights, fold_batch_norm, patch_encoder
from dapt_ext.scale_shift import scale_shift_linear, scale_shift_norm
from dapt_ext.submanifold_conv import submanifold_conv
from dapt_ext.voxels import Cells, grid_sample, neighbor_map, unique_cells

__all__ = [
    "CURVES",
    "CELL_BITS",
    "Cells",
    "Groups",
    "PatchEncoderWeights",
    "attention",
    "ball_query",
    "build_info",
    "chamfer",
    "curve_codes",
    "dynamic_adapter",
    "dynamic_adapters",
    "farthest_point_sample",
    "fold_batch_norm",
    "gather",
    "grid_sample",
    "group",
    "interpolate",
    "knn",
    "neighbor_map",
    "patch_encoder",
    "scale_shift_linear",
    "scale_shift_norm",
    "submanifold_conv",
    "unique_cells",
]
