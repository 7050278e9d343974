#!/bin/sh
# DAPT's experiment on this dataset: scripts/shapenetpart.sh DATA_ROOT CHECKPOINT [more flags]
set -eu
root=$1 checkpoint=$2
shift 2
exec dapt train --config "$(dirname "$0")/../configs/shapenetpart/dapt.yaml" \
  --data.root "$root" --backbone.checkpoint "$checkpoint" \
  --out "runs/shapenetpart-dapt" "$@"
