import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.fakes import held
from worldbridge.bridge.protocol import ControllerState
from worldbridge.runtime.controls import (
    NEUTRAL,
    ControlLatch,
    ControlMemory,
    LatchedControls,
    TurnLimits,
)

LIMITS = TurnLimits(yaw_deg=5.0, pitch_deg=3.0)
PIXELS_PER_YAW = 5.0 / 0.12  # pixels of pointer movement that one frame can turn
PIXELS_PER_PITCH = 3.0 / 0.12


def one_frame(snapshot: ControllerState) -> tuple[float, ...]:
    latch = ControlLatch(LIMITS)
    latch.offer(snapshot, 0.0, 0.0)
    return latch.take(1.0).action


def latch_with(snapshot: ControllerState) -> ControlLatch:
    latch = ControlLatch(LIMITS)
    assert latch.offer(snapshot, 10.0, 0.0)
    return latch


@pytest.mark.parametrize(
    ("keys", "action"),
    [
        (["KeyW"], (0, 1, 0, 0)),
        (["ArrowUp"], (0, 1, 0, 0)),
        (["KeyS"], (0, -1, 0, 0)),
        (["ArrowDown"], (0, -1, 0, 0)),
        (["KeyD"], (1, 0, 0, 0)),
        (["KeyA"], (-1, 0, 0, 0)),
        (["ArrowLeft"], (0, 0, 1, 0)),
        (["KeyQ"], (0, 0, 1, 0)),
        (["ArrowRight"], (0, 0, -1, 0)),
        (["KeyE"], (0, 0, -1, 0)),
        (["KeyW", "ArrowUp", "KeyD", "KeyQ"], (1, 1, 1, 0)),
        (["KeyW", "KeyS"], (0, 0, 0, 0)),
        (["Space", "F13"], (0, 0, 0, 0)),
    ],
)
def test_keys(keys: list[str], action: tuple[float, ...]) -> None:
    assert one_frame(held(0, *keys)) == action


@pytest.mark.parametrize(
    ("axes", "action"),
    [
        ((0, -1, 0, 0), (0, 1, 0, 0)),  # stick forward
        ((1, 0, 0, 0), (1, 0, 0, 0)),
        ((0, 0, 1, 0), (0, 0, -1, 0)),  # look right
        ((0, 0, 0, 1), (0, 0, 0, -1)),  # look down
        ((0.08, 0.08, -0.1, 0.05), (0, 0, 0, 0)),  # all within the dead zone
    ],
)
def test_sticks(axes: tuple[float, float, float, float], action: tuple[float, ...]) -> None:
    assert one_frame(ControllerState(0, 0.0, axes=axes)) == pytest.approx(action)


def test_a_stick_leaves_its_dead_zone_without_a_jump() -> None:
    just_outside = one_frame(ControllerState(0, 0.0, axes=(0.13, 0.0, 0.0, 0.0)))
    half = one_frame(ControllerState(0, 0.0, axes=(0.56, 0.0, 0.0, 0.0)))
    assert 0 < just_outside[0] < 0.02
    assert half[0] == pytest.approx(0.5)


def test_keys_and_sticks_add_up_to_one_at_most() -> None:
    action = one_frame(ControllerState(0, 0.0, axes=(0, -1, -1, 0), keys=("KeyW", "KeyQ")))
    assert action == (0, 1, 1, 0)


def test_pointer_right_and_down_turn_right_and_look_down() -> None:
    pointer = (PIXELS_PER_YAW / 2, PIXELS_PER_PITCH / 4)
    assert one_frame(held(0, pointer=pointer)) == pytest.approx((0, 0, -0.5, -0.25))


def test_pointer_movement_is_used_once() -> None:
    latch = latch_with(held(0, pointer=(-10.0, 0.0)))
    assert latch.take(1.0).action[2] == pytest.approx(10 / PIXELS_PER_YAW)
    assert latch.take(60.0).action == NEUTRAL
    latch.offer(held(1, pointer=(-15.0, 0.0)), 0.0, 70.0)
    assert latch.take(80.0).action[2] == pytest.approx(5 / PIXELS_PER_YAW)


def test_a_lost_packet_loses_no_pointer_movement() -> None:
    every, some = ControlLatch(LIMITS), ControlLatch(LIMITS)
    for seq in range(1, 7):
        every.offer(held(seq, pointer=(seq * 2.0, 0.0)), 0.0, 0.0)
        if seq in (2, 6):
            some.offer(held(seq, pointer=(seq * 2.0, 0.0)), 0.0, 0.0)
    assert every.take(1.0) == some.take(1.0)


