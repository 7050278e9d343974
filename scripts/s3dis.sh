#!/bin/sh
# DAPT's experiment on this dataset: scripts/s3dis.sh DATA_ROOT CHECKPOINT [more flags]
set -eu
root=$1 checkpoint=$2
shift 2
exec dapt train --config "$(dirname "$0")/../configs/s3dis/dapt.yaml" \
  --data.root "$root" --backbone.checkpoint "$checkpoint" \
  --out "runs/s3dis-dapt" "$@"
