"""One closing line for several pytest runs: `python totals.py RESULTS.xml...`.

A continuous integration reads pytest's last line, and build.sh runs pytest twice.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

WORDS = {"failures": "failed", "passed": "passed", "skipped": "skipped", "errors": "errors"}


def closing_line(reports: list[str]) -> str:
    """Return the sum of JUnit reports, worded as pytest's own last line."""
    counts: Counter[str] = Counter()
    seconds = 0.0
    for report in reports:
        for suite in ET.fromstring(report).iter("testsuite"):
            found = {name: int(suite.get(name, 0)) for name in ("failures", "errors", "skipped")}
            counts.update(found, passed=int(suite.get("tests", 0)) - sum(found.values()))
            seconds += float(suite.get("time", 0))
    text = ", ".join(f"{counts[name]} {word}" for name, word in WORDS.items() if counts[name])
    return f" {text or 'no tests ran'} in {seconds:.2f}s ({int(seconds) // 60} min) ".center(
        80, "="
    )


def failures(reports: list[str]) -> list[str]:
    """Return the names of the tests that failed."""
    return [
        f"FAILED {case.get('classname')}.{case.get('name')}"
        for report in reports
        for case in ET.fromstring(report).iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]


if __name__ == "__main__":
    texts = [Path(name).read_text() for name in sys.argv[1:]]
    print(*failures(texts), closing_line(texts), sep="\n")
