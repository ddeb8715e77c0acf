#!/usr/bin/env bash
# Train on several devices, one process each, with log.txt in train_parallel<rank>/.
#
# With a rank table (a file, or ModelArts' folder of it): its ranks of this host. msrun starts them where it can, as
# MindSpore then keeps the backend that suits the card; started by the table alone it takes GE. LAUNCHER=rank_table
# or msrun insists on one. Without a table: msrun with DEVICE_NUM workers (8) a host; on several hosts set NNODES,
# NODE_RANK and MASTER_ADDR. DEVICE_TARGET=CPU trains on the CPU, by msrun in both cases. If a rank fails, the others
# are stopped and the exit code is not 0. SIGTERM, SIGHUP and Ctrl-C are passed on: the ranks save a checkpoint first.
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
for name in DEVICE_NUM NNODES; do
    [[ "${!name:-1}" =~ ^[1-9][0-9]{0,4}$ ]] || die "$name: ${!name} is no number of ${name/DEVICE_NUM/cards} from 1 on"
done
[[ "${NODE_RANK:-0}" =~ ^[0-9]{1,5}$ ]] || die "NODE_RANK: $NODE_RANK is no number of a host, 0 or more"
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

BY_MSRUN=0
# msrun's ranks are in sessions of their own; their logs, new with each run, name their processes.
asked_to_stop() {
    if [ "$BY_MSRUN" = 0 ]; then
        printf '%s\n' "${PIDS[@]}"
    else
        sed -n 's/^rank .* is process \([0-9]*\) .*/\1/p' "$PWD"/msrun_log/worker_*.log 2> /dev/null
    fi
}
listen

# Logs and train_parallel*/ are one job's. The lock goes with the last of its processes.
exec 9> .job.lock
if command -v flock > /dev/null && ! flock -n 9; then
    die "another job is running in $PWD, and would lose its logs; start this one in another folder"
fi

run_rank() { # RANK CARD CORES
    cd "train_parallel$1"
    export RANK_ID="$1" DEVICE_ID="$2"
    exec taskset -c "$3" "$PYTHON" "$ROOT/train.py" "${OPTIONS[@]}" > log.txt 2>&1
}

run_by_rank_table() {
    export RANK_TABLE_FILE="$TABLE" MINDSPORE_HCCL_CONFIG_PATH="$TABLE" RANK_SIZE="$TOTAL"
    local cores share first last number=0 rank card names=()
    cores=$(nproc)
    share=$((cores / ${#RANKS[@]}))
    [ "$share" -gt 0 ] || share=1
    for entry in "${RANKS[@]}"; do
        read -r rank card <<< "$entry"
        first=$((number * share % cores))
        last=$((first + share - 1))
        mkdir -p "train_parallel$rank"
        start run_rank "$rank" "$card" "$first-$last"
        names+=("$rank")
        number=$((number + 1))
    done
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
    PATH="$(dirname "$PYTHON"):$PATH" start msrun \
        --worker_num=$((workers * nodes)) \
        --local_worker_num="$workers" \
        --master_addr="${MASTER_ADDR:-$MASTER}" \
        --master_port="${MASTER_PORT:-8118}" \
        --node_rank="${NODE_RANK:-$NODE}" \
        "${by_table[@]}" \
        --bind_core=True \
        --log_dir="$logs" \
        --join=True \
        "$ROOT/train.py" "${OPTIONS[@]}" > "$logs/launcher.log" 2>&1
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
