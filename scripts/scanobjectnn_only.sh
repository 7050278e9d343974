#!/bin/sh
# DAPT's experiment on this dataset: scripts/scanobjectnn_only.sh DATA_ROOT CHECKPOINT [BACKBONE] [more flags]
# BACKBONE: point_mae (default), point_bert, act or recon, whichever the checkpoint is of.
set -eu
root=$1 checkpoint=$2 backbone=${3:-point_mae}
shift $(($# < 3 ? $# : 3))
config=dapt; [ "$backbone" = point_mae ] || config=dapt_$backbone
exec dapt train --config "$(dirname "$0")/../configs/scanobjectnn_only/$config.yaml" \
  --data.root "$root" --backbone.checkpoint "$checkpoint" \
  --out "runs/scanobjectnn_only-$config" "$@"
