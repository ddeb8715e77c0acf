#!/usr/bin/env bash
# Evaluate a checkpoint. Everything goes to ./eval: log.txt and outputs/.
set -euo pipefail
source "$(dirname "$0")/common.sh"
run_on_checkpoint eval "$@"
