"""The Unity package: its core runs on .NET, its Unity layer compiles against declarations of Unity.

tests/engines/unity/setup.sh installs the compiler; without it the tests that need one are skipped.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from tests.engines.test_bad_input import CASES as BAD
from tests.engines.test_bad_input import bad_server
from tests.engines.unity.metas import PACKAGE, expected
from tests.engines.unreal.test_player import tls_proxy
from tests.models.guided.test_world_training import NET, SMALL
from tests.support.client_server import LAST, MODES, Played, check_session, client_server, play_all
from tests.support.server import Server, serving
from worldbridge.models.guided.checkpoint import save_guided_world
from worldbridge.models.guided.tokenizer import GuidedTokenizer
from worldbridge.models.transformer import VideoTransformer

HERE = Path(__file__).parent
FIXTURES = HERE.parents[2] / "engine_plugins" / "fixtures"
pytestmark = pytest.mark.timeout(600)  # everything is compiled first
# assemblies of Unity and of its packages
UNITYS = {
    "UnityEngine.TestRunner",
    "UnityEditor.TestRunner",
    "UnityEngine.UI",
    "Unity.InputSystem",
    "Unity.WebRTC",
}


@dataclass(frozen=True, slots=True)
class Compiler:
    root: Path
    out: Path

    def environment(self) -> dict[str, str]:
        return os.environ | {
            "DOTNET_SYSTEM_GLOBALIZATION_INVARIANT": "1",
            "LD_LIBRARY_PATH": str(self.root / "openssl" / "psycopg2_binary.libs"),
        }

    def dotnet(self, *arguments: str, stdin: str = "", timeout: float = 300) -> str:
        """Run a program and return what it printed. Fails the test where the program fails."""
        done = subprocess.run(
            [str(self.root / "dotnet" / "dotnet"), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            env=self.environment(),
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, (
            f"{arguments[:3]}: {done.returncode}\n{done.stderr}{done.stdout}"
        )
        return done.stdout

    def assembly(
        self, name: str, sources: list[Path], *options: str, app: bool = False
    ) -> list[str]:
        """Return the compiler's arguments for a library of .NET Standard 2.1, or for a program."""
        pack = "Microsoft.NETCore.App.Ref/3.1.0/ref/netcoreapp3.1" if app else ""
        pack = pack or "NETStandard.Library.Ref/2.1.0/ref/netstandard2.1"
        references = sorted((self.root / "dotnet" / "packs" / pack).glob("*.dll"))
        out = [f"-out:{self.out / name}.dll", *(["-exe"] if app else [])]
        return [*out, *(f"-r:{path}" for path in references), *options, *map(str, sources)]

    def compile(self, first: list[str], second: list[str]) -> None:
        self.dotnet(str(self.root / "compiler" / "csc9.dll"), *first, "--", *second)

    def reference(self, *names: str) -> list[str]:
        return [f"-r:{self.out / name}.dll" for name in names]

    def harness(self, *arguments: str, stdin: str = "", timeout: float = 60) -> str:
        return self.dotnet(str(self.out / "Harness.dll"), *arguments, stdin=stdin, timeout=timeout)


def sources(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in sorted((PACKAGE / folder).rglob("*.cs"))]
    assert found
    return found


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Compiler:
    """The core and the harness, compiled as C# 9; the core against .NET Standard 2.1."""
    root = Path(os.environ.get("WORLDBRIDGE_CSHARP", Path(sys.prefix) / "csharp"))
    if not (root / "compiler" / "csc9.dll").exists():
        pytest.skip(f"no C# 9 compiler: run tests/engines/unity/setup.sh {root}")
    compiler = Compiler(root, tmp_path_factory.mktemp("csharp"))
    core = compiler.assembly("WorldBridge.Client.Core", sources("Runtime/Core"))
    harness = compiler.assembly(
        "Harness",
        [HERE / "Harness.cs", HERE / "stubs" / "NUnit.cs", *sources("Tests/Editor")],
        *compiler.reference("WorldBridge.Client.Core"),
        app=True,
    )
    compiler.compile(core, harness)
    config = (HERE / "compiler" / "csc9.runtimeconfig.json").read_text()
    (compiler.out / "Harness.runtimeconfig.json").write_text(config)
    return compiler


