#!/bin/sh
# Point-MAE's pre-training on ShapeNet-55: scripts/pretrain.sh DATA_ROOT [more flags]
set -eu
root=$1
shift
exec dapt pretrain --config "$(dirname "$0")/../configs/shapenet55/pretrain.yaml" \
  --data.root "$root" --out runs/pretrain "$@"
