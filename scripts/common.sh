# shellcheck shell=bash
# Shared by the scripts of this folder; sourced, not run.

unset CDPATH # with it, cd prints where it went
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

die() {
    echo "error: $*" >&2
    exit 2
}

# A path as an absolute one; a missing file or folder ends the script and names the argument.
existing_path() { # NAME PATH
    [ -e "$2" ] || die "$1: no such file or folder: $2"
    (cd "$(dirname "$2")" && echo "$PWD/$(basename "$2")")
}

# The project's environment if it is there, otherwise the Python on the path.
find_python() {
    if [ -n "${PYTHON:-}" ]; then
        echo "$PYTHON"
    elif [ -x "$ROOT/.venv/bin/python" ]; then
        echo "$ROOT/.venv/bin/python"
    else
        echo python
    fi
}

# Make an environment where it is absent and install a requirements file into it (again only when these changed).
# With a version of MindSpore that one is installed, not the newest; pip takes the numpy and OpenCV that go with it.
prepare_venv() { # REQUIREMENTS [FOLDER] [MINDSPORE_VERSION]
    local base="${PYTHON:-python3}" folder="$ROOT/${2:-.venv}" version=${3:-} stamp wanted
    stamp="$folder/.installed-$1"
    wanted=("-r" "$ROOT/$1")
    if [ -n "$version" ]; then
        wanted+=("mindspore==$version")
    fi
    if [ ! -x "$folder/bin/python" ]; then
        "$base" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
            die "Python 3.10 or later is needed; set PYTHON to one, for example PYTHON=python3.11"
        echo "making $folder"
        "$base" -m venv "$folder" || die "python -m venv failed; on Debian: apt-get install python3-venv"
    fi
    if ! cmp -s <(cat "$ROOT"/requirements*.txt) "$stamp"; then
        echo "installing $1${version:+ with MindSpore $version}"
        "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "${wanted[@]}" ||
            die "the installation of $1 failed; see the lines above"
        cat "$ROOT"/requirements*.txt > "$stamp"
    fi
}

# LITE_PYTHON for the tests that MindSpore Lite itself takes part in: the user's, or .venv-lite of a Python 3.7 where one
# is found (the last that MindSpore Lite 2.0.0 was made for on x86). Without, they are skipped, and this says so.
prepare_lite() {
    local base candidate folder="$ROOT/.venv-lite"
    [ -z "${LITE_PYTHON:-}" ] || return 0
    for candidate in python3.7 "$HOME"/.pyenv/versions/3.7.*/bin/python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 7))' 2> /dev/null; then
            base=$candidate
            break
        fi
    done
    if [ -z "${base:-}" ]; then
        echo "no Python 3.7: the tests with MindSpore Lite 2.0.0 itself are skipped" >&2
        return 0
    fi
    if ! "$folder/bin/python" -c 'import mindspore_lite' 2> /dev/null; then
        echo "making $folder"
        if ! { "$base" -m venv "$folder" && "$folder/bin/python" -m pip install --quiet --disable-pip-version-check \
            "mindspore-lite==2.0.0" "numpy<1.22" pyyaml; }; then
            echo "MindSpore Lite 2.0.0 could not be installed: the tests with it are skipped" >&2
            return 0
        fi
    fi
    export LITE_PYTHON="$folder/bin/python"
}

# CHROMIUM for the tests of the report in a browser: the user's, one on the path, or playwright's; empty without.
prepare_chromium() { # PYTHON
    local find="from playwright.sync_api import sync_playwright as s
with s() as p: print(p.chromium.executable_path)"
    CHROMIUM=${CHROMIUM:-$(command -v chromium || command -v google-chrome || true)}
    if [ -z "$CHROMIUM" ] && timeout 300 "$1" -m playwright install chromium > /dev/null 2>&1; then
        CHROMIUM=$("$1" -c "$find" 2> /dev/null || true)
    fi
    export CHROMIUM
}

# -------------------------------------------------- processes: started, asked to stop and waited for in one way

PIDS=() # process groups that the script has started
TEE=""  # the process that copies their output to the screen

# Start a command in the background, in a process group of its own, so that what it starts stops with it, and Ctrl-C
# reaches it by stop_run alone.
start() { # COMMAND ...
    set -m
    "$@" &
    PIDS+=($!)
    set +m
}

stop_all() {
    local pid
    trap '' TERM HUP # not again while we send it
    for pid in "${PIDS[@]}"; do
        kill -TERM -- "-$pid" 2> /dev/null || true
    done
    for _ in 1 2 3 4 5; do
        is_running || return 0
        sleep 1
    done
    for pid in "${PIDS[@]}"; do
        kill -KILL -- "-$pid" 2> /dev/null || true
    done
}

is_running() {
    local pid
    for pid in "${PIDS[@]}"; do
        ! kill -0 "$pid" 2> /dev/null || return 0
    done
    return 1
}

# The processes that are asked to stop; a script whose launcher starts them elsewhere has its own.
asked_to_stop() {
    printf '%s\n' "${PIDS[@]}"
}

# SIGTERM, SIGHUP or Ctrl-C: the processes save what they have and end, for which they have STOP_SECONDS (60). A second
# Ctrl-C does not wait.
stop_run() { # EXIT_CODE
    local pid second
    trap '' TERM HUP
    trap 'stop_all; exit 130' INT
    for pid in $(asked_to_stop); do
        kill -TERM "$pid" 2> /dev/null || true
    done
    for ((second = 0; second < ${STOP_SECONDS:-60}; second++)); do
        is_running || break
        sleep 1
    done
    stop_all
    [ -z "$TEE" ] || wait "$TEE" || true # the last lines
    exit "$1"
}

# From here on signals are passed on. One that was ignored when the script started (nohup) stays so.
listen() {
    trap 'stop_run 130' INT
    trap 'stop_run 143' TERM
    trap 'stop_run 129' HUP
}

# Run a command, its output on the screen and in log.txt; its exit code.
run_logged() { # COMMAND ...
    local status=0
    exec 3> >(trap '' INT TERM HUP; exec tee log.txt) # it outlives what it copies
    TEE=$!
    listen
    start "$@" >&3 2>&1 3>&-
    exec 3>&-
    wait "${PIDS[0]}" || status=$?
    wait "$TEE" || true
    return "$status"
}

# Run a command, its output on the screen; ends the script where it fails.
run_waited() { # COMMAND ...
    local status=0
    PIDS=()
    listen
    start "$@"
    wait "${PIDS[0]}" || status=$?
    PIDS=()
    return "$status"
}

# Run eval.py or test.py on a checkpoint in a folder of that name: DATASET CHECKPOINT [DEVICE_ID] [--option ...]
run_on_checkpoint() { # eval|test DATASET ...
    local name=$1 dataset checkpoint python
    shift
    if [ $# -lt 2 ]; then
        die "usage: bash run_$name.sh DATASET_PATH CHECKPOINT_PATH [DEVICE_ID] [--option=value ...]
DEVICE_TARGET=CPU runs it on the CPU"
    fi
    dataset=$(existing_path DATASET_PATH "$1")
    checkpoint=$(existing_path CHECKPOINT_PATH "$2")
    shift 2
    if [ $# -gt 0 ] && [[ "$1" =~ ^[0-9]+$ ]]; then
        export DEVICE_ID=$1
        shift
    fi
    python=$(find_python)
    mkdir -p "$name"
    cd "$name" || exit 2
    run_logged "$python" "$ROOT/$name.py" \
        --device_target="${DEVICE_TARGET:-Ascend}" \
        --data_dir="$dataset" \
        --pretrained="$checkpoint" \
        --testing_shape=608 "$@"
}