# -- the package's files ---------------------------------------------------------------------------


def test_every_file_has_its_meta() -> None:
    metas = expected()
    found = {path: path.read_text() for path in PACKAGE.rglob("*.meta")}
    assert found == metas, "run: python tests/engines/unity/metas.py"
    assert len(set(found.values())) == len(found) > 30


def test_assemblies_refer_to_assemblies_that_exist() -> None:
    assemblies = {path: json.loads(path.read_text()) for path in PACKAGE.rglob("*.asmdef")}
    names = {assembly["name"] for assembly in assemblies.values()}
    assert len(names) == len(assemblies) == 9
    for path, assembly in assemblies.items():
        assert path.stem == assembly["name"]
        assert set(assembly["references"]) <= names | UNITYS, path.name
        assert not (assembly["includePlatforms"] and assembly["excludePlatforms"]), path.name
    covered = {path.parent for path in assemblies}
    for source in PACKAGE.rglob("*.cs"):
        assert covered & set(source.parents), f"{source.name} is in no assembly of the package"


def test_the_manifest_names_what_exists() -> None:
    manifest = json.loads((PACKAGE / "package.json").read_text())
    assert manifest["name"] == PACKAGE.name
    assert all((PACKAGE / sample["path"]).is_dir() for sample in manifest["samples"])
    for name in ("README.md", "CHANGELOG.md", "LICENSE.md"):
        assert (PACKAGE / name).stat().st_size > 0
    assert f"## [{manifest['version']}]" in (PACKAGE / "CHANGELOG.md").read_text()


def test_the_core_knows_no_engine() -> None:
    for path in sources("Runtime/Core"):
        assert "Unity" not in "".join(
            line for line in path.read_text().splitlines() if line.startswith("using")
        )


# -- the Unity layer -------------------------------------------------------------------------------


def test_the_unity_layer_compiles_for_unity_2022_and_6(compiler: Compiler) -> None:
    layers = sources("Runtime/Unity", "Runtime/InputSystem", "Runtime/WebRTC", "Editor", "Samples~")
    files = [HERE / "stubs" / "UnityEngine.cs", *layers]
    core = compiler.reference("WorldBridge.Client.Core")
    compiler.compile(
        compiler.assembly("Unity2022", files, *core),
        compiler.assembly("Unity6", files, *core, "-d:UNITY_6000_0_OR_NEWER"),
    )


@pytest.mark.parametrize("stage", ["vert", "frag"])
@pytest.mark.parametrize("name", ["WorldBackdrop", "WorldGuide"])
def test_the_shaders_compile_as_hlsl(name: str, stage: str, tmp_path: Path) -> None:
    validator = shutil.which("glslangValidator")
    if validator is None:
        pytest.skip("no glslangValidator (on Debian: glslang-tools)")
    shader = (PACKAGE / "Runtime" / "Unity" / f"{name}.shader").read_text()
    program = re.search(r"CGPROGRAM\n(.*?)ENDCG", shader, re.S)
    assert program is not None
    entry = re.search(rf"#pragma {stage[:4]}\w* (\w+)", program[1])
    assert entry is not None
    source = tmp_path / f"shader.{stage}"
    declared = (HERE / "stubs" / "UnityCG.hlsl").read_text()
    source.write_text(program[1].replace('#include "UnityCG.cginc"', declared))
    command = [validator, "-D", "-V", "-S", stage, "-e", entry[1], "-o", tmp_path / "out", source]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


# -- the core --------------------------------------------------------------------------------------


