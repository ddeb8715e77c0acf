#!/usr/bin/env bash
# Train on several devices, with HCCL's rank table or, without one, by msrun.
#
# With a rank table: one process a card of this host, in train_parallel<rank>/ with log.txt, each bound to its
# share of the cores. Without: DEVICE_NUM workers (8) a host; on several hosts set NNODES, NODE_RANK and
# MASTER_ADDR. DEVICE_TARGET=CPU trains on the CPU, by msrun in both cases. If a rank fails, the others are
# stopped and the exit code is not 0. SIGTERM and Ctrl-C are passed on: the ranks save a checkpoint first.
set -euo pipefail
source "$(dirname "$0")/common.sh"

if [ $# -lt 2 ]; then
    die "usage: bash run_distribute_train.sh DATASET_PATH PRETRAINED_BACKBONE [RANK_TABLE_FILE] [--option=value ...]
PRETRAINED_BACKBONE may be '' to start from nothing"
fi
DATASET=$(existing_path DATASET_PATH "$1")
BACKBONE=""
[ -z "$2" ] || BACKBONE=$(existing_path PRETRAINED_BACKBONE "$2")
shift 2
TABLE=""
if [ $# -gt 0 ] && [[ "$1" != --* ]]; then
    TABLE=$(existing_path RANK_TABLE_FILE "$1")
    shift
fi
PYTHON=$(find_python)
TARGET="${DEVICE_TARGET:-Ascend}"
OPTIONS=(
    --device_target="$TARGET"
    --data_dir="$DATASET"
    --pretrained_backbone="$BACKBONE"
    --is_distributed=1
    --lr=0.012
    --t_max=320
    --max_epoch=320
    --warmup_epochs=4
    --lr_scheduler=cosine_annealing
    "$@"
)

RANKS=() # "rank card" of this host
TOTAL=0
if [ -n "$TABLE" ]; then
    LINES_OF_TABLE=$("$PYTHON" "$ROOT/utils/hccl_tools/ranks_of_host.py" "$TABLE" ${SERVER_IP:+--server_ip "$SERVER_IP"}) ||
        exit 2
    mapfile -t RANKS <<< "$LINES_OF_TABLE"
    TOTAL=${RANKS[-1]#total }
    unset 'RANKS[-1]'
fi

PIDS=()
stop_all() {
    trap '' TERM # not again while we send it
    for pid in "${PIDS[@]}"; do
        kill -TERM -- "-$pid" 2> /dev/null || true
    done
    for _ in 1 2 3 4 5; do
        sleep 1
        kill -0 "${PIDS[@]}" 2> /dev/null || return 0
    done
    for pid in "${PIDS[@]}"; do
        kill -KILL -- "-$pid" 2> /dev/null || true
    done
}
# SIGTERM or Ctrl-C: the ranks save a checkpoint and end, for which they have STOP_SECONDS (60). A second Ctrl-C does
# not wait. msrun's ranks are in sessions of their own; their logs, new with each run, name their processes.
stop_run() { # EXIT_CODE
    local pid asked=("${PIDS[@]}")
    trap '' TERM
    trap 'stop_all; exit 130' INT
    [ "$BY_MSRUN" = 0 ] || mapfile -t asked < <(sed -n 's/^rank .* is process \([0-9]*\) .*/\1/p' "$PWD"/msrun_log/worker_*.log)
    for pid in "${asked[@]}"; do
        kill -TERM "$pid" 2> /dev/null || true
    done
    for ((pid = 0; pid < ${STOP_SECONDS:-60}; pid++)); do
        kill -0 "${PIDS[@]}" 2> /dev/null || break
        sleep 1
    done
    stop_all
    exit "$1"
}
BY_MSRUN=0
trap 'stop_run 130' INT
trap 'stop_run 143' TERM

run_by_rank_table() {
    export RANK_TABLE_FILE="$TABLE" MINDSPORE_HCCL_CONFIG_PATH="$TABLE" RANK_SIZE="$TOTAL"
    local cores share first last number=0 rank card names=()
    cores=$(nproc)
    share=$((cores / ${#RANKS[@]}))
    [ "$share" -gt 0 ] || share=1
    set -m # each rank is a process group of its own, so that its data workers stop with it
    for entry in "${RANKS[@]}"; do
        read -r rank card <<< "$entry"
        first=$((number * share % cores))
        last=$((first + share - 1))
        mkdir -p "train_parallel$rank"
        (
            cd "train_parallel$rank"
            export RANK_ID="$rank" DEVICE_ID="$card"
            exec taskset -c "$first-$last" "$PYTHON" "$ROOT/train.py" "${OPTIONS[@]}" > log.txt 2>&1
        ) &
        PIDS+=($!)
        names+=("$rank")
        number=$((number + 1))
    done
    set +m
    echo "started ${#PIDS[@]} of $TOTAL ranks; logs: train_parallel*/log.txt"
    local left=${#PIDS[@]} ended status
    while [ "$left" -gt 0 ]; do
        status=0
        wait -n -p ended "${PIDS[@]}" || status=$?
        left=$((left - 1))
        if [ "$status" -ne 0 ]; then
            for number in "${!PIDS[@]}"; do
                [ "${PIDS[number]}" != "$ended" ] ||
                    echo "error: rank ${names[number]} failed (exit code $status), see train_parallel${names[number]}/log.txt; stopping the others" >&2
            done
            stop_all
            return 1
        fi
    done
}

run_by_msrun() {
    local workers=${DEVICE_NUM:-8} nodes=${NNODES:-1} logs="$PWD/msrun_log" first number status=0
    [ -z "$TABLE" ] || workers=${#RANKS[@]}
    first=$((${NODE_RANK:-0} * workers))
    rm -rf "$logs"
    BY_MSRUN=1
    for ((number = first; number < first + workers; number++)); do
        mkdir -p "train_parallel$number"
        ln -sfn "$logs/worker_$number.log" "train_parallel$number/log.txt"
    done
    echo "msrun with $workers workers on this host, $((workers * nodes)) in all; logs: train_parallel*/log.txt"
    mkdir -p "$logs"
    PATH="$(dirname "$PYTHON"):$PATH" setsid msrun \
        --worker_num=$((workers * nodes)) \
        --local_worker_num="$workers" \
        --master_addr="${MASTER_ADDR:-127.0.0.1}" \
        --master_port="${MASTER_PORT:-8118}" \
        --node_rank="${NODE_RANK:-0}" \
        --bind_core=True \
        --log_dir="$logs" \
        --join=True \
        "$ROOT/train.py" "${OPTIONS[@]}" > "$logs/launcher.log" 2>&1 &
    PIDS=($!)
    wait "${PIDS[0]}" || status=$?
    if [ "$status" -ne 0 ]; then
        name_failed_rank "$logs" >&2
        stop_all
        return 1
    fi
}

# msrun tells the process that failed first; each rank has written its process to its log.
name_failed_rank() { # LOGS
    local pid code log rank
    read -r pid code < <(sed -n 's/.*Worker process \([0-9]*\) exit with exception. Error code: \(-\?[0-9]*\).*/\1 \2/p' \
        "$1/launcher.log" | head -n 1) || true
    for log in "$1"/worker_*.log; do
        if [ -n "${pid:-}" ] && grep -q "is process $pid " "$log" 2> /dev/null; then
            rank=${log##*worker_}
            echo "error: rank ${rank%.log} failed (exit code $code), see train_parallel${rank%.log}/log.txt; the others were stopped"
            grep -h "^error:" "$log" || true
            return
        fi
    done
    echo "error: the job failed, see $1/launcher.log and train_parallel*/log.txt"
    grep -h "^error:" "$1"/worker_*.log 2> /dev/null | sort -u || true
}

if [ -n "$TABLE" ] && [ "$TARGET" != CPU ]; then
    run_by_rank_table
else
    run_by_msrun
fi
