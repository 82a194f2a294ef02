#!/usr/bin/env bash
# Everything a checkout needs, one verb each: ./build.sh help
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
VENV="${WORLDBRIDGE_VENV:-$ROOT/.venv}"
PY="$VENV/bin/python"
LOG="$VENV-setup.log"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }

die() { # die WHAT REMEDY
  printf '\nbuild.sh: %s\n  what to do: %s\n' "$1" "$2" >&2
  exit 1
}

# Runs a command quietly, with a sign of life every 15 s, because a download of hundreds of
# megabytes must not look like a hang. Shows the command's output only if it fails.
step() { # step WHAT REMEDY COMMAND...
  local what="$1" remedy="$2" started=$SECONDS beat=$((SECONDS + 15)) pid rc=0
  shift 2
  say "$what"
  printf '\n### %s\n' "$what" >>"$LOG"
  "$@" >>"$LOG" 2>&1 </dev/null &
  pid=$!
  # shellcheck disable=SC2064  # the id is wanted as it is now
  trap "kill $pid 2>/dev/null; exit 130" INT TERM
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.2
    if ((SECONDS >= beat)); then
      beat=$((SECONDS + 15))
      printf '    %3d s  %s\n' $((SECONDS - started)) \
        "$(grep -Ev '^ *$|^WARNING' "$LOG" | tail -n 1 | cut -c1-88)" >&2
    fi
  done
  wait "$pid" || rc=$?
  trap - INT TERM
  if ((rc != 0)); then
    printf '\n--- last lines of %s\n' "$LOG" >&2
    tail -n 25 "$LOG" >&2
    die "failed (exit $rc): $what" "$remedy"
  fi
}

# --- the machine ---------------------------------------------------------------------------

as_root() {
  if [[ "$(id -u)" == 0 ]]; then
    env DEBIAN_FRONTEND=noninteractive "$@"
  elif command -v sudo >/dev/null; then
    sudo env DEBIAN_FRONTEND=noninteractive "$@"
  else
    echo "root rights are needed for: $* (not root, and no sudo here)"
    return 1
  fi
}

apt_install() { # apt_install WHY PACKAGE...
  local why="$1"
  shift
  command -v apt-get >/dev/null ||
    die "$why: no apt-get on this machine to install: $*" "install the equivalent of: $*"
  # sudo may have to ask for a password, which it cannot do inside step.
  if [[ "$(id -u)" != 0 ]] && command -v sudo >/dev/null; then
    sudo -v || die "$why: sudo refused" "as root, run: apt-get install $*"
  fi
  step "$why: reading the package lists" "check the network, then run: apt-get update" \
    as_root apt-get -o DPkg::Lock::Timeout=300 update
  step "$why: installing $*" "as root, run: apt-get install $*" \
    as_root apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@"
}

recent_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
  local name
  for name in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
    if [[ -n "$name" ]] && command -v "$name" >/dev/null && recent_enough "$name"; then
      command -v "$name"
      return
    fi
  done
  return 1
}

make_venv() {
  local python version
  python="$(find_python)" || die "no Python 3.11 or newer found (python3 here: $(python3 --version 2>&1 || true))" \
    "install one (Debian 12+, Ubuntu 24.04+: apt-get install python3 python3-venv), or name it: PYTHON=/path/to/python3 ./build.sh"
  if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
    version="$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
    apt_install "Python's venv module is missing" "python$version-venv"
  fi
  step "creating $VENV with $("$python" --version 2>&1)" \
    "delete $VENV and look whether the disk is full (df -h)" "$python" -m venv --clear "$VENV"
}

# --- the Python environment ------------------------------------------------------------------

fingerprint() { # what an installed environment depends on
  (cd "$ROOT" && echo "$ROOT" && cat "$@" pyproject.toml && "$PY" --version) | sha256sum | cut -d' ' -f1
}

stamped() { # stamped NAME FILE...: was exactly this installed before?
  local name="$1"
  shift
  [[ -x "$PY" && -f "$VENV/.stamp-$name" && "$(cat "$VENV/.stamp-$name")" == "$(fingerprint "$@")" ]]
}

NETWORK_REMEDY="check the network and the disk (df -h), then run the same command again; it goes on where it stopped"

