#!/usr/bin/env bash
# What waits for a GPU, in steps of under ten minutes each; a schedule goes on where an earlier call stopped.
#
#   benchmarks/gpu.sh prepare                copies ../shared/data and weights into .gpu/ (git-ignored, downscaled)
#   benchmarks/gpu.sh simplenet|glass SEED   the papers' schedules (160 / 640 epochs) on screw and magnetic tile
#   benchmarks/gpu.sh throughput             pictures per second by batch size: fp32, bf16, torch.compile
#   benchmarks/gpu.sh epoch                  time of one epoch before and after caching
#   benchmarks/gpu.sh jobs                   two processes, a job each (two GPUs, or two CPU processes)
#   benchmarks/gpu.sh collect                benchmarks/results/gpu.json
#
# PYTHON is the interpreter; EXTRA holds more options for the step's program. On a CPU they prove that a step starts:
# EXTRA="--epochs 1" for schedules and jobs (jobs with ACCELERATE_USE_CPU=true), "--batches 1 --rounds 2" for throughput.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
DATA=.gpu
RUNS=${RUNS:-runs}/gpu
LIMIT=${LIMIT:-560}
BEGUN=$(mktemp)
export PYTHONPATH=$PWD
trap bring_back EXIT
BACKBONE=${BACKBONE:-resnet50.tv_in1k}
declare -A WEIGHTS=([resnet50.tv_in1k]=resnet50_msra_in1k_layer3 [resnet18.tv_in1k]=resnet18_tv_in1k_layer3)

options() {  # options CATEGORY_ROOT
    echo --data-root "$DATA/$1" --backbone "$BACKBONE" --backbone-weights "$DATA/weights/${WEIGHTS[$BACKBONE]}.safetensors" \
        --methods simplenet glass --textures "$DATA/dtd" --stabilise statistics average decay --mixed-precision "${PRECISION:-no}" ${EXTRA:-}
}

bring_back() {  # however a step ends: what a lent machine gives back
    if [[ -n "${OUT:-}" ]]; then find benchmarks/results -newer "$BEGUN" -name '*.json' -exec cp {} "$OUT" \;; fi
    rm "$BEGUN"
}

limited() {  # stops a schedule in time; its state of the last epochs is kept, and the same step goes on from there
    timeout --signal=INT "$((SECONDS < LIMIT ? LIMIT - SECONDS : 1))" "$@" || {
        local status=$?
        ((status == 124)) && echo "$LIMIT seconds are over: run this step again, it goes on where it stopped"
        exit "$status"
    }
}

case "${1:-help}" in
prepare)
    "$PYTHON" benchmarks/downscale.py ../shared/data/mvtec_ad "$DATA/mvtec_ad" 288
    "$PYTHON" benchmarks/downscale.py ../shared/data/magnetic_tile "$DATA/magnetic_tile" 288
    "$PYTHON" benchmarks/downscale.py ../shared/data/dtd/images "$DATA/dtd" 256
    mkdir -p "$DATA/weights" && cp "../shared/weights/${WEIGHTS[$BACKBONE]}.safetensors" "$DATA/weights/"
    du -sh "$DATA"
    ;;
simplenet | glass)
    for root in mvtec_ad magnetic_tile; do
        limited "$PYTHON" training/train.py $(options $root) --methods "$1" --seed "${2:-0}" --output "$RUNS/seed${2:-0}"
    done
    ;;
throughput) "$PYTHON" -m benchmarks.throughput ${EXTRA:-} ;;
epoch) "$PYTHON" benchmarks/epoch_time.py $(options mvtec_ad) ;;
jobs)
    limited "$PYTHON" -m accelerate.commands.launch --multi_gpu --num_processes 2 training/train.py $(options mvtec_ad) \
        --output "$RUNS/jobs"
    ;;
collect)
    "$PYTHON" benchmarks/collect.py benchmarks/results/gpu.json "$RUNS"
    "$PYTHON" benchmarks/table.py benchmarks/results/gpu.json
    ;;
*) sed -n '2,12p' "$0" ;;
esac