def test_a_fast_pointer_movement_is_carried_over_into_the_next_frames() -> None:
    latch = latch_with(held(0, pointer=(-2.5 * PIXELS_PER_YAW, 0.0)))
    turns = [latch.take(float(now)).action[2] for now in range(4)]
    assert turns == pytest.approx([1, 1, 0.5, 0])


def test_at_most_three_frames_are_carried_over() -> None:
    latch = latch_with(held(0, pointer=(9000.0, -9000.0)))
    actions = [latch.take(float(now)).action for now in range(6)]
    assert [a[2] for a in actions] == pytest.approx([-1, -1, -1, -1, 0, 0])
    assert [a[3] for a in actions] == pytest.approx([1, 1, 1, 1, 0, 0])


def test_the_applied_input_is_named() -> None:
    latch = ControlLatch(LIMITS)
    assert latch.take(0.0) == LatchedControls(NEUTRAL, -1, 0.0, 0.0)
    latch.offer(held(7, "KeyW"), 123.0, 100.0)
    assert latch.take(110.0) == LatchedControls((0, 1, 0, 0), 7, 112.0, 123.0)


def test_a_silent_controller_is_released_and_can_come_back() -> None:
    latch = latch_with(held(3, "KeyW", pointer=(-900.0, 0.0)))
    assert latch.take(250.0).action[1] == 1
    assert latch.take(251.0) == LatchedControls()
    latch.offer(held(4, pointer=(-900.0, 0.0)), 0.0, 900.0)
    assert latch.take(901.0).action == NEUTRAL  # nothing is left of the turn before the silence


def test_late_and_repeated_snapshots_are_ignored() -> None:
    latch = latch_with(held(5, "KeyW"))
    assert not latch.offer(held(4, "KeyS"), 0.0, 20.0)
    assert not latch.offer(held(5, "KeyS"), 0.0, 20.0)
    assert latch.take(30.0).seq == 5


def test_a_client_that_counts_anew_after_a_resume_is_followed_without_a_jump() -> None:
    latch = latch_with(held(900, pointer=(-5000.0, 0.0)))
    latch.take(1.0)
    assert latch.offer(held(0, "KeyW", pointer=(3.0, 0.0)), 0.0, 2000.0)
    assert latch.take(2001.0).action == (0, 1, 0, 0)
    latch.offer(held(1, pointer=(13.0, 0.0)), 0.0, 2020.0)
    assert latch.take(2021.0).action[2] == pytest.approx(-10 / PIXELS_PER_YAW)


def test_a_restored_latch_goes_on_where_the_pointer_was() -> None:
    latch = latch_with(held(8, pointer=(100.0, 0.0)))
    for now in range(5):
        latch.take(float(now))
    again = ControlLatch(LIMITS, latch.memory)
    again.offer(held(9, pointer=(110.0, 0.0)), 0.0, 50.0)
    assert again.take(51.0).action[2] == pytest.approx(-10 / PIXELS_PER_YAW)


def test_half_the_frame_time_means_half_the_turn_per_frame() -> None:
    assert TurnLimits.at(15) == TurnLimits(5.0, 3.0)
    assert TurnLimits.at(30) == TurnLimits(2.5, 1.5)


any_number = st.floats(-1e12, 1e12)
any_axis = st.floats(-1, 1)


@settings(deadline=None)
@given(
    st.lists(
        st.builds(
            ControllerState,
            sequence=st.integers(0, 2**53 - 1),
            time=any_number,
            axes=st.tuples(any_axis, any_axis, any_axis, any_axis),
            keys=st.lists(st.sampled_from(["KeyW", "KeyA", "ArrowLeft", "KeyE"])).map(tuple),
            pointer=st.tuples(any_number, any_number),
        ),
        max_size=6,
    )
)
def test_whatever_comes_an_action_stays_in_range(snapshots: list[ControllerState]) -> None:
    latch = ControlLatch(LIMITS, ControlMemory())
    for now, snapshot in enumerate(snapshots):
        latch.offer(snapshot, 0.0, float(now))
        assert all(-1.0 <= value <= 1.0 for value in latch.take(now + 0.5).action)
