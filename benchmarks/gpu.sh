#!/bin/sh
# All measurements for a GPU, in one run of at most 12 minutes: see benchmarks/gpu.py.
#   .venv/bin/python -m benchmarks.gpu prepare --data DIR    # once, where the pictures are
#   sh benchmarks/gpu.sh all                                 # where the GPU is
cd "$(dirname "$0")/.." || exit 1
exec "${PYTHON:-.venv/bin/python}" -m benchmarks.gpu "$@"
