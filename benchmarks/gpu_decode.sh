#!/usr/bin/env bash
# On a GPU machine with torch, triton, numpy, safetensors, msgpack, msgspec, typer, rich, pytest,
# hypothesis and scipy: the GPU tests of kernels, decoder and benchmarks, then how fast they are.
#   benchmarks/gpu_decode.sh OUT [quick] [PART...]
# Each part writes to OUT what it prints; a part that fails does not keep the others from running.
# Without a PART all of them run; `decode`, `players` or `sanitizer` stands for all that begin so.
# Where a call has only minutes: by the arithmetic of a 4B forward (2 ms, 640 a latent), a decode
# part takes 2 to 4 minutes on an H200, half of which is compiling what it is compared with; a
# players part 1 to 2, with quick half of it; kernels 2; each sanitizer part up to 10.
set -uo pipefail
parts=(machine tests sanitizer-memcheck sanitizer-decoding sanitizer-racecheck sanitizer-synccheck
  check kernels decode-bf16 decode-fp8 decode-int8 players-sequential players-medusa players-jacobi
  players-diagonal-k1 players-diagonal-k2)
# shellcheck source=benchmarks/importable.sh
source "$(dirname "${BASH_SOURCE[0]}")/importable.sh"
mkdir -p "${1:?expected a folder for the results: gpu_decode.sh OUT [quick] [PART...]}" || exit 2
out="$(cd "$1" && pwd)" quick=()
shift
if [[ "${1:-}" == quick ]]; then
  quick=(--quick)
  shift
fi
chosen=()
for name in "$@"; do
  found=()
  for known in "${parts[@]}"; do
    [[ "$known" == "$name" || "$known" == "$name"-* ]] && found+=("$known")
  done
  if [[ ${#found[@]} -eq 0 ]]; then
    echo "expected parts of: ${parts[*]}; got $name" >&2
    exit 2
  fi
  chosen+=("${found[@]}")
done
[[ $# -gt 0 ]] && parts=("${chosen[@]}")
cd "$root" || exit 2

failed=0
part() { # NAME COMMAND...
  local name="$1"; shift
  [[ " ${parts[*]} " == *" $name "* ]] || return 0
  echo "== $name"
  "$@" 2>&1 | tee "$out/$name.log" || { echo "failed: $name"; failed=1; }
}

# The settings in pyproject.toml are for plugins that may be missing, so nothing is strict here, and
# its pythonpath would come before the tree of links. Compiling a kernel counts as a test's time.
gpu_tests=(python3 -m pytest -q -rfs -p no:cacheprovider -W ignore::pytest.PytestConfigWarning
  -W ignore::pytest.PytestUnknownMarkWarning -o addopts=--import-mode=importlib -o pythonpath=
  -m gpu)

part machine nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,clocks.max.memory --format=csv
part tests "${gpu_tests[@]}" -o timeout=300 tests/kernels tests/runtime/decoding \
  tests/benchmarks/bench
sanitizer=(compute-sanitizer --error-exitcode 9 --tool)
command -v compute-sanitizer >/dev/null || sanitizer=(echo "compute-sanitizer is not here; not run:")
# Inside the blocks of PyTorch's allocator nobody sees a write beyond a tensor's end, so each tensor
# gets memory of its own. Recording a graph needs that allocator: what records one runs with it.
records=tests/kernels/test_skinny_gemm.py::test_nothing_changes_a_row_on_a_gpu
part sanitizer-memcheck env PYTORCH_NO_CUDA_MEMORY_CACHING=1 "${sanitizer[@]}" memcheck \
  "${gpu_tests[@]}" -o timeout=1200 -x tests/kernels --deselect "$records"
part sanitizer-decoding "${sanitizer[@]}" memcheck "${gpu_tests[@]}" -o timeout=1200 -x "$records" \
  tests/runtime/decoding
# Of the kernels whose last program adds up what the others left: barriers, and shared memory.
# What they hand over lies in global memory, which these tools do not watch: see their tests.
last_arriver=("${gpu_tests[@]}" -o timeout=1200 -x tests/kernels/test_skinny_gemm.py
  tests/kernels/test_attention.py tests/kernels/test_sampling.py tests/kernels/test_medusa_heads.py)
part sanitizer-racecheck "${sanitizer[@]}" racecheck "${last_arriver[@]}"
part sanitizer-synccheck "${sanitizer[@]}" synccheck "${last_arriver[@]}"
part check python3 -m worldbridge bench kernels --check --device cuda --out "$out/check.json"
part kernels python3 -m worldbridge bench kernels "${quick[@]}" --out "$out/kernels.json"
# The weights are random: how many tokens a forward draws is the figure published for the 4B model
# and its nine heads (arXiv 2501.03575, table 15), 7680 tokens in 1812 forwards.
on_gpu=(--preset cosmos-4b-320p --device cuda "${quick[@]}")
published=(--acceptance 4.24)
for weights in bf16 fp8 int8; do
  file="decode-$weights"
  [[ "$weights" == bf16 ]] && file=decode # the model's own type: what the README shows first
  part "decode-$weights" python3 -m worldbridge bench decode "${on_gpu[@]}" "${published[@]}" --weight-dtype "$weights" \
    --width 16 --width 32 --width 64 --row-lag 1 --row-lag 2 --out "$out/$file.json"
done
players() { # NAME MOST MODE...
  local name="$1" most="$2"; shift 2
  part "$name" python3 -m worldbridge bench players "${on_gpu[@]}" --most "$most" --mode "$@" \
    --out "$out/$name.json"
}
# One token per forward is far from the rate: it is measured for what one more player costs.
players players-sequential 3 sequential
players players-medusa 8 medusa "${published[@]}"
players players-jacobi 8 jacobi "${published[@]}"
players players-diagonal-k1 12 diagonal --row-lag 1
players players-diagonal-k2 12 diagonal --row-lag 2
exit "$failed"
