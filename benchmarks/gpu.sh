#!/usr/bin/env bash
# Train the embedded world on a GPU machine that has torch, numpy and safetensors and nothing else
# of ours: benchmarks/gpu.sh OUT MINUTES [STAGE]. Interrupted runs go on when called again.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
out="$1" minutes="$2" stage="${3:-all}"

# The packages lie in top-level folders; a tree of links makes them importable without installing.
links="$(mktemp -d)"
mkdir "$links/worldbridge"
for name in "$root"/worldbridge/*.py; do ln -s "$name" "$links/worldbridge/"; done
for name in runtime models kernels bridge engine_plugins; do
  ln -s "$root/$name" "$links/worldbridge/$name"
done
export PYTHONPATH="$links" PYTHONUNBUFFERED=1 OMP_NUM_THREADS=4

nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
python3 -m worldbridge.models.training --out "$out" --minutes "$minutes" --stage "$stage" --device cuda
