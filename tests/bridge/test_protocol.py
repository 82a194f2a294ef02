"""Any bytes are a message or a ProtocolError; every message survives the way there and back."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldbridge.bridge import protocol as p
from worldbridge.bridge.errors import ERROR_CODES

quick = settings(max_examples=60, deadline=None)  # a busy machine is no failure

ms = st.floats(-1e12, 1e12)
name = st.text(max_size=40)
maybe_name = st.none() | name
seed = st.none() | st.integers(0, 2**53 - 1)
unit = st.floats(-1, 1)
metres = st.floats(-1e6, 1e6)
blob = st.binary(max_size=64)


@st.composite
def rotations(draw: st.DrawFn) -> tuple[float, float, float, float]:
    parts = [draw(unit) for _ in range(4)]
    length = math.sqrt(sum(part * part for part in parts))
    if length < 1e-3:
        return (0.0, 0.0, 0.0, 1.0)
    a, b, c, d = (part / length for part in parts)
    return (a, b, c, d)


poses = st.builds(p.Pose, st.tuples(metres, metres, metres), rotations(), st.floats(1, 179))
snapshots = st.builds(
    p.ControllerState,
    seq=st.integers(0, 2**53 - 1),
    time=ms,
    axes=st.tuples(unit, unit, unit, unit),
    buttons=st.integers(0, 2**17 - 1),
    keys=st.lists(st.text(max_size=24), max_size=16).map(tuple),
    pointer=st.tuples(ms, ms),
    pose=st.none() | poses,
)
even = st.integers(1, 1000).map(lambda half: half * 2)
specs = st.builds(
    p.WorldSpec,
    name,
    name,
    even,
    even,
    st.floats(0.1, 240),
    st.integers(1, 8),
    st.lists(name, max_size=5).map(tuple),
    st.lists(name, max_size=5).map(tuple),
    st.integers(0, 100),
    st.sampled_from(p.KINDS),
    st.integers(0, p.MAX_PROMPT_FRAMES),
)
headers = st.builds(
    p.FrameHeader,
    st.integers(0, 2**40),
    st.integers(-1, 2**40),
    ms,
    ms,
    ms,
    ms,
    ms,
    poses,
    ms,
    ms,
    ms,
    st.none() | st.integers(0, 2**32 - 1),
    st.integers(0, 2**40),
    st.integers(1, 64),
)
json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | ms | name,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(name, inner, max_size=3),
    max_leaves=6,
)
files = st.none() | st.lists(blob, max_size=p.MAX_PROMPT_FRAMES).map(tuple)


@st.composite
def raw_pictures(draw: st.DrawFn) -> p.PromptFrames | None:
    count, height, width = draw(st.integers(0, 9)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    if count == 0:
        return None
    return p.PromptFrames(count, height, width, bytes(count * height * width * 3))


values = st.dictionaries(name.filter(lambda key: key != "type"), json_like, max_size=4)

client_messages = st.one_of(
    st.builds(
        p.Hello,
        name,
        st.sampled_from(p.ROLES),
        maybe_name,
        maybe_name,
        seed,
        st.sampled_from(p.VIDEOS),
        maybe_name,
        maybe_name,
        pictures=files,
    ),
    st.builds(p.Start, maybe_name, seed, files),
    st.builds(p.Input, st.lists(snapshots, min_size=1, max_size=4).map(tuple)),
    st.builds(p.Ping, ms),
    st.builds(p.Offer, name),
    st.builds(
        p.FrameShown, st.integers(0, 2**40), ms, ms, st.none() | ms, st.none() | st.floats(1, 1000)
    ),
    st.just(p.StatsRequest()),
    st.just(p.Bye()),
)
server_messages = st.one_of(
    st.builds(
        p.Welcome,
        name,
        name,
        name,
        st.sampled_from(p.ROLES),
        specs,
        st.builds(p.Seats, st.integers(0, 99), st.integers(0, 99)),
    ),
    st.builds(p.Status, st.sampled_from(p.STATES), name, st.none() | st.floats(0, 1)),
    st.builds(p.Frame, headers, st.none() | blob),
    st.builds(p.Error, name, name, name, name, name, st.booleans()),
    st.builds(p.Pong, ms, ms),
    st.builds(p.Answer, name),
    st.builds(p.Stats, values),
)
gateway_messages = st.one_of(
    st.builds(p.OpenSession, name, maybe_name, seed, st.none() | blob, raw_pictures()),
    st.builds(p.SessionInput, name, snapshots, ms),
    st.builds(p.RestartSession, name, maybe_name, seed, raw_pictures()),
    st.builds(p.CloseSession, name),
    st.builds(p.FrameAck, name, st.integers(0, 2**40)),
    st.builds(p.ShiftPhase, name, st.floats(-1000, 1000)),
    st.builds(p.WorkerPing, ms),
    st.just(p.Shutdown()),
)
worker_messages = st.one_of(
    st.builds(p.Loading, name, st.floats(0, 1)),
    st.builds(p.Ready, specs, st.integers(1, 64)),
    st.builds(p.Opened, name),
    st.builds(p.Failed, name, st.sampled_from(sorted(ERROR_CODES)), name, name, name, name),
    st.builds(p.RawFrame, name, headers, blob),
    st.builds(p.SessionSnapshot, name, blob),
    st.builds(p.WorkerPong, ms),
    st.builds(p.WorkerStats, values),
)


@quick
@given(client_messages)
def test_client_messages_survive(message: p.ClientMessage) -> None:
    assert p.decode_client(p.encode(message)) == message


@quick
@given(server_messages)
def test_server_messages_survive(message: p.ServerMessage) -> None:
    assert p.decode_server(p.encode(message)) == message


@quick
@given(gateway_messages)
def test_gateway_messages_survive(message: p.GatewayMessage) -> None:
    (part,) = p.encode_parts(message)
    assert p.decode_gateway(part) == message


@quick
@given(worker_messages)
def test_worker_messages_survive(message: p.WorkerMessage) -> None:
    assert p.decode_worker(*p.encode_parts(message)) == message


def decode_or_refuse(data: bytes) -> None:
    for decode in (p.decode_client, p.decode_server, p.decode_gateway, p.decode_worker):
        try:
            decode(data)
        except p.ProtocolError as error:
            assert error.code in ERROR_CODES
            assert error.message and len(str(error)) < 5000


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    decode_or_refuse(data)


@settings(max_examples=80, deadline=None)
@given(client_messages | server_messages | gateway_messages, st.data())
def test_damaged_messages_are_a_message_or_refused(message: p.Message, data: st.DataObject) -> None:
    packed = bytearray(p.encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    decode_or_refuse(bytes(packed[: data.draw(st.integers(0, len(packed)))]))
    decode_or_refuse(bytes(packed))


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from([kind.TYPE for kind in (p.Hello, p.Input, p.Offer, p.FrameShown, p.Start)]),
    st.dictionaries(
        st.sampled_from(
            ["version", "snapshots", "sdp", "frame", "client", "seed", "role", "pictures"]
        ),
        json_like,
        max_size=6,
    ),
)
def test_any_fields_are_a_message_or_refused(kind: str, fields: dict[str, Any]) -> None:
    decode_or_refuse(msgpack.packb({"type": kind, **fields}))


def refusal(message: object) -> p.ProtocolError:
    with pytest.raises(p.ProtocolError) as caught:
        p.decode_client(msgpack.packb(message))
    return caught.value


def snapshot(**changes: object) -> dict[str, object]:
    return {"type": "input", "snapshots": [{"seq": 1, "time": 5.0, **changes}]}


@pytest.mark.parametrize(
    "changes",
    [
        {"axes": [math.nan, 0, 0, 0]},
        {"axes": [0, math.inf, 0, 0]},
        {"axes": [0, 0, 1.01, 0]},
        {"axes": [0, 0, 0]},
        {"axes": "0000"},
        {"buttons": 1 << 17},
        {"buttons": True},
        {"keys": ["KeyW"] * 17},
        {"keys": ["K" * 25]},
        {"pointer": [0, math.nan]},
        {"seq": -1},
        {"seq": 1.0},
        {"time": math.nan},
        {"pose": {"position": [0, 0, 0], "rotation": [0, 0, 0, 2], "fov_y": 50}},
        {"pose": {"position": [0, 0, 0], "rotation": [0, 0, 0, 0], "fov_y": 50}},
        {"pose": {"position": [0, 0, 0], "rotation": [0, 0, 0, 1], "fov_y": 180}},
    ],
)
def test_bad_input_is_refused_not_clamped(changes: dict[str, object]) -> None:
    error = refusal(snapshot(**changes))
    assert error.code == "invalid_input"
    assert next(iter(changes)) in error.message
    assert error.expected and error.got and error.remedy


def test_absent_controls_are_neutral() -> None:
    message = p.decode_client(msgpack.packb(snapshot()))
    assert message == p.Input((p.ControllerState(1, 5.0),))


def test_the_version_is_checked_before_all_else() -> None:
    assert refusal({"type": "hello", "version": 2, "role": 7}).code == "version_mismatch"


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ([], "bad_message"),
        ({}, "unknown_type"),
        ({"type": "fly"}, "unknown_type"),
        ({"type": ["ping"]}, "unknown_type"),
        ({"type": "welcome"}, "unknown_type"),
        ({"type": "ping"}, "bad_message"),
        ({"type": "ping", "time": "soon"}, "bad_message"),
        ({1: 2}, "bad_message"),
        ({"type": "input", "snapshots": []}, "invalid_input"),
        ({"type": "hello", "version": 1, "client": "x" * 65}, "bad_message"),
    ],
)
def test_refusals_have_their_code(message: object, code: str) -> None:
    assert refusal(message).code == code


@quick
@given(st.lists(st.integers(0, 900_000), min_size=1, max_size=9), st.binary(min_size=1))
def test_large_pictures_survive(sizes: list[int], content: bytes) -> None:
    pictures = tuple((content * (1 + size // len(content)))[:size] for size in sizes)
    for message in (p.Hello("c", theme="t", pictures=pictures), p.Start("t", 3, pictures)):
        assert p.decode_client(p.encode(message)) == message


@pytest.mark.parametrize(
    ("message", "code", "said"),
    [
        ({"type": "start", "pictures": [b""] * 10}, "bad_picture", "at most 9"),
        ({"type": "start", "pictures": [bytes(9_000)] * 10}, "bad_picture", "at most 9"),
        ({"type": "start", "pictures": b"one"}, "bad_picture", "a list"),
        ({"type": "start", "pictures": [bytes(70_000), "two"]}, "bad_picture", "a list"),
        ({"type": "hello", "version": 1, "pictures": [b"1", 2]}, "bad_message", "client"),
        ({"type": "start", "pictures": [b"1", 2]}, "bad_picture", "pictures[1]"),
        ({"type": "start", "pictures": [bytes(9_000_000)]}, "message_too_large", "8388608"),
        ({"type": "stats", "pictures": [bytes(70_000)]}, "message_too_large", "65536"),
        ({"type": "start", "other": bytes(70_000)}, "message_too_large", "65536"),
        (
            {"type": "start", "pictures": [bytes(70_000)], "x": bytes(70_000)},
            "message_too_large",
            "65536",
        ),
        ({"type": "start", "seed": -1, "pictures": [bytes(70_000)]}, "bad_message", "seed"),
        ({"type": "start", "pictures": {"a": bytes(70_000)}}, "bad_picture", "a list"),
    ],
)
def test_bad_pictures_are_refused(message: object, code: str, said: str) -> None:
    error = refusal(message)
    assert error.code == code, error
    assert said in str(error)


def test_megabytes_of_nested_maps_are_never_built() -> None:
    """Eight million empty maps would be half a gigabyte; instead of bytes they are refused."""
    nested = b"\xdc\x00\x09" + (b"\xdd" + (800_000).to_bytes(4, "big") + b"\x80" * 800_000) * 9
    data = b"\x82\xa4type\xa5start\xa8pictures" + nested
    tracemalloc.start()
    with pytest.raises(p.ProtocolError) as caught:
        p.decode_client(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.code == "bad_picture"
    assert peak < 40_000_000, f"{peak} bytes for a message of {len(data)}"


@pytest.mark.parametrize("size", [(1, 2, 3), (2, 2, 2), (0, 2, 2)])
def test_raw_pictures_have_the_bytes_that_they_say(size: tuple[int, int, int]) -> None:
    message = p.OpenSession("s", pictures=p.PromptFrames(*size, bytes(17)))
    with pytest.raises(p.ProtocolError):
        p.decode_gateway(p.encode(message))


def test_size_limit() -> None:
    with pytest.raises(p.ProtocolError) as caught:
        p.decode_client(bytes(p.MAX_CLIENT_MESSAGE + 1))
    assert caught.value.code == "message_too_large"


@pytest.mark.parametrize(
    "data",
    [
        b"\x91" * 60_000,  # deeper than the parser's own stack
        b"\xdf\xff\xff\xff\xff",  # a map that claims four thousand million entries
        b"\x81\xa4type\xc6\xff\xff\xff\xff",  # and a string of four gigabytes
        b"\x81\xa4type\xd6\xff\x00\x00\x00\x00",  # a time stamp extension
        msgpack.packb({"type": "stats", "x": [[[[[[[[[[]]]]]]]]]]}),
        b"\x81\xa4type\xa2\xff\xff",  # not UTF-8
        msgpack.packb({"type": "ping", "time": 1.0}) + b"\x00",
    ],
)
def test_bombs_are_refused(data: bytes) -> None:
    with pytest.raises(p.ProtocolError) as caught:
        p.decode_client(data)
    assert caught.value.code == "bad_message"


def test_a_payload_must_be_there_exactly_when_it_belongs_there() -> None:
    with pytest.raises(p.ProtocolError):
        p.decode_worker(p.encode(p.SessionSnapshot("s", b"x")))
    with pytest.raises(p.ProtocolError):
        p.decode_worker(p.encode(p.Opened("s")), b"x")


def test_quotes_of_bad_values_are_short() -> None:
    error = refusal({"type": "offer", "sdp": ["x" * 30_000]})
    assert len(error.got) <= 80
