#!/usr/bin/env bash
# Score an exported model: images in, detections, AP and the time an image. On an Ascend card a MINDIR runs with
# MindSpore Lite, an .om with CANN, an .onnx with ONNX Runtime's CANN provider; where there is no card a MINDIR runs on
# the CPU with MindSpore. Everything goes to ./infer_310: log.txt and outputs/.
set -euo pipefail
source "$(dirname "$0")/common.sh"

if [ $# -lt 3 ]; then
    die "usage: bash run_infer_310.sh MINDIR_PATH DATA_PATH [DEVICE_ID] ANN_FILE [--option=value ...]
MINDIR_PATH may be an .om or .onnx too. DATA_PATH is the folder of the images, or of a data set; DEVICE_TARGET=CPU or Ascend chooses the device"
fi
MODEL=$(existing_path MINDIR_PATH "$1")
DATA=$(existing_path DATA_PATH "$2")
shift 2
if [[ "$1" =~ ^[0-9]+$ ]]; then
    export DEVICE_ID=$1
    shift
fi
ANN_FILE=$(existing_path ANN_FILE "${1:?ANN_FILE is missing}")
shift
PYTHON=$(find_python)
if [ -z "${DEVICE_TARGET:-}" ]; then
    if compgen -G "/dev/davinci[0-9]*" > /dev/null; then
        DEVICE_TARGET=Ascend
    else
        DEVICE_TARGET=CPU
        echo "no Ascend card on this machine: running on the CPU"
    fi
fi
mkdir -p infer_310
cd infer_310
run_logged "$PYTHON" "$ROOT/eval.py" \
    --device_target="$DEVICE_TARGET" \
    --data_dir="$DATA" \
    --ann_val_file="$ANN_FILE" \
    --pretrained="$MODEL" "$@"
