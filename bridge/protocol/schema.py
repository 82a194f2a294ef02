"""Write what follows from the message types: tables, JSON Schema and fixtures.

`python -m worldbridge.bridge.protocol.schema` writes the tables of docs/protocol.md,
docs/protocol.schema.json and engine_plugins/fixtures; with `--check` it lists what is stale.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, get_args

import msgspec
from msgspec import inspect

from worldbridge.bridge.protocol import types
from worldbridge.bridge.protocol.client import ClientMessage, ServerMessage
from worldbridge.bridge.protocol.codec import (
    CLIENT_LIMITS,
    decode_client,
    decode_gateway,
    decode_server,
    decode_worker,
    encode,
)
from worldbridge.bridge.protocol.errors import ProtocolError
from worldbridge.bridge.protocol.examples import GAMEPADS, INVALID, POSES, VALID
from worldbridge.bridge.protocol.worker import GatewayMessage, RawFrame, SavedSession, WorkerMessage

ROOT: Final = Path(__file__).resolve().parents[2]
DOCUMENT: Final = ROOT / "docs" / "protocol.md"
FIXTURES: Final = ROOT / "engine_plugins" / "fixtures"

DIRECTIONS: Final[Mapping[str, Any]] = {
    "client": ClientMessage,
    "server": ServerMessage,
    "gateway": GatewayMessage,
    "worker": WorkerMessage,
}
_DECODERS: Final[Mapping[str, Any]] = {
    "client": decode_client,
    "server": decode_server,
    "gateway": decode_gateway,
    "worker": lambda data: decode_worker(data, None),
}
_LEVELS: Final = {"client": "###", "server": "###", "gateway": "####", "worker": "####"}
_PARTS: Final = (
    types.ControllerState,
    types.Pose,
    types.WorldSpec,
    types.ControlSpec,
    types.Seat,
    types.Seats,
    types.IceServer,
    types.FrameHeader,
    types.Observation,
    types.PromptFrames,
)

# --- tables -----------------------------------------------------------------------------------


def table(struct: type, level: str) -> str:
    """Return a heading, the docstring and the fields of a struct, in Markdown."""
    info = inspect.type_info(struct)
    assert isinstance(info, inspect.StructType)
    title = f"{level} `{info.tag}`" if info.tag else f"{level} {struct.__name__}"
    lines = [title, "", re.sub(r"\s+", " ", struct.__doc__ or "").strip(), ""]
    fields = [field for field in info.fields if field.name != "payload"]
    if fields:
        lines += ["| field | kind | meaning |", "|---|---|---|"]
    for field in fields:
        said, kind = _described(field.type)
        lines.append(f"| `{field.encode_name}` | {kind}{_default(field)} | {said} |")
    return "\n".join(lines) + "\n"


def _default(field: inspect.Field) -> str:
    if field.required:
        return ""
    if field.default in (None, msgspec.NODEFAULT):
        return ", optional"
    return f"; absent: {json.dumps(field.default)}"


def _described(kind: Any) -> tuple[str, str]:
    """Return what a type's annotation says, and what values it has."""
    said = ""
    if isinstance(kind, inspect.Metadata):
        said = (kind.extra_json_schema or {}).get("description", "")
        kind = kind.type
    return said, _kind(kind)


def _kind(kind: Any) -> str:
    match kind:
        case inspect.Metadata():
            return _kind(kind.type)
        case inspect.UnionType():
            inner = [t for t in kind.types if not isinstance(t, inspect.NoneType)]
            return " or ".join(_kind(t) for t in inner)
        case inspect.LiteralType():
            return ", ".join(f'"{value}"' for value in kind.values)
        case inspect.StrType():
            return "string" + _most(kind.max_length)
        case inspect.BytesType() | inspect.MemoryViewType():
            return "bytes" + _most(kind.max_length)
        case inspect.BoolType():
            return "bool"
        case inspect.IntType():
            return "even int" if kind.multiple_of == 2 else "int" + _bounds(kind)
        case inspect.FloatType():
            return "float" + _bounds(kind)
        case inspect.TupleType():
            names = [_kind(item) for item in kind.item_types]
            return f"{len(names)} x {names[0]}"
        case inspect.VarTupleType():
            return f"list{_most(kind.max_length)}, of {_kind(kind.item_type)}"
        case inspect.StructType():
            name = kind.cls.__name__
            return f"[{name}](#{name.lower()})"
        case inspect.DictType():
            return "map"
    raise TypeError(f"{kind} has no name in docs/protocol.md")


def _most(length: int | None) -> str:
    return "" if length is None else f" of at most {length}"


def _bounds(kind: Any) -> str:
    low, high = kind.ge, kind.le
    if high is None or abs(high) in (types.MAX_INT, 1e15, 1e12, 1e6, 1.01):
        return "" if low in (None, 0, -1e15, -1e12, -1e6, -1.01) else f" from {low:g}"
    return f" {low:g} to {high:g}" if low is not None else f" of at most {high:g}"


