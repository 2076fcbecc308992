#!/usr/bin/env bash
# The compact backbone beside ResNet-18: the same heads, the same schedules, real pictures; then one table of both.
#
#   benchmarks/compact.sh simplenet SEED     both backbones on screw and magnetic tile (two processes, ten minutes)
#   benchmarks/compact.sh glass SEED         likewise, 14 and 6 epochs, an hour
#   benchmarks/compact.sh collect            rows of benchmarks/results/real_data.json
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
SHARED=${SHARED:-../shared}
RUNS=${RUNS:-runs/compact}
export PYTHONPATH=$PWD OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
declare -A SCREW=([simplenet]=24 [glass]=14) TILE=([simplenet]=16 [glass]=6)
declare -A WEIGHTS=([resnet18.tv_in1k]=$SHARED/weights/resnet18_tv_in1k_layer3.safetensors
    [compactnet.distilled_in1k]=hubmodels/weights/compactnet.distilled_in1k.safetensors)

run() {  # run METHOD SEED BACKBONE
    for data in "mvtec_ad ${SCREW[$1]}" "magnetic_tile ${TILE[$1]}"; do
        "$PYTHON" training/train.py --data-root "$SHARED/data/${data% *}" --methods "$1" --image-size 256 --seed "$2" \
            --epochs "${data#* }" --backbone "$3" --backbone-weights "${WEIGHTS[$3]}" --textures "$SHARED/data/dtd/images" \
            --output "$RUNS/$3-seed$2"
    done
}

case "${1:-help}" in
simplenet | glass)
    for backbone in "${!WEIGHTS[@]}"; do run "$1" "${2:-0}" "$backbone" & done
    wait
    ;;
collect) "$PYTHON" benchmarks/collect.py benchmarks/results/real_data.json "$RUNS" ;;
*) sed -n '2,7p' "$0" ;;
esac
