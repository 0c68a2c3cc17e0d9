#!/usr/bin/env bash
# Trains PreActResNet-18 of full width on all of CIFAR-100 with every method at once, on one GPU, for as many epochs as fit:
#   bash experiments/gpu_study.sh OUT SECONDS ZIP...             a line per epoch and a result per method, in OUT, as they come
#   bash experiments/gpu_study.sh OUT SECONDS ZIP... --emulate   a dry run on the CPU: narrow networks and few images, which measures nothing
# The archives hold train/<class>/ and test/<class>/ images. Nothing is installed or downloaded. Ends by itself within the seconds given.
# Needs torch with CUDA, pytorch-lightning, torchmetrics, numba, torchvision and timm.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=${1:?Give the folder for the results, the seconds and the archives: bash experiments/gpu_study.sh gpu_results 540 part1.zip part2.zip}
seconds=${2:?Give the seconds after which everything has ended}
shift 2
until=$(($(date +%s) + seconds - 5))
mkdir -p "$out"
export PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH} GOMP_SPINCOUNT=20000 OMP_NUM_THREADS=2
exec "${PYTHON:-python3}" -m experiments.gpu_study "$out" "$@" --until "$until" 2>&1 | tee "$out/log.txt"
