"""One closing line for several pytest runs: `python totals.py RESULTS.xml...`.

A continuous integration reads pytest's last line, and build.sh runs pytest several times. A test
that is in several reports counts as in the last of them.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

ORDER = ("failed", "passed", "skipped", "errors")
KINDS = {"failure": "failed", "error": "errors", "skipped": "skipped"}


def outcomes(reports: list[str]) -> dict[str, str]:
    """Return the outcome of every test by its name."""
    found: dict[str, str] = {}
    for report in reports:
        for case in ET.fromstring(report).iter("testcase"):
            kinds = [word for tag, word in KINDS.items() if case.find(tag) is not None]
            found[f"{case.get('classname')}.{case.get('name')}"] = (kinds or ["passed"])[0]
    return found


def closing_line(reports: list[str]) -> str:
    """Return the sum of JUnit reports, worded as pytest's own last line."""
    counts = Counter(outcomes(reports).values())
    suites = [suite for report in reports for suite in ET.fromstring(report).iter("testsuite")]
    seconds = sum(float(suite.get("time", 0)) for suite in suites)
    text = ", ".join(f"{counts[word]} {word}" for word in ORDER if counts[word])
    return f" {text or 'no tests ran'} in {seconds:.2f}s ({int(seconds) // 60} min) ".center(
        80, "="
    )


def failures(reports: list[str]) -> list[str]:
    """Return the names of the tests that failed, and of those that passed when they ran again."""
    last = outcomes(reports)
    first = {name for report in reports for name, word in outcomes([report]).items() if _bad(word)}
    return [
        f"FAILED {name}" if _bad(last[name]) else f"passed only when it ran again, alone: {name}"
        for name in sorted(first)
    ]


def _bad(outcome: str) -> bool:
    return outcome in ("failed", "errors")


if __name__ == "__main__":
    texts = [Path(name).read_text() for name in sys.argv[1:]]
    print(*failures(texts), closing_line(texts), sep="\n")
