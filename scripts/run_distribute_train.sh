#!/usr/bin/env bash
# Train on several devices, one process each, with log.txt in train_parallel<rank>/.
#
# With a rank table (a file, or ModelArts' folder of it): its ranks of this host. msrun starts them where it can, as
# MindSpore then keeps the backend that suits the card; started by the table alone it takes GE. LAUNCHER=rank_table
# or msrun insists on one. Without a table: msrun with DEVICE_NUM workers (8) a host; on several hosts set NNODES,
# NODE_RANK and MASTER_ADDR. DEVICE_TARGET=CPU trains on the CPU, by msrun in both cases. If a rank fails, the others
# are stopped and the exit code is not 0. SIGTERM and Ctrl-C are passed on: the ranks save a checkpoint first.
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
LAUNCHER="${LAUNCHER:-}"
[[ "$LAUNCHER" =~ ^(|msrun|rank_table)$ ]] || die "LAUNCHER: $LAUNCHER is neither msrun nor rank_table"
[ "$LAUNCHER" != rank_table ] || [ -n "$TABLE" ] || die "LAUNCHER: rank_table needs a RANK_TABLE_FILE"
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
NODE=0 # this host's place among the table's servers
MASTER=127.0.0.1
MISFIT="" # why msrun cannot start the table's ranks
if [ -n "$TABLE" ]; then
    LINES_OF_TABLE=$("$PYTHON" "$ROOT/utils/hccl_tools/ranks_of_host.py" "$TABLE" --launch "$PWD" \
        ${SERVER_IP:+--server_ip "$SERVER_IP"}) || exit 2
    while read -r key value; do
        case "$key" in
            total) TOTAL=$value ;;
            table) TABLE=$value ;;
            node) read -r NODE MASTER <<< "$value" ;;
            msrun) [ "$value" = fits ] || MISFIT=$value ;;
            *) RANKS+=("$key $value") ;;
        esac
    done <<< "$LINES_OF_TABLE"
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
    local workers=${DEVICE_NUM:-8} nodes=${NNODES:-1} logs="$PWD/msrun_log" first number status=0 by_table=()
    # A cloud's own rank table would make MindSpore start by it.
    unset RANK_TABLE_FILE MINDSPORE_HCCL_CONFIG_PATH RANK_ID
    if [ -n "$TABLE" ]; then
        workers=${#RANKS[@]}
        nodes=$((TOTAL / workers))
        [ "$TARGET" = CPU ] || by_table=(--rank_table_file="$TABLE")
    fi
    first=$((${NODE_RANK:-$NODE} * workers))
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
        --master_addr="${MASTER_ADDR:-$MASTER}" \
        --master_port="${MASTER_PORT:-8118}" \
        --node_rank="${NODE_RANK:-$NODE}" \
        "${by_table[@]}" \
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

# Whether the installed msrun takes a rank table and can start the ranks of this one; sets MISFIT where not.
msrun_takes_table() {
    local help
    help=$(PATH="$(dirname "$PYTHON"):$PATH" msrun --help 2> /dev/null) || true
    if [ -z "$MISFIT" ] && [[ "$help" != *--rank_table_file* ]]; then
        MISFIT="the installed MindSpore has no msrun with --rank_table_file"
    fi
    [ -z "$MISFIT" ]
}

if [ -z "$TABLE" ] || [ "$TARGET" = CPU ]; then
    run_by_msrun
elif [ "$LAUNCHER" = rank_table ]; then
    run_by_rank_table
elif msrun_takes_table; then
    run_by_msrun
elif [ "$LAUNCHER" = msrun ]; then
    die "LAUNCHER: msrun cannot start this rank table: $MISFIT"
else
    echo "started by the rank table, not by msrun: $MISFIT"
    run_by_rank_table
fi
