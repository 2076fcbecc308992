#!/usr/bin/env bash
# Ours beside anomalib's GLASS, SuperSimpleNet, PatchCore and EfficientAD, in one run: benchmarks/results/peers.json.
#
#   benchmarks/peers.sh [--visits 1]     ten minutes on two cores; run it on a quiet machine
#
# anomalib lives in an environment of its own (6 GB, made where missing): PEERS_VENV=FOLDER, default .peers (git-ignored).
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
PEERS_VENV=${PEERS_VENV:-.peers}

if ! "$PEERS_VENV/bin/python" -m pip show --quiet anomalib 2>/dev/null; then
    "$PYTHON" -m venv "$PEERS_VENV"
    "$PEERS_VENV/bin/python" -m pip install --quiet anomalib==2.7.0
fi
"$PYTHON" -m benchmarks.peers --peers-python "$PEERS_VENV/bin/python" "$@"
