#!/usr/bin/env bash
# From nothing to a trained and scored detector on the CPU: makes .venv, installs, draws a sample in DOTA's
# format, cuts it into tiles, trains a slim YOLOv4, evaluates it on held-out scenes and writes images of
# its detections. Everything goes to ./quickstart. Words after the script's name go to train.py.
set -euo pipefail
source "$(dirname "$0")/common.sh"
cd "$ROOT"
STARTED=$SECONDS
prepare_venv requirements.txt
PYTHON="$ROOT/.venv/bin/python"
OUT="${QUICKSTART_DIR:-$ROOT/quickstart}"
CONFIG=configs/quickstart.yaml

echo "== 1/4 drawing the sample"
run_waited "$PYTHON" utils/make_sample.py --out "$OUT/scenes" --overwrite

echo "== 2/4 cutting it into tiles"
rm -rf "$OUT/tiles"
for split in train val; do
    run_waited "$PYTHON" utils/split_dota.py --src "$OUT/scenes/$split" --out "$OUT/tiles" --split "$split"
done

echo "== 3/4 training"
rm -rf "$OUT/run"
run_waited "$PYTHON" train.py --config_path "$CONFIG" --data_dir "$OUT/tiles" --ckpt_path "$OUT/run" "$@"

echo "== 4/4 evaluating the best checkpoint on held-out scenes"
rm -rf "$OUT/eval"
BEST=$(ls "$OUT"/run/*/ckpt_0/best_map.ckpt)
run_waited "$PYTHON" eval.py --config_path "$CONFIG" --data_dir "$OUT/tiles" --pretrained "$BEST" \
    --log_path "$OUT/eval" --result_view 1
echo "checkpoint: $BEST"
echo "reports:    $(printf '%s ' "$OUT"/run/*/report.html "$OUT"/eval/*/report.html)"
echo "images:   $(ls -d "$OUT"/eval/*/pictures)"
echo "done in $((SECONDS - STARTED)) s"
