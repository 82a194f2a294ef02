#!/usr/bin/env bash
# Puts a Godot 4 for the tests into ~/.cache/worldbridge/godot, as a small Debian tree (1.2 GB) of its
# own: Debian 12 has no Godot 4. Needs Debian or Ubuntu, root, and the machine's package mirror.
set -euo pipefail

TREE="${1:-${XDG_CACHE_HOME:-$HOME/.cache}/worldbridge/godot}"

if [[ "$(id -u)" != 0 ]]; then
  echo "setup.sh: not root; run it as root, or name a Godot 4: GODOT=/path/to/godot" >&2
  exit 1
fi
if [[ -x "$TREE/run-godot" ]]; then exit 0; fi
if [[ -e "$TREE" ]]; then
  echo "setup.sh: $TREE exists and holds no Godot; delete it, or name another folder" >&2
  exit 1
fi
# The mirror that this machine uses already. debootstrap checks the release's signature.
find_mirror() {
  apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' \
    'Label: Debian' | sort -u | head -n 1
}
mirror="$(find_mirror)"
if [[ -z "$mirror" ]]; then
  apt-get update
  mirror="$(find_mirror)"
fi
if [[ -z "$mirror" ]]; then
  echo "setup.sh: apt knows no Debian mirror; name a Godot 4: GODOT=/path" >&2
  exit 1
fi
command -v debootstrap >/dev/null || apt-get install -y --no-install-recommends debootstrap
unmount() { umount "$TREE.new/proc" "$TREE.new/sys" 2>/dev/null || true; }
trap unmount EXIT # debootstrap leaves them mounted where it is interrupted
unmount
rm -rf --one-file-system "$TREE.new" # what an interrupted run left
mkdir -p "$(dirname "$TREE")"
debootstrap --variant=minbase --include=godot,xvfb,xauth,libgl1-mesa-dri sid "$TREE.new" "$mirror"
cat >"$TREE.new/run-godot" <<'RUN'
#!/bin/sh
# Runs the Godot of this tree with the tree's own libraries.
tree="$(cd "$(dirname "$0")" && pwd)"
libraries="$tree/usr/lib/$(uname -m)-linux-gnu"
exec "$tree"/lib64/ld-linux-*.so.2 --library-path "$libraries:$libraries/pulseaudio" \
  "$tree/usr/bin/godot" "$@"
RUN
chmod +x "$TREE.new/run-godot"
"$TREE.new/run-godot" --headless --version
mv "$TREE.new" "$TREE"
