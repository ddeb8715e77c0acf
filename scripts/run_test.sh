#!/usr/bin/env bash
# Detect in a test set with a checkpoint. Everything goes to ./test: log.txt and outputs/.
set -euo pipefail
source "$(dirname "$0")/common.sh"
run_on_checkpoint test "$@"
