#!/usr/bin/env bash
# Train the embedded world on a GPU machine that has torch, numpy and safetensors and nothing else
# of ours: benchmarks/gpu.sh OUT MINUTES [STAGE]. Interrupted runs go on when called again.
set -euo pipefail
# shellcheck source=benchmarks/importable.sh
source "$(dirname "${BASH_SOURCE[0]}")/importable.sh"
out="$1" minutes="$2" stage="${3:-all}"
export OMP_NUM_THREADS=4

nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
python3 -m worldbridge.models.training --out "$out" --minutes "$minutes" --stage "$stage" --device cuda
