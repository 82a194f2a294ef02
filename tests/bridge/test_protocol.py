"""Any bytes are a message or a ProtocolError; every message survives encoding and decoding."""

from __future__ import annotations

import json
import math
import random
import resource
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldbridge.bridge import protocol as p
from worldbridge.bridge.protocol.examples import VALID
from worldbridge.bridge.protocol.schema import DIRECTIONS, DOCUMENT, FIXTURES, stale

quick = settings(max_examples=60, deadline=None)  # a busy machine is no failure
pack = msgspec.msgpack.encode

DECODERS: dict[str, Callable[..., Any]] = {
    "client": p.decode_client,
    "server": p.decode_server,
    "gateway": p.decode_gateway,
    "worker": p.decode_worker,
}


def fixtures(kind: str) -> list[Any]:
    return [pytest.param(path, id=path.stem) for path in sorted((FIXTURES / kind).glob("*.json"))]


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it: bytes as {"hex": ...}."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


# --- fixtures and documents -------------------------------------------------------------------


def test_documents_and_fixtures_are_those_of_the_types() -> None:
    assert not stale(), "run `python -m worldbridge.bridge.protocol.schema`"


@pytest.mark.parametrize("path", fixtures("valid"))
def test_valid_fixtures_decode_and_encode_again(path: Path) -> None:
    facts, data = json.loads(path.read_text()), path.with_suffix(".msgpack").read_bytes()
    payload = [bytes.fromhex(facts["payload"]["hex"])] if "payload" in facts else []
    message = DECODERS[facts["direction"]](data, *payload)
    assert p.encode(message) == data
    assert plain(msgspec.msgpack.decode(data)) == facts["message"]
    assert next(iter(facts["message"])) == "type"


@pytest.mark.parametrize("path", fixtures("invalid"))
def test_invalid_fixtures_are_refused(path: Path) -> None:
    facts = json.loads(path.read_text())
    with pytest.raises(p.ProtocolError) as caught:
        DECODERS[facts["direction"]](path.with_suffix(".msgpack").read_bytes())
    error = caught.value
    assert (error.code, error.path) == (facts["code"], facts["path"])
    assert error.expected and error.got


def test_every_message_has_an_example() -> None:
    for direction, union in DIRECTIONS.items():
        kinds = {type(message) for message in VALID[direction].values()}
        assert kinds == set(get_args(union))


def test_every_code_is_documented() -> None:
    text = DOCUMENT.read_text()
    assert [
        code for code in p.ERROR_CODES if f"| `{code}`" not in text and f", `{code}`" not in text
    ] == []


def test_matrices_of_poses_turn_the_axes_as_the_quaternion_does() -> None:
    poses = {pose["name"]: pose for pose in json.loads((FIXTURES / "poses.json").read_text())}
    ahead = [-row[2] for row in poses["turned left"]["matrix"][:3]]
    assert ahead == pytest.approx([-1.0, 0.0, 0.0])  # a quarter turn to the left looks along -X
    up = [-row[2] for row in poses["looking up"]["matrix"][:3]]
    assert up[1] > 0


# --- round trips ------------------------------------------------------------------------------

ms = st.floats(-1e12, 1e12)
name = st.text(max_size=40)
maybe_name = st.none() | name
seed = st.none() | st.integers(0, 2**53 - 1)
unit = st.floats(-1, 1)
metres = st.floats(-1e6, 1e6)
blob = st.binary(max_size=64)


@st.composite
def orientations(draw: st.DrawFn) -> tuple[float, float, float, float]:
    parts = [draw(unit) for _ in range(4)]
    length = math.sqrt(sum(part * part for part in parts))
    if length < 1e-3:
        return (0.0, 0.0, 0.0, 1.0)
    a, b, c, d = (part / length for part in parts)
    return (a, b, c, d)


