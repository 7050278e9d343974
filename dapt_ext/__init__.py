"""Exact, repeatable point-cloud ops with hand-written CPU and CUDA kernels."""

from dapt_ext.ball_query import ball_query
from dapt_ext.build_info import build_info
from dapt_ext.chamfer import chamfer
from dapt_ext.fps import farthest_point_sample
from dapt_ext.gather import gather
from dapt_ext.group import Groups, group
from dapt_ext.interpolate import interpolate
from dapt_ext.knn import knn

__all__ = [
    "Groups",
    "ball_query",
    "build_info",
    "chamfer",
    "farthest_point_sample",
    "gather",
    "group",
    "interpolate",
    "knn",
]
