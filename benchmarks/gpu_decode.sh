#!/usr/bin/env bash
# On a GPU machine with what worldbridge needs, triton and pytest: the GPU tests of the kernels and
# of the decoder, then how fast they are. benchmarks/gpu_decode.sh OUT [quick]
# Each part writes to OUT what it prints; a part that fails does not keep the others from running.
set -uo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
out="$1" quick=""
[[ "${2:-}" == quick ]] && quick="--quick"
mkdir -p "$out"

# The packages lie in top-level folders; a tree of links makes them importable without installing.
links="$(mktemp -d)"
mkdir "$links/worldbridge"
for name in "$root"/worldbridge/*.py; do ln -s "$name" "$links/worldbridge/"; done
for name in runtime models kernels bridge engine_plugins; do
  ln -s "$root/$name" "$links/worldbridge/$name"
done
export PYTHONPATH="$links" PYTHONUNBUFFERED=1
cd "$root"

failed=0
part() { # NAME COMMAND...
  local name="$1"; shift
  echo "== $name"
  "$@" 2>&1 | tee "$out/$name.log" || { echo "failed: $name"; failed=1; }
}

part machine nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,clocks.max.memory --format=csv
# no strict configuration: plugins that these tests do without may be missing
part tests python3 -m pytest -q -p no:cacheprovider -o addopts=--import-mode=importlib -m gpu \
  tests/kernels tests/runtime/decoding
if command -v compute-sanitizer >/dev/null; then
  part sanitizer compute-sanitizer --tool memcheck --error-exitcode 9 python3 -m pytest -q -x \
    -p no:cacheprovider -o addopts=--import-mode=importlib -m gpu tests/kernels
else
  echo "== sanitizer: compute-sanitizer is not installed here, so no run under it"
fi
part kernels python3 -m worldbridge bench kernels $quick --out "$out/kernels.json"
for weights in bf16 fp8 int8; do
  part "decode-$weights" python3 -m worldbridge bench decode --preset cosmos-4b-320p \
    --device cuda --weights "$weights" $quick --out "$out/decode-$weights.json"
done
part players python3 -m worldbridge bench players --preset cosmos-4b-320p --device cuda --most 8 \
  $quick --out "$out/players.json"
exit "$failed"