poses = st.builds(p.Pose, st.tuples(metres, metres, metres), orientations(), st.floats(1, 179))
states = st.builds(
    p.ControllerState,
    sequence=st.integers(0, 2**53 - 1),
    time=ms,
    axes=st.tuples(unit, unit, unit, unit),
    buttons=st.integers(0, 2**17 - 1),
    keys=st.lists(st.text(max_size=8), max_size=16).map(tuple),
    pointer=st.tuples(ms, ms),
    camera=st.none() | poses,
)
headers = st.builds(
    p.FrameHeader,
    *(st.integers(0, 2**40), st.integers(-1, 2**40), ms, ms, ms, ms, ms, poses, ms, ms, ms),
    width=st.integers(0, 8192),
    height=st.integers(0, 8192),
    rtp=st.none() | st.integers(0, 2**32 - 1),
    dropped=st.integers(0, 2**40),
    batch=st.integers(1, 64),
)
json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | ms | name,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(name, inner, max_size=3),
    max_leaves=6,
)
values = st.dictionaries(name, json_like, max_size=4)
client_messages = st.one_of(
    st.builds(p.Hello, name, st.sampled_from(get_args(p.Role)), token=maybe_name, world=maybe_name),
    st.builds(p.Start, maybe_name, seed, maybe_name, st.none() | st.integers(0, 9)),
    st.builds(p.PromptFramePart, st.just(0), st.integers(1, 9), st.just(0), st.just(1), blob),
    st.builds(p.Input, st.lists(states, min_size=1, max_size=4).map(tuple)),
    st.builds(p.FrameShown, st.integers(0, 2**40), ms, ms, st.none() | ms),
)
server_messages = st.one_of(
    st.builds(p.Status, st.sampled_from(get_args(p.State)), name, st.none() | st.floats(0, 1)),
    st.builds(p.Frame, headers, st.none() | blob),
    st.builds(p.Error, name, name, name, name, name, name, st.booleans()),
    st.builds(p.Stats, values),
)
worker_messages = st.one_of(
    st.builds(p.RawFrame, name, headers, blob.map(memoryview)),
    st.builds(p.SavedSession, name, blob.map(memoryview)),
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
@given(st.builds(p.SessionInput, name, states, ms))
def test_gateway_messages_survive(message: p.GatewayMessage) -> None:
    assert p.decode_gateway(p.encode(message)) == message


@quick
@given(worker_messages)
def test_worker_messages_survive(message: p.WorkerMessage) -> None:
    assert p.decode_worker(*p.encode_parts(message)) == message


# --- refusals ---------------------------------------------------------------------------------


def mutate(rng: random.Random, data: bytes) -> bytes:
    """Return the bytes with a few of them changed, removed, doubled or inserted."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(5):
            case 0:
                changed[at : at + 1] = rng.randbytes(1)
            case 1:
                del changed[at : at + rng.randint(1, 8)]
            case 2:
                changed[at:at] = rng.randbytes(rng.randint(1, 4))
            case 3:
                changed[at:at] = changed[at : at + rng.randint(1, 32)]
            case 4:  # a header that claims a huge string, list, map or extension
                changed[at:at] = rng.choice((b"\xdb", b"\xdd", b"\xdf", b"\xc9")) + b"\xff" * 4
    return bytes(changed)


def test_100_000_mutated_messages_are_messages_or_refused() -> None:
    originals = [
        (direction, path.with_suffix(".msgpack").read_bytes())
        for kind in ("valid", "invalid")
        for path in sorted((FIXTURES / kind).glob("*.json"))
        for direction in [json.loads(path.read_text())["direction"]]
    ]
    rng = random.Random()
    start = rng.getrandbits(32)
    rng.seed(start)
    refused = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(100_000):
        direction, original = originals[number % len(originals)]
        data = mutate(rng, original)
        try:
            DECODERS[direction](data)
        except p.ProtocolError as error:
            refused += 1
            assert error.code in p.ERROR_CODES
            assert error.message and len(str(error)) < 5000, f"seed {start}"
        except BaseException as error:
            raise AssertionError(f"seed {start}, message {number}: {data!r}") from error
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert 10_000 < refused < 100_000
    assert grown_kib < 32 * 1024, f"{grown_kib} KiB, seed {start}"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    for decode in DECODERS.values():
        try:
            decode(data)
        except p.ProtocolError as error:
            assert error.code in p.ERROR_CODES


def refusal(message: object) -> p.ProtocolError:
    with pytest.raises(p.ProtocolError) as caught:
        p.decode_client(message if isinstance(message, bytes) else pack(message))
    return caught.value


def test_an_error_names_path_expected_and_got() -> None:
    state = {"sequence": 1, "time": 5.0, "axes": [0, 7.5, 0, 0]}
    error = refusal({"type": "input", "states": [state]})
    assert (error.path, error.expected, error.got) == (
        "input.states[0].axes[1]",
        "float <= 1.0",
        "7.5",
    )
    assert error.path in error.remedy


@pytest.mark.parametrize("part", [0.7, 0.71, 0.707])
def test_a_rounded_orientation_is_a_rotation(part: float) -> None:
    state = p.ControllerState(1, 1.0, camera=p.Pose(orientation=(0.0, 0.0, part, part)))
    decoded = p.decode_client(p.encode(p.Input((state,))))
    assert isinstance(decoded, p.Input) and decoded.states[0].camera is not None
    assert sum(q * q for q in decoded.states[0].camera.orientation) == pytest.approx(1, abs=1e-3)
    raw = msgspec.msgpack.encode(
        {
            "type": "input",
            "states": [
                {"sequence": 1, "time": 1.0, "camera": {"orientation": [0.0, 0.0, part, part]}}
            ],
        }
    )
    assert isinstance(p.decode_client(raw), p.Input), "of any client"
    with pytest.raises(ValueError, match="unit quaternion"):
        p.Pose(orientation=(0.0, 0.0, 0.5, 0.5))


def test_absent_controls_are_neutral() -> None:
    message = p.decode_client(pack({"type": "input", "states": [{"sequence": 1, "time": 5.0}]}))
    assert message == p.Input((p.ControllerState(1, 5.0),))


def test_unknown_fields_and_future_codecs_are_skipped() -> None:
    hello = {"type": "hello", "version": 2, "codecs": ["av2", "jpeg"], "hologram": {"x": [1]}}
    assert p.decode_client(pack(hello)) == p.Hello(codecs=("av2", "jpeg"))


@pytest.mark.parametrize(
    ("kind", "limit"),
    [("hello", 4096), ("input", 4096), ("prompt_frame", 263_168), ("offer", 65_536)],
)
def test_length_is_limited_before_anything_is_decoded(kind: str, limit: int) -> None:
    error = refusal({"type": kind, "more": bytes(limit)})
    assert (error.code, error.path) == ("message_too_large", kind)
    assert str(limit) in error.expected


def test_a_whole_part_of_a_prompt_frame_fits() -> None:
    part = p.PromptFramePart(0, 1, 0, 1, bytes(256 * 1024))
    assert p.decode_client(p.encode(part)) == part


def test_maps_in_unknown_fields_are_never_built() -> None:
    data = b"\x82\xa4type\xa3bye\xa1x\xdd" + (60_000).to_bytes(4, "big") + b"\x80" * 60_000
    tracemalloc.start()
    assert p.decode_client(data) == p.Bye()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000, f"{peak} bytes for a message of {len(data)}"


def test_raw_prompt_frames_have_the_bytes_that_they_claim() -> None:
    with pytest.raises(ValueError, match="18 bytes"):
        p.PromptFrames(1, 2, 3, bytes(17))


def test_a_payload_must_be_there_exactly_when_it_belongs_there() -> None:
    with pytest.raises(p.ProtocolError):
        p.decode_worker(p.encode(p.SavedSession("s", memoryview(b"x"))))
    with pytest.raises(p.ProtocolError):
        p.decode_worker(p.encode(p.Opened("s")), b"x")


def test_quotes_of_bad_values_are_short() -> None:
    assert len(refusal({"type": "offer", "sdp": ["x" * 30_000]}).got) <= 80
