# For the scripts beside it, which source it: makes worldbridge and its tests importable by python3
# without installing them. Sets `root`, the repository's folder.
#
# The packages lie in top-level folders, so a tree of links stands in for an installation.
# PYTHONSAFEPATH: the folder that python3 is started in would come before that tree otherwise, and
# in the repository's own `worldbridge` is the command line without the packages.
# shellcheck shell=bash
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
links="$(mktemp -d)"
trap 'rm -rf "$links"' EXIT
mkdir "$links/worldbridge"
for name in "$root"/worldbridge/*; do ln -s "$name" "$links/worldbridge/"; done
for name in runtime models kernels bridge engine_plugins benchmarks; do
  ln -s "$root/$name" "$links/worldbridge/$name"
done
# `tests` and `benchmarks` are found in the repository, behind the tree
export PYTHONPATH="$links:$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1
