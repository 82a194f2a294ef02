"""Print what each client was shown to do, as the table of docs/clients.md: python -m tests.engines

`python -m tests.engines godot unreal` prints the lines of these clients alone.

Runs the tests that are named below. A cell is `yes (n)` with the number of checks that passed,
`skipped` where the machine lacks what they need, or `no` with the tests that failed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

ROOT: Final = Path(__file__).parents[2]
COLUMNS: Final = (
    "messages of the fixtures",
    "poses and gamepads",
    "every replay, test card",
    "bad input",
    "real server",
)
UNITY, UNREAL = "tests/engines/unity/test_unity.py", "tests/engines/unreal/test_core.py"
GODOT, BAD = "tests/engines/godot/test_godot.py", "tests/engines/test_bad_input.py"
REPLAY, PLAYER = "tests/engines/test_replay.py", "tests/engines/unreal/test_player.py"
PROTOCOL, WEB = "tests/bridge/test_protocol.py", "tests/web/protocol.test.mjs"

# client -> for each column its tests: a file, or file::name, which stands for all its parameters
TABLE: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    "Python": (
        (f"{PROTOCOL}::test_valid_fixtures", f"{PROTOCOL}::test_invalid_fixtures"),
        (f"{PROTOCOL}::test_matrices_of_poses",),
        (f"{REPLAY}::test_the_python_client",),
        (f"{BAD}::test_the_python_client", f"{BAD}::test_a_web_page"),
        ("tests/bridge/test_examples.py",),
    ),
    "JavaScript, three.js": (
        (WEB,),
        (WEB,),
        (f"{REPLAY}::test_the_javascript_client", "tests/e2e/test_three.py::test_the_test_card"),
        (f"{BAD}::test_the_javascript_client",),
        ("tests/e2e/test_three.py::test_a_key_steers",),
    ),
    "Godot": (
        (f"{GODOT}::test_the_core_passes",),
        (f"{GODOT}::test_the_core_passes",),
        (f"{GODOT}::test_every_replayed",),
        (f"{BAD}::test_the_godot_client", f"{GODOT}::test_a_refusal"),
        (f"{GODOT}::test_frames_arrive", f"{GODOT}::test_it_plays_by_zeromq"),
    ),
    "Unity (core on Mono)": (
        (f"{UNITY}::test_messages_of", f"{UNITY}::test_invalid_messages"),
        (f"{UNITY}::test_poses", f"{UNITY}::test_gamepads"),
        (f"{UNITY}::test_the_core_shows",),
        (f"{UNITY}::test_damaged_messages", f"{UNITY}::test_a_web_page"),
        (f"{UNITY}::test_plays_on_a_real_server",),
    ),
    "Unreal (core)": (
        (f"{UNREAL}::test_every_valid", f"{UNREAL}::test_every_invalid"),
        (f"{UNREAL}::test_poses", f"{UNREAL}::test_gamepads"),
        (f"{PLAYER}::test_the_core_shows",),
        (f"{UNREAL}::test_every_invalid", f"{PLAYER}::test_a_web_page"),
        (f"{PLAYER}::test_plays_walks",),
    ),
}


def run_pytest(files: list[str], options: list[str]) -> dict[str, str]:
    """Return file::name of each test with passed, skipped or failed."""
    with tempfile.TemporaryDirectory() as folder:
        xml = Path(folder) / "results.xml"
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={xml}", *options, *files]
        subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False)
        results = {}
        for case in ElementTree.parse(xml).iter("testcase"):
            path = f"{case.get('classname', '').replace('.', '/')}.py"
            outcome = "passed"
            if case.find("skipped") is not None:
                outcome = "skipped"
            if case.find("failure") is not None or case.find("error") is not None:
                outcome = "failed"
            results[f"{path}::{case.get('name')}"] = outcome
    return results


def run_node(file: str) -> dict[str, str]:
    """Return the same of the tests of a file for Node.js."""
    node = shutil.which("node")
    if node is None:
        return {f"{file}::": "skipped"}
    command = [node, "--test", "--test-reporter=tap", file]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    results = {}
    for line in done.stdout.splitlines():
        verdict, dash, name = line.strip().partition(" - ")
        if dash and verdict.rsplit(" ", 1)[0] in ("ok", "not ok"):
            results[f"{file}::{name}"] = "passed" if verdict.startswith("ok") else "failed"
    return results


def cell(prefixes: tuple[str, ...], results: dict[str, str]) -> str:
    found = {name: result for name, result in results.items() if name.startswith(prefixes)}
    failed = [name.rpartition("::")[2] for name, result in found.items() if result == "failed"]
    if failed:
        return "no: " + ", ".join(failed)
    passed = sum(result == "passed" for result in found.values())
    return f"yes ({passed})" if passed else "skipped"


def main(wanted: tuple[str, ...]) -> int:
    table = {name: row for name, row in TABLE.items() if name.lower().startswith(wanted)}
    prefixes = {prefix for row in table.values() for cells in row for prefix in cells}
    files = sorted({prefix.partition("::")[0] for prefix in prefixes})
    tests = [file for file in files if file.endswith(".py")]
    names = {prefix.partition("::")[2] for prefix in prefixes} - {""}
    chosen = " or ".join(sorted(names | {"test_examples"}))
    results = {**run_pytest(tests, ["-k", chosen]), **(run_node(WEB) if WEB in prefixes else {})}
    print("| client | " + " | ".join(COLUMNS) + " |")
    print("| --- " * (len(COLUMNS) + 1) + "|")
    rows = {client: [cell(cells, results) for cells in row] for client, row in table.items()}
    for client, row in rows.items():
        print(f"| {client} | " + " | ".join(row) + " |")
    return int(any(text.startswith("no") for row in rows.values() for text in row))


if __name__ == "__main__":
    sys.exit(main(tuple(name.lower() for name in sys.argv[1:]) or ("",)))
