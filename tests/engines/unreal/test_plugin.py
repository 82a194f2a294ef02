"""The Unreal plugin: its engine layer's types against stubs, and the files around it.

The stubs say what this project believes about the engine. A wrong belief is not found here.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.engines.unreal.native import CORE, HERE, MODULE, PLUGIN, compiler, has_openssl, run

FLAGS = ["-std=c++20", "-fno-exceptions", "-fno-rtti", "-Wall", "-Wextra", "-Werror", "-Wshadow"]
# The stubs declare functions that nobody defines.
QUIET = ["-Wno-undefined-internal", "-Wno-undefined-inline", "-Wno-undefined-var-template"]
SECTION = re.compile(r"^// === (\S+)\n", re.MULTILINE)


def write_stubs(folder: Path) -> None:
    """Write one header per section of stubs.h."""
    _, *parts = SECTION.split((HERE / "stubs.h").read_text())
    for name, text in zip(parts[::2], parts[1::2], strict=True):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#pragma once\n" + text)


def generated(header: str) -> str:
    """Return what the engine's header tool would add, as far as the compiler needs it."""
    lines, owner = ["#pragma once", "#undef GENERATED_BODY"], None
    for number, line in enumerate(header.splitlines(), 1):
        if found := re.match(r"(?:class|struct) (?:\w+_API )?(\w+)(?: : public (\w+))?$", line):
            owner = found
        elif "GENERATED_BODY()" in line and owner is not None:
            name, base = owner.groups()
            body = f"public: using Super = {base}; private:" if base else ""
            lines.append(f"#define BODY_{number} {body} using ThisClass = {name};")
            if not base:
                lines[-1] = f"#define BODY_{number}"
    lines += ["#define JOIN_(a, b) a##b", "#define JOIN(a, b) JOIN_(a, b)"]
    return "\n".join([*lines, "#define GENERATED_BODY() JOIN(BODY_, __LINE__)", ""])


def check(folder: Path, source: Path) -> None:
    write_stubs(folder)
    for header in (MODULE / "Public").glob("*.h"):
        (folder / f"{header.stem}.generated.h").write_text(generated(header.read_text()))
    includes = [f"-I{path}" for path in (folder, MODULE / "Public", MODULE / "Private")]
    clang = compiler("clang++")
    run(clang, *FLAGS, *QUIET, "-fsyntax-only", "-DWORLDBRIDGE_API=", *includes, source)


@pytest.mark.parametrize("name", [path.name for path in sorted((MODULE / "Private").glob("*.cpp"))])
def test_the_engine_layer_compiles_against_the_stubs(name: str, tmp_path: Path) -> None:
    if name == "TlsSocket.cpp" and not has_openssl(compiler("clang++")):
        pytest.skip("no headers of OpenSSL on this machine (on Debian: libssl-dev)")
    check(tmp_path, MODULE / "Private" / name)


def test_a_wrong_type_in_the_engine_layer_is_found(tmp_path: Path) -> None:
    source = (MODULE / "Private" / "WorldStreamComponent.cpp").read_text()
    broken = source.replace("Texture->UpdateResource();", "Texture->UpdateResource(1);")
    assert broken != source
    (tmp_path / "broken.cpp").write_text(broken)
    with pytest.raises(AssertionError, match="UpdateResource"):
        check(tmp_path, tmp_path / "broken.cpp")


def test_the_core_compiles_with_clang_as_the_engine_compiles_it() -> None:
    run(compiler("clang++"), *FLAGS, "-fsyntax-only", *sorted(CORE.glob("*.cpp")), seconds=100)


def test_the_core_knows_nothing_of_the_engine() -> None:
    for path in [*CORE.glob("*.h"), *CORE.glob("*.cpp")]:
        included = re.findall(r'#include "([^"]+)"', path.read_text())
        assert all((CORE / name).is_file() for name in included), path.name


def test_the_descriptor_names_the_module_and_what_it_depends_on() -> None:
    plugin = json.loads((PLUGIN / "WorldBridge.uplugin").read_text())
    assert plugin["FileVersion"] == 3 and isinstance(plugin["Version"], int)
    for module in plugin["Modules"]:
        rules = (PLUGIN / "Source" / module["Name"] / f"{module['Name']}.Build.cs").read_text()
        assert f"class {module['Name']} : ModuleRules" in rules
        for dependency in plugin["Plugins"]:
            assert f'"{dependency["Name"]}"' in rules


def test_public_headers_use_no_standard_library() -> None:
    for path in (MODULE / "Public").glob("*.h"):
        assert "std::" not in path.read_text() and "#include <" not in path.read_text()
