#!/usr/bin/env bash
# Run the checks and every test in .venv, which is made and filled where it is absent.
#   bash scripts/run_tests.sh --mindspore 2.7.1     on another MindSpore, in an environment of its own, .venv-2.7.1
#   bash scripts/run_tests.sh --coverage            also say which lines and branches of src and utils ran
# With a Python 3.7 on the machine the exports are also run by MindSpore Lite 2.0.0 (.venv-lite).
# TEST_PROCESSES (2) files of tests run side by side: most of their time one core compiles graphs.
# The browser tests take CHROMIUM, one on the path, or what playwright installs; without any, the last line says so.
# Other words go to pytest, for example: bash scripts/run_tests.sh -m "not slow"
set -euo pipefail
source "$(dirname "$0")/common.sh"
cd "$ROOT"
folder=.venv
version=""
if [ "${1:-}" = "--mindspore" ]; then
    version=${2:-}
    [[ "$version" =~ ^[0-9]+\.[0-9]+\.[0-9]+ ]] || die "--mindspore: give a version such as 2.7.1"
    folder=".venv-$version"
    shift 2
fi
measure=()
if [ "${1:-}" = "--coverage" ]; then
    shift
    measure=(-m coverage run)
    export COVERAGE_FILE="$ROOT/.coverage/data"
    rm -rf .coverage && mkdir .coverage
fi
prepare_venv requirements-test.txt "$folder" "$version"
prepare_lite
prepare_chromium "$folder/bin/python"
"$folder/bin/ruff" check .
"$folder/bin/ruff" format --check .
"$folder/bin/lint-imports"
"$folder/bin/mypy"
status=0
# A compilation by MindSpore allocates millions of small pieces: more of them kept by each thread save a tenth of it.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.tcache_count=65535}
"$folder/bin/python" "${measure[@]}" -m pytest -q -rs -n "${TEST_PROCESSES:-2}" --dist loadfile --no-loadscope-reorder "$@" || status=$?
if [ ${#measure[@]} -gt 0 ]; then
    "$folder/bin/python" -m coverage combine --quiet
    "$folder/bin/python" -m coverage report
fi
if [ -z "$CHROMIUM" ]; then
    echo "THE BROWSER TESTS DID NOT RUN: no Chromium, and playwright could not install one (apt-get install chromium, or set CHROMIUM)" >&2
fi
exit "$status"
