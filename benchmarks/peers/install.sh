#!/usr/bin/env bash
# Make benchmarks/peers/.venv with the systems that the benchmark compares with.
#   PYTHON       interpreter to make it with (default python3)
#   TORCH_INDEX  index of PyTorch's CPU builds
set -euo pipefail
cd "$(dirname "$0")"
"${PYTHON:-python3}" -m venv .venv
.venv/bin/pip install --quiet --upgrade "setuptools<80"
.venv/bin/pip install --quiet \
    --extra-index-url "${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}" -r requirements.txt
.venv/bin/python -c "import mindyolo, onnxruntime, torch; print('peers:', torch.__version__, mindyolo.__version__)"