setup_runtime() {
  if stamped runtime requirements.lock requirements-torch.lock; then return; fi
  : >"$LOG"
  if ! { [[ -x "$PY" ]] && recent_enough "$PY" && "$PY" -m pip --version >/dev/null 2>&1; }; then make_venv; fi
  step "installing the locked packages" "$NETWORK_REMEDY" \
    "$PY" -m pip install --progress-bar off --require-hashes -r "$ROOT/requirements.lock"
  # Its builds for CUDA and for CPUs alone share a version, so it has no one hash. Its index is asked
  # for nothing else: what it depends on is there by now, or part of it (nvidia-...).
  step "installing PyTorch, by far the largest" "$NETWORK_REMEDY" \
    "$PY" -m pip install --progress-bar off ${WORLDBRIDGE_TORCH_INDEX:+--index-url "$WORLDBRIDGE_TORCH_INDEX"} \
    -r "$ROOT/requirements-torch.lock"
  step "installing worldbridge into $VENV" "see the lines above" \
    "$PY" -m pip install --no-deps --no-build-isolation -e "$ROOT"
  step "checking that the packages fit together" "delete $VENV and run ./build.sh setup again" \
    "$PY" -m pip check
  fingerprint requirements.lock requirements-torch.lock >"$VENV/.stamp-runtime"
}

setup_dev() {
  setup_runtime
  if stamped dev requirements.lock requirements-dev.lock; then return; fi
  step "installing the locked tools for tests and checks" "$NETWORK_REMEDY" \
    "$PY" -m pip install --progress-bar off --require-hashes -r "$ROOT/requirements-dev.lock"
  fingerprint requirements.lock requirements-dev.lock >"$VENV/.stamp-dev"
}

