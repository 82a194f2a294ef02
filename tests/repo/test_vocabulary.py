"""The vocabulary of docs/glossary.md, kept by every source, document, page and script."""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TABLE = tomllib.loads((Path(__file__).parent / "vocabulary.toml").read_text())
SUFFIXES = {".py", ".js", ".mjs", ".html", ".css", ".svg", ".md", ".sh", ".toml", ".yml"}
# These have to name what they forbid.
EXEMPT = {"tests/repo/vocabulary.toml", "tests/repo/test_vocabulary.py"}
CODE = {".py", ".js", ".mjs"}
ALLOWED: list[dict[str, Any]] = TABLE.get("allowed", [])
PENDING: dict[str, list[str]] = TABLE.get("pending", {})  # not yet renamed there

Entry = dict[str, Any]


@cache
def sources() -> dict[str, list[str]]:
    """Return the lines of every tracked text file, by path."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    names = listed.stdout.decode().rstrip("\0").split("\0")
    return {
        name: (ROOT / name).read_text().splitlines()
        for name in names
        if Path(name).suffix in SUFFIXES and name not in EXEMPT and (ROOT / name).is_file()
    }


@cache
def words_of(line: str) -> frozenset[str]:
    """Return the lower-case words of a line, and those that its identifiers are made of."""
    return frozenset(part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", line))


def hits(entry: Entry, path: str, line: str) -> Iterator[str]:
    """Yield the retired words, names and texts of one entry that a line contains."""
    if "words" in entry:
        yield from words_of(line) & set(entry["words"])
    if "names" in entry and Path(path).suffix in CODE:
        code = line.split("#" if path.endswith(".py") else "//")[0]
        yield from set(entry["names"]) & set(re.findall(r"\b[A-Za-z_]\w*\b", code))
    yield from (text for text in entry.get("texts", ()) if _contains(line.lower(), text.lower()))


def _contains(line: str, text: str) -> bool:
    """Whether the line contains the text, ending where the text ends: "ever" is not in "every"."""
    start = line.find(text)
    while start >= 0:
        end = start + len(text)
        if not (text[-1].isalpha() and line[end : end + 1].isalpha()):
            return True
        start = line.find(text, end)
    return False


def matches(path: str, globs: list[str]) -> bool:
    return any(fnmatch(path, glob) for glob in globs)


def allowed(word: str, path: str, line: str) -> bool:
    return any(
        word in entry["words"]
        and matches(path, entry.get("files", ["*"]))
        and re.search(entry.get("line", ""), line)
        for entry in ALLOWED
    )


def title(entry: Entry) -> str:
    return str([*entry.get("words", ()), *entry.get("names", ()), *entry.get("texts", ())][0])


def found_in(entry: Entry, path: str) -> Iterator[str]:
    for number, line in enumerate(sources()[path], 1):
        for word in hits(entry, path, line):
            if not allowed(word, path, line):
                yield f"{path}:{number}: {word}: {line.strip()}"


@pytest.mark.parametrize("entry", TABLE["retired"], ids=title)
def test_a_retired_term_is_not_used(entry: Entry) -> None:
    pending = PENDING.get(title(entry), [])
    paths = [p for p in sources() if matches(p, entry.get("files", ["*"]))]
    found = [place for p in paths if not matches(p, pending) for place in found_in(entry, p)]
    assert not found, f"say {entry['use']} instead:\n" + "\n".join(found)


def glossary() -> list[str]:
    """Return the terms of the glossary, in its order."""
    text = (ROOT / "docs" / "glossary.md").read_text()
    return re.findall(r"^\| \*\*([^*]+)\*\*", text, re.MULTILINE)


def test_the_glossary_gives_each_term_one_meaning_and_a_source() -> None:
    terms = glossary()
    assert len(terms) >= 30 and len(set(terms)) == len(terms)
    for row in (line for line in sources()["docs/glossary.md"] if line.startswith("| **")):
        _, term, meaning, source, _ = (cell.strip() for cell in row.split("|"))
        assert term and "." in meaning and source, row


@pytest.mark.parametrize("entry", TABLE["retired"], ids=title)
def test_what_replaced_a_term_is_in_the_glossary(entry: Entry) -> None:
    assert entry.get("plain") or entry["use"] in glossary(), entry["use"]


def test_every_exception_is_needed() -> None:
    for entry in ALLOWED:
        assert entry["why"], entry
        assert any(
            word in words_of(line)
            for path, lines in sources().items()
            if matches(path, entry.get("files", ["*"]))
            for line in lines
            if re.search(entry.get("line", ""), line)
            for word in entry["words"]
        ), f"nothing needs this exception any more: {entry}"
