import msgpack
import pytest

from tests.support.fakes import CountingWorld, FakeClock, held
from worldbridge.bridge.protocol import FrameHeader, Pose, WorldSpec
from worldbridge.runtime.errors import SnapshotError
from worldbridge.runtime.session import FrameOutbox, open_session, pack_session, restore_session
from worldbridge.runtime.worlds.contract import WorldStart


def header(frame: int) -> FrameHeader:
    return FrameHeader(
        frame=frame,
        input_sequence=-1,
        input_time=0,
        t_input=0,
        t_controls=0,
        t_tokens=0,
        t_frame=0,
        camera=Pose(),
    )


def test_two_frames_travel_then_only_the_newest_waits() -> None:
    box = FrameOutbox("s")
    sent = [[f.header.frame for f in box.put(header(n), b"%d" % n)] for n in range(6)]
    assert sent == [[0], [1], [], [], [], []]
    assert box.dropped == 3
    [frame] = box.acked(0)
    assert (frame.header.frame, frame.payload, frame.header.dropped) == (5, b"5", 3)
    assert box.acked(1) == []


def test_an_ack_takes_all_frames_before_it_and_may_come_twice() -> None:
    box = FrameOutbox("s")
    for number in range(3):
        box.put(header(number), b"")
    assert [f.header.frame for f in box.acked(1)] == [2]
    assert box.acked(1) == []
    assert [f.header.frame for f in box.put(header(3), b"")] == [3]
    assert box.put(header(4), b"") == []


@pytest.fixture
def world() -> CountingWorld:
    return CountingWorld(FakeClock())


def snapshot_of_played_session(world: CountingWorld) -> bytes:
    session = open_session(world, "s", WorldStart("striped", 7))
    session.latch.offer(held(41, "KeyW", pointer=(-900.0, 5.0)), 0.0, 0.0)
    for n in range(300):
        session.record(session.latch.take(float(n)).action, Pose(position=(1.0, 2.0, float(n))))
    session.box.dropped = 4
    return pack_session(world, session)


def test_a_session_comes_back_as_it_was(world: CountingWorld) -> None:
    data = snapshot_of_played_session(world)
    session = restore_session(world, "other", data)
    assert (session.id, session.start, session.frame) == ("other", WorldStart("striped", 7), 300)
    assert session.pose == Pose(position=(1.0, 2.0, 299.0))
    assert session.box.dropped == 4
    assert (session.latch.memory.seq, session.latch.memory.pointer) == (41, (-900.0, 5.0))
    assert pack_session(world, session) == data


def test_the_input_log_keeps_the_newest_actions(world: CountingWorld) -> None:
    session = restore_session(world, "s", snapshot_of_played_session(world))
    forward = [action[1] for action in session.actions()]
    # 300 frames a millisecond apart, W held until the controller had been silent for 250 ms
    assert forward == [1.0] * (251 - (300 - 256)) + [0.0] * 49


def test_any_flipped_bit_is_noticed(world: CountingWorld) -> None:
    data = snapshot_of_played_session(world)
    for at in range(0, len(data), 5):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        with pytest.raises(SnapshotError):
            restore_session(world, "s", bytes(damaged))


@pytest.mark.parametrize("keep", [0, 1, 10, -1])
def test_a_truncated_snapshot_is_refused(world: CountingWorld, keep: int) -> None:
    with pytest.raises(SnapshotError, match="damaged") as caught:
        restore_session(world, "s", snapshot_of_played_session(world)[:keep])
    assert "version 1" in caught.value.expected
    assert caught.value.remedy


def test_another_version_or_world_is_named(world: CountingWorld) -> None:
    outer = msgpack.unpackb(snapshot_of_played_session(world))
    with pytest.raises(SnapshotError, match="got version 9"):
        restore_session(world, "s", msgpack.packb({**outer, "version": 9}))
    other = WorldSpec("other", "", 16, 8, 15.0, 1, ("plain",), (), 0, "procedural")
    with pytest.raises(SnapshotError, match="expected a snapshot of 'other', got one of 'counting"):
        restore_session(
            CountingWorld(FakeClock(), spec=other), "s", snapshot_of_played_session(world)
        )