def document() -> str:
    """Return docs/protocol.md with its generated blocks written again."""
    blocks = {
        direction: "\n".join(table(struct, _LEVELS[direction]) for struct in get_args(union))
        for direction, union in DIRECTIONS.items()
    }
    blocks["parts"] = "\n".join(table(struct, "###") for struct in _PARTS)
    blocks["limits"] = _limits()
    text = DOCUMENT.read_text()
    for name, block in blocks.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        before, _, rest = text.partition(begin)
        _, found, after = rest.partition(end)
        assert found, f"docs/protocol.md has no block {name}"
        text = f"{before}{begin}\n{block}\n{end}{after}"
    return text


def _limits() -> str:
    rows = [f"| `{name}` | {limit:,} bytes |" for name, limit in CLIENT_LIMITS.items()]
    rows.append(f"| any other message of a client | {types.MAX_CLIENT_MESSAGE:,} bytes |")
    rows.append(f"| all prompt frames of one `start` | {types.MAX_PROMPT_BYTES:,} bytes |")
    rows.append(f"| a message of the server | {types.MAX_SERVER_MESSAGE:,} bytes |")
    return "\n".join(["| what | at most |", "|---|---|", *rows, ""])


# --- JSON Schema ------------------------------------------------------------------------------


def json_schema() -> str:
    """Return the JSON Schema of every message. Byte strings stand as base64."""
    references, definitions = msgspec.json.schema_components(
        list(DIRECTIONS.values()), ref_template="#/$defs/{name}"
    )
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"worldbridge protocol {types.PROTOCOL_VERSION}",
        "$defs": {**dict(zip(DIRECTIONS, references, strict=True)), **definitions},
    }
    return json.dumps(schema, indent=1, sort_keys=True) + "\n"


# --- fixtures ---------------------------------------------------------------------------------


def fixtures() -> Iterator[tuple[str, bytes]]:
    """Yield path and content of every fixture."""
    for direction, examples in VALID.items():
        for name, message in examples.items():
            data = encode(message)  # type: ignore[arg-type]
            values: dict[str, Any] = {
                "direction": direction,
                "message": _plain(msgspec.msgpack.decode(data)),
            }
            if isinstance(message, RawFrame | SavedSession):
                values["payload"] = _plain(bytes(message.payload))
            yield f"valid/{direction}_{name}.msgpack", data
            yield f"valid/{direction}_{name}.json", _json(values)
    for direction, invalid in INVALID.items():
        for name, data in invalid.items():
            error = _refusal(direction, data)
            facts = {"direction": direction, "code": error.code, "path": error.path}
            yield f"invalid/{direction}_{name}.msgpack", data
            yield f"invalid/{direction}_{name}.json", _json(facts)
    yield "poses.json", _json([_pose(name, pose) for name, pose in POSES.items()])
    yield "gamepads.json", _json([_gamepad(name) for name in GAMEPADS])


def _refusal(direction: str, data: bytes) -> ProtocolError:
    try:
        message = _DECODERS[direction](data)
    except ProtocolError as error:
        return error
    raise AssertionError(f"{message} is not refused")


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it: bytes as {"hex": ...}."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _pose(name: str, pose: types.Pose) -> dict[str, object]:
    """Return a pose with the 4x4 matrix, row by row, from camera to world coordinates."""
    x, y, z, w = pose.orientation
    px, py, pz = pose.position
    matrix = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w), px],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w), py],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y), pz],
        [0.0, 0.0, 0.0, 1.0],
    ]
    return {"name": name, **pose.as_dict(), "matrix": matrix}


def _gamepad(name: str) -> dict[str, object]:
    axes, pressed = GAMEPADS[name]
    buttons = sum(1 << bit for bit in pressed)
    return {"name": name, "axes": axes, "pressed": pressed, "buttons": buttons}


# --- the command ------------------------------------------------------------------------------


def outputs() -> dict[Path, bytes]:
    """Return every file that follows from the types, with its content."""
    files = {FIXTURES / path: data for path, data in fixtures()}
    files[DOCUMENT] = document().encode()
    files[ROOT / "docs" / "protocol.schema.json"] = json_schema().encode()
    return files


def stale() -> list[Path]:
    """Return the files that are missing, differ, or should not be there."""
    files = outputs()
    present = {path for path in FIXTURES.rglob("*") if path.suffix in (".json", ".msgpack")}
    differ = {p for p, data in files.items() if not p.is_file() or p.read_bytes() != data}
    return sorted(differ | (present - set(files)))


def main(arguments: list[str]) -> int:
    """Write the files, or with `--check` list the stale ones and return 1 if there are any."""
    if arguments == ["--check"]:
        found = stale()
        for path in found:
            print(f"stale: {path.relative_to(ROOT)}", file=sys.stderr)
        return 1 if found else 0
    files = outputs()
    for path in stale():
        if path in files:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(files[path])
        else:
            path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
