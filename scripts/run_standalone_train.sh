#!/usr/bin/env bash
# Train on one device. Everything goes to ./train: log.txt and outputs/.
set -euo pipefail
source "$(dirname "$0")/common.sh"

if [ $# -lt 2 ]; then
    die "usage: bash run_standalone_train.sh DATASET_PATH PRETRAINED_BACKBONE [DEVICE_ID] [--option=value ...]
PRETRAINED_BACKBONE may be '' to start from nothing; DEVICE_TARGET=CPU trains on the CPU"
fi
DATASET=$(existing_path DATASET_PATH "$1")
BACKBONE=""
[ -z "$2" ] || BACKBONE=$(existing_path PRETRAINED_BACKBONE "$2")
shift 2
if [ $# -gt 0 ] && [[ "$1" =~ ^[0-9]+$ ]]; then
    export DEVICE_ID=$1
    shift
fi
PYTHON=$(find_python)
mkdir -p train
cd train
run_logged "$PYTHON" "$ROOT/train.py" \
    --device_target="${DEVICE_TARGET:-Ascend}" \
    --data_dir="$DATASET" \
    --pretrained_backbone="$BACKBONE" \
    --is_distributed=0 \
    --lr=0.012 \
    --t_max=320 \
    --max_epoch=320 \
    --warmup_epochs=4 \
    --training_shape=416 \
    --lr_scheduler=cosine_annealing "$@"
