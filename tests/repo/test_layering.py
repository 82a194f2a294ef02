"""The import rule: who may import whom, read from the sources without running them."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Modules of ours that everybody may import. Except for the protocol they import nothing but the
# standard library.
LEAVES = {"errors", "clock", "settings", "stderr", "bridge.protocol"}
# folder -> our own packages it may import besides itself and the leaves, as in docs/architecture.md
MAY_IMPORT: dict[str, set[str]] = {
    "bridge": set(),
    "kernels": set(),
    "models": {"kernels"},
    "runtime": {"models", "kernels"},
    "engine_plugins": {"bridge"},  # the Python client speaks by the gateway's own definitions
}
# folder -> packages of others it may import at all; the model side has to run where no network is
OTHERS: dict[str, set[str]] = {
    "kernels": {"torch", "triton", "numpy", "numba"},
    # av reads recorded videos for a training, and is imported where that begins
    "models": {"torch", "triton", "numpy", "safetensors", "av"},
    "runtime": {"torch", "triton", "numpy", "safetensors", "msgpack", "zmq"},
}
TENSORS = {"torch", "triton", "cupy", "safetensors"}  # never in these:
WITHOUT_TENSORS = ("bridge", "engine_plugins")


def imports_of(source: str, package: str) -> set[str]:
    """Dotted names that a module of `package` imports, relative ones made absolute.

    `from a import b` counts as a.b: whether b is a module is not known without running it.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                parents = parts[: len(parts) - node.level + 1]
                base = ".".join([*parents, base]).rstrip(".")
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def violations(folder: str, imported: set[str]) -> list[str]:
    found = []
    allowed = [f"worldbridge.{name}" for name in {folder, *MAY_IMPORT[folder], *LEAVES}]
    for name in sorted(imported):
        top = name.split(".")[0]
        if top == "worldbridge":
            if not any(name == ours or name.startswith(ours + ".") for ours in allowed):
                found.append(f"{name} (may import of ours: {', '.join(sorted(allowed))})")
        elif folder in WITHOUT_TENSORS and top in TENSORS:
            found.append(f"{name} ({folder} has to run without {top})")
        elif folder in OTHERS and top not in OTHERS[folder] and top not in sys.stdlib_module_names:
            found.append(f"{name} ({folder} may import of others: {', '.join(OTHERS[folder])})")
    return found


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("folder", sorted(MAY_IMPORT))
def test_folder_keeps_to_the_import_rule(folder: str) -> None:
    assert modules(folder), f"no modules found in {folder}"
    found = []
    for path in modules(folder):
        package = ".".join(["worldbridge", *path.relative_to(ROOT).parent.parts])
        for problem in violations(folder, imports_of(path.read_text(), package)):
            found.append(f"{path.relative_to(ROOT)} imports {problem}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize("leaf", ["errors", "clock"])
def test_a_leaf_imports_the_standard_library_alone(leaf: str) -> None:
    source = (ROOT / "worldbridge" / f"{leaf}.py").read_text()
    tops = {name.split(".")[0] for name in imports_of(source, "worldbridge")}
    assert tops <= set(sys.stdlib_module_names)


@pytest.mark.parametrize(
    ("folder", "source"),
    [
        ("bridge", "import torch"),
        ("bridge", "def f() -> None:\n    from worldbridge.runtime import engine"),
        ("bridge", "from ..runtime.engine import Engine"),
        ("runtime", "from worldbridge.bridge.gateway.hub import run"),
        ("runtime", "from worldbridge.bridge import errors"),
        ("runtime", "import starlette.routing"),
        ("models", "from worldbridge.runtime import world"),
        ("kernels", "from worldbridge import models"),
    ],
)
def test_the_rule_finds_what_it_forbids(folder: str, source: str) -> None:
    assert violations(folder, imports_of(source, f"worldbridge.{folder}"))
