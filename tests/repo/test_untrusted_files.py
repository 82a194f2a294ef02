"""No file that is read may run code: what can is called nowhere, or only in the safe way."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Calls that run what a file says, by the last two parts of their names. The pickle module is used
# by one reader, whose Unpickler calls nothing.
FORBIDDEN = {
    ("jit", "load"),
    ("package", "PackageImporter"),
    ("pickle", "load"),
    ("pickle", "loads"),
    ("marshal", "load"),
    ("marshal", "loads"),
    ("shelve", "open"),
    ("joblib", "load"),
    ("yaml", "load"),
    ("numpy", "load"),  # as np.load, so that the rule below sees it
    ("eval",),
    ("exec",),
}
# A keyword that a call has to have, with its value.
NEEDED = {("torch", "load"): ("weights_only", True)}
# A keyword that may have one value alone, in any call.
ONLY = {"allow_pickle": False, "trust_remote_code": False, "weights_only": True}
FUNCTIONS = {(name[0], name[-1]) for name in FORBIDDEN if len(name) == 2} | {("torch", "load")}


def name_of(node: ast.expr) -> tuple[str, ...]:
    if isinstance(node, ast.Attribute):
        return (*name_of(node.value), node.attr)
    return (node.id,) if isinstance(node, ast.Name) else ("",)


def violations(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            module = (node.module or "").split(".")[-1]
            for alias in node.names:
                if (module, alias.name) in FUNCTIONS:
                    yield f"line {node.lineno}: import of {module}.{alias.name} by its bare name"
        elif isinstance(node, ast.Call):
            name = name_of(node.func)[-2:]
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            if name in FORBIDDEN:
                yield f"line {node.lineno}: {'.'.join(name)}"
            if name in NEEDED and NEEDED[name][0] not in given:
                yield f"line {node.lineno}: {'.'.join(name)} without {NEEDED[name][0]}"
            for keyword, value in ONLY.items():
                wanted = given.get(keyword)
                if wanted is not None and not (
                    isinstance(wanted, ast.Constant) and wanted.value is value
                ):
                    yield f"line {node.lineno}: {keyword} is not {value}"


def product() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True)
    names = [name for name in listed.stdout.split() if not name.startswith("tests/")]
    return [name for name in names if (ROOT / name).is_file()]


def test_no_product_code_runs_what_a_file_says() -> None:
    names = product()
    assert len(names) > 100
    found = [f"{n}: {v}" for n in names for v in violations((ROOT / n).read_text())]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "torch.jit.load(path)",
        "import torch.jit as jit\njit.load(path)",
        "from torch.jit import load",
        "from pickle import loads",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=trusted)",
        "np.load(path, allow_pickle=True)",
        "numpy.load(path)",
        "pickle.load(file)",
        "eval(text)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
    ],
)
def test_the_rule_sees(source: str) -> None:
    assert list(violations(source))


@pytest.mark.parametrize(
    "source",
    ["torch.load(path, weights_only=True)", "np.load(path)", "model.eval()", "json.loads(x)"],
)
def test_the_rule_lets_pass(source: str) -> None:
    assert not list(violations(source))
