import pytest

from worldbridge.runtime.stats import LegStatistics, RollingPercentiles


def test_percentiles_are_values_that_occurred() -> None:
    window = RollingPercentiles(200)
    for value in range(100, 0, -1):
        window.add(float(value))
    assert [window.percentile(p) for p in (1, 50, 95, 99, 100)] == [1.0, 50.0, 95.0, 99.0, 100.0]


def test_only_the_newest_values_count() -> None:
    window = RollingPercentiles(3)
    for value in (1000.0, 1.0, 2.0, 3.0):
        window.add(value)
    assert window.percentile(100) == 3.0
    assert len(window) == 3


def test_nothing_yet_is_none_and_bad_arguments_are_refused() -> None:
    window = RollingPercentiles(3)
    assert window.percentile(50) is None
    with pytest.raises(ValueError, match="percentile in"):
        window.percentile(0)
    with pytest.raises(ValueError, match="window of at least 1"):
        RollingPercentiles(0)


def test_legs_are_summed_up_by_name() -> None:
    legs = LegStatistics(10)
    for ms in (1.0, 2.0, 3.0):
        legs.add({"tokens": ms, "pixels": 10 * ms})
    assert legs.summary() == {
        "tokens": {"p50": 2.0, "p95": 3.0, "p99": 3.0},
        "pixels": {"p50": 20.0, "p95": 30.0, "p99": 30.0},
    }
