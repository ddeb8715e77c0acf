# shellcheck shell=bash
# Shared by the scripts of this folder; sourced, not run.

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
    "$python" "$ROOT/$name.py" \
        --device_target="${DEVICE_TARGET:-Ascend}" \
        --data_dir="$dataset" \
        --pretrained="$checkpoint" \
        --testing_shape=608 "$@" 2>&1 | tee log.txt
}
