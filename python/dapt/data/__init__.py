"""Datasets of point clouds, read from the files that their owners distribute, served as batches.

train = dapt.data.load("scanobjectnn", {"root": "data/ScanObjectNN"}, "train")
train, validation = dapt.data.split_validation(train, fraction=0.1, seed=0)
sampler = dapt.data.BatchSampler(len(train), batch_size=32, seed=0)
for batch in dapt.data.loader(train, sampler):
    batch["points"], batch["labels"]  # [B, N, 3] float32, [B] int64
"""

from dapt.data import (
    folder,
    modelnet,
    npz,
    s3dis,
    scanobjectnn,
    scenes,
    shapenet,
    shapenetpart,
    transforms,
)
from dapt.data.clouds import read_cloud
from dapt.data.dataset import ArrayDataset, PointDataset, Subset
from dapt.data.registry import DATASETS, has_split, load, options_of, register
from dapt.data.sampler import BatchSampler, loader
from dapt.data.splits import few_labels, few_shot_fold, split_validation, stratified

__all__ = [
    "DATASETS",
    "ArrayDataset",
    "BatchSampler",
    "PointDataset",
    "Subset",
    "few_labels",
    "few_shot_fold",
    "folder",
    "has_split",
    "load",
    "loader",
    "modelnet",
    "npz",
    "options_of",
    "read_cloud",
    "register",
    "s3dis",
    "scanobjectnn",
    "scenes",
    "shapenet",
    "shapenetpart",
    "split_validation",
    "stratified",
    "transforms",
]
