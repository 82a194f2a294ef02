"""When a latent is begun and how fast pictures follow, from what was measured."""

from __future__ import annotations

import pytest

from worldbridge.runtime.worlds.pipeline import LookaheadScheduler


def measured(drawing: float, pixels: float, count: int = 16) -> LookaheadScheduler:
    tempo = LookaheadScheduler(40.0, 8)
    for _ in range(count):
        tempo.drew(drawing, 1)
        tempo.decoded(pixels)
        tempo.came(drawing + pixels)
    return tempo


def test_before_anything_was_measured_it_begins_early_at_the_frame_rate() -> None:
    tempo = LookaheadScheduler(40.0, 8)
    assert (tempo.lead(1), tempo.period_ms(1)) == (16, 40.0)


@pytest.mark.parametrize(
    ("drawing", "pixels", "lead"), [(10, 5, 1), (30, 10, 2), (100, 30, 4), (250, 60, 9)]
)
def test_a_faster_machine_reads_controls_later(drawing: float, pixels: float, lead: int) -> None:
    tempo = measured(drawing, pixels)
    assert (tempo.lead(1), tempo.period_ms(1)) == (lead, 40.0)
    # what was measured, and a tenth, is over before the pictures that are left are
    assert tempo.lead(1) * 40 >= 1.1 * (drawing + pixels)


def test_a_slow_machine_spreads_its_pictures() -> None:
    tempo = measured(4000.0, 1000.0)
    assert tempo.period_ms(1) == pytest.approx(1.1 * 4000 / 8)
    assert tempo.lead(1) == 11  # drawing goes on while pixels are made
    assert measured(1000.0, 4000.0).period_ms(1) == tempo.period_ms(1)


def test_players_share_both_networks_and_drawing_together_counts_once() -> None:
    assert measured(200.0, 50.0).period_ms(2) == pytest.approx(1.1 * 400 / 8)
    together = LookaheadScheduler(40.0, 8)
    together.drew(200.0, 2)
    assert together.period_ms(2) == 40.0


def test_one_slow_latent_changes_nothing() -> None:
    tempo = measured(30.0, 10.0, count=15)
    tempo.drew(9000.0, 1)
    tempo.came(9000.0)
    assert (tempo.lead(1), tempo.period_ms(1)) == (2, 40.0)