# Type checkers cannot follow setuptools' package-dir: give them the tree as it is imported.
link_typing() {
  local tree="$ROOT/.typing/worldbridge" name
  rm -rf "$ROOT/.typing"
  mkdir -p "$tree"
  for name in "$ROOT"/worldbridge/*; do
    case "$name" in *__pycache__) ;; *) ln -s "$name" "$tree/" ;; esac
  done
  for name in runtime kernels bridge engine_plugins models benchmarks; do ln -s "$ROOT/$name" "$tree/$name"; done
}

# --- the browser of the tests ----------------------------------------------------------------

find_browser() {
  local name
  for name in "${CHROMIUM:-}" chromium chromium-browser google-chrome google-chrome-stable; do
    if [[ -n "$name" ]] && command -v "$name" >/dev/null && "$name" --version >/dev/null 2>&1; then
      command -v "$name"
      return
    fi
  done
  return 1
}

setup_browser() {
  if find_browser >/dev/null; then return; fi
  if grep -qs '^ID=ubuntu' /etc/os-release; then
    # Ubuntu's chromium package is a snap, which cannot be had in a container.
    command -v snap >/dev/null || die "no Chromium or Chrome found, and Ubuntu's package needs snap" \
      "install Google Chrome or Chromium, or name one: CHROMIUM=/path/to/chrome ./build.sh test"
    apt_install "a browser for the tests" chromium-browser
  else
    apt_install "a browser for the tests" chromium fonts-dejavu-core
  fi
  find_browser >/dev/null || die "the browser was installed but does not start" \
    "name one that does: CHROMIUM=/path/to/chrome ./build.sh test"
}

# --- the engines of the tests ------------------------------------------------------------------

# As step, but a failure only leaves out the tests that need it: they say what they miss.
try_step() { # try_step WHAT REMEDY COMMAND...
  (step "$@") || say "LEFT OUT: $1. The tests that need it are skipped; $2"
}

has_godot() {
  local name
  for name in "${GODOT:-}" godot4 godot "$1/run-godot"; do
    if [[ -n "$name" ]] && command -v "$name" >/dev/null; then return; fi
  done
  return 1
}

setup_engines() {
  local tree="${XDG_CACHE_HOME:-$HOME/.cache}/worldbridge/godot" folder="$ROOT/tests/engines"
  if [[ -z "${WORLDBRIDGE_CSHARP:-}" && ! -e "$VENV/csharp/compiler" ]]; then
    try_step "a C# compiler for the tests of the Unity client" "see docs/unity.md" \
      env PYTHON="$PY" timeout 300 "$folder/unity/setup.sh" "$VENV/csharp"
  fi
  if ! has_godot "$tree"; then
    try_step "Godot for the tests of its client" "see docs/godot.md" \
      as_root timeout 600 "$folder/godot/setup.sh" "$tree"
  fi
}

# --- verbs ---------------------------------------------------------------------------------

setup() {
  setup_runtime
  link_typing
}

run_check() {
  setup_dev
  link_typing
  cd "$ROOT"
  say "ruff"
  "$PY" -m ruff check .
  say "ruff format"
  "$PY" -m ruff format --check .
  say "mypy (strict)"
  MYPYPATH=.typing "$PY" -m mypy -p worldbridge
  say "import rule, vocabulary, generated files"
  "$PY" -m pytest -q tests/repo/test_layering.py tests/repo/test_vocabulary.py \
    tests/repo/test_packaging.py
}

run_node_tests() {
  if ! command -v node >/dev/null; then
    say "SKIPPED tests/web: node is not installed (the web page's unit tests need Node.js 18+)"
    return
  fi
  say "the web page's unit tests"
  (cd "$ROOT" && node --test tests/web/*.test.*)
}

# One pytest run; its counts go into the closing line of them all. A handful of failures run once
# more, alone: a machine that is shared with others pauses a test for seconds now and then. A test
# that fails twice has failed; one that passes then is named at the end.
part() { # part WHAT ARGS...
  local rc=0
  say "$1"
  shift
  "$PY" -m pytest --cache-clear --junitxml="$results/$((++parts)).xml" "$@" || rc=$?
  if ((rc == 1)) && (($(grep -cE '<(failure|error)' "$results/$parts.xml") <= 5)); then
    rc=0
    say "once more, alone: what failed"
    "$PY" -m pytest --last-failed --junitxml="$results/$((++parts)).xml" "$@" -n 0 || rc=$?
  fi
  if ((rc != 0 && rc != 5)); then failed=$rc; fi # 5: nothing to run in this part
}

run_tests() { # run_tests [--fast | --all] [ARGS of pytest]
  local which="default" jobs not_long=" and not long"
  case "${1:-}" in
    --fast | --all)
      which="${1#--}"
      shift
      ;;
  esac
  setup_dev
  link_typing
  setup_browser
  cd "$ROOT"
  if [[ "$which" == default ]] && (($# > 0)); then
    CHROMIUM="$(find_browser)" exec "$PY" -m pytest "$@"
  fi
  CHROMIUM="$(find_browser)"
  export CHROMIUM
  if [[ "$which" != fast ]] && (($# == 0)); then setup_engines; fi
  parts=0 failed=0 results="$(mktemp -d)" # not local: the trap runs after the function
  trap 'rm -rf "$results"' EXIT
  jobs="$(nproc)"
  jobs=(-n $((jobs < 4 ? jobs : 4)) --dist loadfile) # a file's tests share a server or a model
  if (($# == 0)); then run_node_tests || failed=$?; fi
  if [[ "$which" == fast ]]; then
    part "pytest, the daily loop" "${jobs[@]}" \
      -m "not slow and not e2e and not serial and not long and not interpreted" "$@"
    say "left out: end-to-end tests, kernels in Triton's interpreter, tests that take more than ten seconds or measure time (all: ./build.sh test)"
  else
    if [[ "$which" == all ]]; then not_long=""; fi
    part "pytest: what can run side by side" "${jobs[@]}" -m "not serial$not_long" "$@"
    part "pytest: what measures time, alone" -m "serial$not_long" "$@"
  fi
  "$PY" tests/support/totals.py "$results"/*.xml
  exit "$failed"
}

wheel() {
  setup_dev
  rm -rf "$ROOT/build" "$ROOT/dist"
  step "building the wheel" "see the lines above" \
    "$PY" -m build --wheel --no-isolation --outdir "$ROOT/dist" "$ROOT"
  ls -l "$ROOT"/dist/*.whl
}

# Writes the lock files from the ranges in pyproject.toml, in a throw-away environment.
lock() {
  local torch
  : >"$LOG"
  scratch="$(mktemp -d)" # not local: the trap runs after the function
  trap 'rm -rf "$scratch"' EXIT
  torch="$(grep '^torch==' "$ROOT/requirements-torch.lock")" # its version is chosen by hand
  step "resolving the runtime" "$NETWORK_REMEDY" sh -c "
    '$(find_python)' -m venv '$scratch/v' && cp '$ROOT/pyproject.toml' '$scratch/' && cd '$scratch' &&
    v/bin/pip install '$torch' 'setuptools>=77' wheel \$(v/bin/python - <<'PYTHON'
import tomllib
print(*(d.replace(' ', '') for d in tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'] if not d.startswith('torch')))
PYTHON
    )"
  frozen "$scratch/v" | grep -v '^triton==' >"$scratch/runtime"
  step "resolving the tools" "$NETWORK_REMEDY" sh -c "cd '$scratch' && v/bin/pip install \$(v/bin/python - <<'PYTHON'
import tomllib
print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['dev'])
PYTHON
    )"
  frozen "$scratch/v" | grep -vxFf "$scratch/runtime" >"$scratch/dev"
  write_hashes
  say "wrote requirements.lock and requirements-dev.lock"
}

frozen() { # frozen VENV: what is installed there, without PyTorch and what only its CUDA build needs
  "$1/bin/python" -m pip freeze --all --exclude pip | grep -v -E '^(torch==|nvidia-|cuda-)'
}

# Writes the packages of $scratch/runtime and $scratch/dev with the hash of each file that pip takes,
# on every Python and processor that worldbridge is made for.
write_hashes() {
  local python processor glibc platforms
  cat "$scratch/runtime" "$scratch/dev" >"$scratch/all"
  for processor in x86_64 aarch64; do
    platforms=(--platform "manylinux2014_$processor")
    for glibc in 17 24 26 27 28 31 34; do platforms+=(--platform "manylinux_2_${glibc}_$processor"); done
    for python in 3.11 3.12 3.13 3.14; do
      step "asking for the files of Python $python on $processor" "$NETWORK_REMEDY" \
        "$scratch/v/bin/pip" install --dry-run --ignore-installed --no-deps --only-binary=:all: \
        --implementation cp --python-version "$python" "${platforms[@]}" --target "$scratch/none" \
        --report "$scratch/$python-$processor.json" -r "$scratch/all"
    done
  done
  "$scratch/v/bin/python" - "$scratch" "$ROOT" <<'PYTHON'
import json, pathlib, re, sys

scratch, root = map(pathlib.Path, sys.argv[1:])
hashes = {}
for report in scratch.glob("*.json"):
    for item in json.loads(report.read_text())["install"]:
        name = re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower()
        hashes.setdefault(name, set()).add(item["download_info"]["archive_info"]["hashes"]["sha256"])
for source, lock, what in (
    ("runtime", "requirements.lock", "what `worldbridge serve` needs besides PyTorch"),
    ("dev", "requirements-dev.lock", "the tools for tests and checks"),
):
    lines = [f"# Exact versions and files of {what}. Written by ./build.sh lock"]
    for pin in (scratch / source).read_text().split():
        name = re.sub(r"[-_.]+", "-", pin.partition("==")[0]).lower()
        lines.append(" \\\n    ".join([pin, *(f"--hash=sha256:{h}" for h in sorted(hashes[name]))]))
    (root / lock).write_text("\n".join(lines) + "\n")
PYTHON
}

usage() {
  cat <<'USAGE'
usage: ./build.sh COMMAND [ARGS]

  setup          create .venv with the locked packages; does nothing if that is done
  serve [ARGS]   setup, then start the server with the bundled world (ARGS: see serve --help)
  test [ARGS]    setup with test tools, a browser, Godot and C#, then run the tests (ARGS go to pytest)
  test --fast    the tests of the daily loop, under three minutes; says what it leaves out
  test --all     also the tests marked `long`, which repeat a behaviour at more sizes
  check          ruff, formatting, strict mypy, import rule, vocabulary, generated files
  wheel          build dist/worldbridge-*.whl
  lock           write the lock files from pyproject.toml
  help           this text

Requires Linux with Python 3.11 or newer. On Debian and Ubuntu, whatever else is missing is
installed with apt-get, as root or through sudo.

environment
  PYTHON=/path/to/python3    the interpreter that .venv is made with
  CHROMIUM=/path/to/chrome   the browser of the end-to-end tests
  WORLDBRIDGE_VENV=DIR       another place for .venv
  WORLDBRIDGE_TORCH_INDEX=URL  the index that PyTorch alone is taken from. Its default build for
                             Linux includes CUDA (several GB). A machine without a GPU can use the
                             much smaller CPU build.
  PIP_...                    pip's own settings apply
USAGE
}

verb="${1:-help}"
if (($# > 0)); then shift; fi
case "$verb" in
  setup)
    setup
    say "ready: $VENV"
    ;;
  serve)
    setup_runtime
    exec "$VENV/bin/worldbridge" serve "$@"
    ;;
  test) run_tests "$@" ;;
  check) run_check ;;
  wheel) wheel ;;
  lock) lock ;;
  help | -h | --help) usage ;;
  *)
    usage >&2
    die "unknown command: $verb" "use one of: setup, serve, test, check, wheel, lock, help"
    ;;
esac
