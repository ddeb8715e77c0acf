#!/usr/bin/env bash
# Detect in a test set with a checkpoint. Everything goes to ./test: log.txt and outputs/.
set -euo pipefail
source "$(dirname "$0")/common.sh"

if [ $# -lt 2 ]; then
    die "usage: bash run_test.sh DATASET_PATH CHECKPOINT_PATH [DEVICE_ID] [--option=value ...]
DEVICE_TARGET=CPU tests on the CPU"
fi
DATASET=$(existing_path DATASET_PATH "$1")
CHECKPOINT=$(existing_path CHECKPOINT_PATH "$2")
shift 2
if [ $# -gt 0 ] && [[ "$1" =~ ^[0-9]+$ ]]; then
    export DEVICE_ID=$1
    shift
fi
PYTHON=$(find_python)
mkdir -p test
cd test
"$PYTHON" "$ROOT/test.py" \
    --device_target="${DEVICE_TARGET:-Ascend}" \
    --data_dir="$DATASET" \
    --pretrained="$CHECKPOINT" \
    --testing_shape=608 "$@" 2>&1 | tee log.txt
