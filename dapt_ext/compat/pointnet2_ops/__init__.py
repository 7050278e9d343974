"""`from dapt_ext.compat.pointnet2_ops import pointnet2_utils` in place of `pointnet2_ops`."""

from dapt_ext.compat.pointnet2_ops import pointnet2_utils

__all__ = ["pointnet2_utils"]