def test_the_packages_own_tests_pass(compiler: Compiler) -> None:
    result = json.loads(compiler.harness("unit"))
    assert result["failed"] == 0 and result["passed"] >= 30


def test_the_packages_own_tests_pass_on_mono_by_nunit(compiler: Compiler) -> None:
    """Unity's own runtime is a descendant of Mono."""
    nunit = Path("/usr/lib/cli/nunit.framework-2.6.3/nunit.framework.dll")
    console = shutil.which("nunit-console")
    if console is None or not nunit.exists():
        pytest.skip(
            "no NUnit on Mono (on Debian: mono-devel nunit-console libnunit-framework2.6.3-cil)"
        )
    core = compiler.reference("WorldBridge.Client.Core")
    tests = compiler.assembly("Tests", sources("Tests/Editor"), *core, f"-r:{nunit}")
    compiler.compile(tests, compiler.assembly("Again", sources("Runtime/Core")))
    command = [console, "-nologo", str(compiler.out / "Tests.dll")]
    done = subprocess.run(
        command, cwd=compiler.out, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ran = re.search(r"Tests run: (\d+), Errors: 0, Failures: 0", done.stdout)
    assert ran is not None and int(ran[1]) >= 30, done.stdout


@pytest.mark.e2e
@pytest.mark.serial
def test_plays_and_stops_on_mono(compiler: Compiler, tmp_path: Path) -> None:
    mono = shutil.which("mono")
    if mono is None or not Path("/usr/lib/mono/4.5/Facades/netstandard.dll").exists():
        pytest.skip("no Mono with .NET Standard 2.1 (on Debian: mono-devel)")
    files = [HERE / "Harness.cs", HERE / "stubs" / "NUnit.cs", *sources("Tests/Editor")]
    options = ("-exe", "-d:MONO", *compiler.reference("WorldBridge.Client.Core"))
    program = compiler.assembly("OnMono", files, *options)
    compiler.compile(program, compiler.assembly("Again", sources("Runtime/Core")))

    def harness(*arguments: str) -> Any:
        command = [mono, str(compiler.out / "OnMono.dll"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    options = ("--world", "procedural", "--seats", "1", "--fps", "60", "--zmq-port", "0")
    with serving(tmp_path / "log", *options) as server:
        for url, codec in ((server.url, "jpeg"), (zeromq_address(server), "bgra")):
            result = harness("play", url, "1", "procedural", codec)
            print(
                f"{result['fps']:.1f} of 60 frames/s, round trip {result['round_trip_ms']:.2f} ms"
            )
            assert result["state"] == "Playing" and result["fps"] > 0
        rounds = harness("rounds", server.url, "5")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and says nothing
        took = harness("leave", f"ws://127.0.0.1:{silent.getsockname()[1]}", "ws://192.0.2.1:9")
    print(rounds, took)
    assert rounds["played"] == 6 and rounds["sockets_left"] <= 0
    assert max(rounds["slowest_stop_ms"], *took) < 2000


def _example(path: Path) -> Any:
    return json.loads(path.with_suffix(".json").read_text())


def test_messages_of_a_server_are_decoded_whole(compiler: Compiler) -> None:
    files = sorted((FIXTURES / "valid").glob("server_*.msgpack"))
    lines = compiler.harness("decode", *map(str, files)).splitlines()
    assert len(lines) == len(files) >= 14
    for file, line in zip(files, lines, strict=True):
        message = _example(file)["message"]
        if message["type"] == "stats":  # the client does not ask for them, and skips them
            message = {"type": "stats"}
        assert json.loads(line) == message, file.name


def test_invalid_messages_are_refused_with_their_path(compiler: Compiler) -> None:
    files = sorted((FIXTURES / "invalid").glob("server_*.msgpack"))
    # a client's malformed bytes are malformed in the other direction, too
    files += [
        file
        for file in sorted((FIXTURES / "invalid").glob("client_*.msgpack"))
        if _example(file)["path"] in ("", "type")
        and "server" not in file.name
        and file.stem != "client_hello_too_large"
    ]
    lines = compiler.harness("decode", *map(str, files)).splitlines()
    assert len(lines) == len(files) >= 13
    for file, line in zip(files, lines, strict=True):
        want = _example(file)
        assert json.loads(line) == {"code": want["code"], "path": want["path"]}, file.name


def test_damaged_messages_raise_nothing_else(compiler: Compiler) -> None:
    files = sorted((FIXTURES / "valid").glob("server_*.msgpack"))
    result = json.loads(compiler.harness("garbage", *map(str, files)))
    assert result["refused"] > result["accepted"] > 0


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.strip().replace("-", ""))


def test_messages_of_a_client_are_byte_equal(compiler: Compiler) -> None:
    lines = dict(line.split() for line in compiler.harness("encode").splitlines())
    assert len(lines) == len(list((FIXTURES / "valid").glob("client_*.msgpack"))) - 1  # gamepads
    for name, text in lines.items():
        assert _bytes(text) == (FIXTURES / "valid" / f"{name}.msgpack").read_bytes(), name


def test_gamepads_are_byte_equal(compiler: Compiler) -> None:
    pads = json.loads((FIXTURES / "gamepads.json").read_text())
    order = [pads[0], *reversed(pads[1:])]
    lines = [
        " ".join(map(str, [16.5 * number, *pad["axes"], *pad["pressed"]]))
        for number, pad in enumerate(order)
    ]
    output = compiler.harness("gamepads", stdin="\n".join(lines))
    assert _bytes(output) == (FIXTURES / "valid" / "client_input_gamepads.msgpack").read_bytes()


def test_poses_survive_unitys_coordinates(compiler: Compiler) -> None:
    poses = json.loads((FIXTURES / "poses.json").read_text())
    lines = [
        " ".join(map(repr, [*pose["position"], *pose["orientation"], pose["fov_y"]]))
        for pose in poses
    ]
    output = compiler.harness("poses", stdin="\n".join(lines)).splitlines()
    for pose, line in zip(poses, output, strict=True):
        got = json.loads(line)
        camera = msgspec.msgpack.decode(_bytes(got["hex"]))["states"][0]["camera"]
        want = {key: pose[key] for key in ("position", "orientation", "fov_y")}
        assert msgspec.msgpack.encode(camera) == msgspec.msgpack.encode(want), pose["name"]
        matrix = [value for row in pose["matrix"] for value in row]
        assert got["rows"] == pytest.approx(matrix, abs=1e-15), pose["name"]
        # Unity's matrix is the protocol's between two mirrors in z: M' = F M F.
        mirror = [1, 1, -1, 1]
        mirrored = [mirror[i // 4] * mirror[i % 4] * value for i, value in enumerate(matrix)]
        assert got["unity"] == pytest.approx(mirrored, abs=1e-15), pose["name"]


# -- over the network ------------------------------------------------------------------------------


def replay(compiler: Compiler, url: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(compiler.harness("replay", url, str(LAST), timeout=120))
    return report


@pytest.fixture(scope="module")
def played(compiler: Compiler) -> dict[str, Played]:
    return play_all(partial(replay, compiler), html=True)


@pytest.mark.parametrize("kind", BAD)
def test_what_a_server_must_not_send_is_an_error(compiler: Compiler, kind: str) -> None:
    with bad_server(kind) as server:
        report = replay(compiler, server.url)
    assert report["error"] == BAD[kind] and report["remedy"]


def test_frames_of_another_size_are_shown(compiler: Compiler) -> None:
    with bad_server("size") as server:
        report = replay(compiler, server.url)
    assert report["error"] is None and len(set(report["shown"])) == 2


@pytest.mark.parametrize("mode", MODES)
def test_the_core_shows_every_frame(played: dict[str, Played], mode: str) -> None:
    report, server = played[mode]
    assert report["error"] is None
    check_session(server, report["shown"])


def test_a_web_page_instead_of_a_session_is_an_error(played: dict[str, Played]) -> None:
    report = played["html"][0]
    assert report["error"] == "unreachable" and report["remedy"] and not report["shown"]


def test_a_server_that_is_gone_is_left_at_once(compiler: Compiler) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and says nothing
        port = silent.getsockname()[1]
        unroutable = "ws://192.0.2.1:9"  # of RFC 5737
        urls = (f"ws://127.0.0.1:{port}", f"tcp://127.0.0.1:{port}", unroutable)
        took = json.loads(compiler.harness("leave", *urls))
    print(f"Dispose took {took} ms")
    # It waits 500 ms at most; a busy machine may wake it later.
    assert len(took) == 3 and max(took) < 2000


def test_tls_shows_every_frame_and_refuses_a_certificate_that_is_not_trusted(
    compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with client_server("segments") as server, tls_proxy(server.url, tmp_path) as (port, trusted):
        refused = replay(compiler, f"wss://localhost:{port}")
        assert refused["error"] == "unreachable"
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        report = replay(compiler, f"wss://localhost:{port}")
        assert report["error"] is None
        check_session(server, report["shown"])


@pytest.mark.e2e
def test_the_scenes_color_and_depth_are_shown_where_they_stand(
    compiler: Compiler, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    folder = tmp_path / "world"
    tokenizer = GuidedTokenizer(replace(SMALL, height=64, width=96))
    save_guided_world(folder, tokenizer, VideoTransformer(NET))
    options = ("--world", str(folder), "--seats", "1", "--zmq-port", "0")
    with serving(tmp_path / "log", *options) as server:
        result = json.loads(compiler.harness("guide", zeromq_address(server), timeout=240))
    assert result["takes"] == 1 and result["error"] is None
    assert result["shown_after"] >= 0


def zeromq_address(server: Server) -> str:
    pattern = r"tcp://127\.0\.0\.1:\d+"
    server.wait_for(pattern)
    return re.findall(pattern, server.output())[-1]


@pytest.mark.e2e
@pytest.mark.serial
def test_plays_on_a_real_server(compiler: Compiler, tmp_path: Path) -> None:
    options = ("--world", "procedural", "--seats", "1", "--fps", "60", "--zmq-port", "0")
    with serving(tmp_path / "log", *options) as server:
        zeromq = zeromq_address(server)
        results = [
            json.loads(compiler.harness("play", url, "2", "procedural", codec))
            for url, codec in ((server.url, "jpeg"), (zeromq, "bgra"))
        ]
        refused = json.loads(compiler.harness("play", server.url, "1", "nowhere", "jpeg"))
        rounds = json.loads(compiler.harness("rounds", server.url, "20", timeout=120))
        many = json.loads(compiler.harness("rounds", zeromq, "4", timeout=120))
    for result in results:
        print(
            f"{result['fps']:.1f} of 60 frames/s, round trip {result['round_trip_ms']:.2f} ms, "
            f"{result['allocated']} bytes allocated in a quarter of a second"
        )
        assert result["state"] == "Playing"
        # The median, by the whole process, after its buffers have grown.
        assert 0 <= result["allocated"] < 1000
        assert result["fps"] > 0 and result["input_to_frame_ms"] > 0 and result["round_trip_ms"] > 0
    assert (refused["state"], refused["error"]) == ("Error", "unknown_world")
    for result, count in ((rounds, 21), (many, 5)):  # the first round is a warm-up
        print(result)
        assert result["played"] == count
        # Each round had two threads; the runtime starts a few of its own when it likes.
        assert result["threads_left"] < count and result["sockets_left"] <= 0
        # Dispose waits 500 ms at most; a busy machine may wake it later.
        assert result["slowest_stop_ms"] < 2000
