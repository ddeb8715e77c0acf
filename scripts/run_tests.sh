#!/usr/bin/env bash
# Run the checks and every test in .venv, which is made and filled where it is absent.
# Words after the script's name go to pytest, for example: bash scripts/run_tests.sh -m "not slow"
set -euo pipefail
source "$(dirname "$0")/common.sh"
cd "$ROOT"
prepare_venv requirements-test.txt
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/python -m pytest -q "$@"
