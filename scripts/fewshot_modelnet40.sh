#!/bin/sh
# DAPT's experiment on this dataset: scripts/fewshot_modelnet40.sh DATA_ROOT CHECKPOINT [more flags]
set -eu
root=$1 checkpoint=$2
shift 2
exec dapt train --config "$(dirname "$0")/../configs/fewshot_modelnet40/dapt.yaml" \
  --data.root "$root" --backbone.checkpoint "$checkpoint" \
  --out "runs/fewshot_modelnet40-dapt" "$@"
