"""The closing line of several pytest runs: what ran twice counts once."""

from tests.support.totals import closing_line, failures

FIRST = """<testsuites><testsuite time="2"><testcase classname="t" name="a"><failure/></testcase>
<testcase classname="t" name="b"/><testcase classname="t" name="c"><skipped/></testcase>
<testcase classname="t" name="d"><error/></testcase></testsuite></testsuites>"""
AGAIN = """<testsuites><testsuite time="1"><testcase classname="t" name="a"/>
<testcase classname="t" name="d"><failure/></testcase></testsuite></testsuites>"""


def test_a_test_counts_as_it_ended_the_last_time() -> None:
    assert (
        closing_line([FIRST]).strip("= ")
        == "1 failed, 1 passed, 1 skipped, 1 errors in 2.00s (0 min)"
    )
    assert (
        closing_line([FIRST, AGAIN]).strip("= ") == "1 failed, 2 passed, 1 skipped in 3.00s (0 min)"
    )


def test_what_failed_once_and_what_failed_twice_are_named() -> None:
    assert failures([FIRST, AGAIN]) == ["passed only when it ran again, alone: t.a", "FAILED t.d"]
    assert failures([AGAIN]) == ["FAILED t.d"]
