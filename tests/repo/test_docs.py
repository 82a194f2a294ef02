"""The documents name files, links and headings that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "."}
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def headings(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page: Path) -> None:
    named = re.findall(r"`([a-z_]+/[\w./-]*)`", page.read_text())
    ours = [name for name in named if name.split("/")[0] in FOLDERS]
    missing = [name for name in ours if not (ROOT / name).exists()]
    assert not missing, f"{page.name} names {missing}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name) if name else page
        assert file.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in headings(file), f"{page.name} links to {target}"


def test_every_threat_names_its_limit_and_a_test_that_collects() -> None:
    text = (ROOT / "docs" / "security.md").read_text()
    rows = re.findall(r"^\| (?!threat|---)(.+?) \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    assert len(rows) > 30
    for threat, limit, tests in rows:
        names = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", tests)
        assert names and limit, f"{threat!r} has no test"
        for file, function in names:
            source = (ROOT / file).read_text() if (ROOT / file).exists() else ""
            assert re.search(rf"def {function or 'test_'}", source), (
                f"{threat!r}: {file} {function}"
            )


def test_the_frame_path_has_at_most_twelve_nouns() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    quote = "".join(re.findall(r"^> (.*)$", text, re.MULTILINE))
    nouns = re.findall(r"`(\w+)`", quote)
    assert 8 <= len(nouns) <= 12 and len(set(nouns)) == len(nouns)
