// The messages between a client and the gateway, protocol version 2: builders for those a client
// sends, validation of those it receives. docs/protocol.md describes them field by field.

import { decode as unpack, encode as pack, float, MsgpackError } from "./msgpack.js";

export const VERSION = 2;
export const STATES_PER_INPUT = 4;
export const MAX_KEYS = 16;
export const MAX_PROMPT_FRAMES = 9;
export const MAX_PROMPT_BYTES = 8 * 1024 * 1024; // all prompt frames of one start
const MAX_PART = 256 * 1024; // bytes of a file in one `prompt_frame`
const MAX_MESSAGE = 8 * 1024 * 1024;

/** A message that does not follow the protocol. `path` names the field, such as "frame.header". */
export class ProtocolError extends Error {
  constructor(path, expected, got, code = "bad_message") {
    super(`${path || "message"}: expected ${expected}, got ${got}`);
    this.name = "ProtocolError";
    this.path = path;
    this.expected = expected;
    this.got = got;
    this.code = code;
  }
}

// -- client to server ----------------------------------------------------------------------------

/** The first message, at most 4,096 bytes. */
export const hello = ({
  client = "",
  role = "player",
  transports = ["websocket"],
  codecs = ["jpeg"],
  token = null,
  resume = null,
  session = null,
  world = null,
  maxFrame = null,
  depth = false,
  wait = false,
} = {}) => ({
  type: "hello",
  client,
  role,
  transports,
  codecs,
  token,
  resume,
  session,
  world,
  max_frame: maxFrame,
  depth,
  wait,
  version: VERSION,
});

/**
 * Split prompt frames into messages that precede `start`.
 * @param {Uint8Array[]} files PNG, JPEG or WebP files, oldest first
 */
export const promptFrames = (files) =>
  files.flatMap((file, index) => {
    const parts = Math.max(1, Math.ceil(file.length / MAX_PART));
    return Array.from({ length: parts }, (_, part) => ({
      type: "prompt_frame",
      index,
      count: files.length,
      part,
      parts,
      data: file.subarray(part * MAX_PART, (part + 1) * MAX_PART),
    }));
  });

/**
 * Begin the session's world, or restart it; what is null stays as it was. `promptFrames`: how many
 * were sent before, 0 to start from the theme.
 */
export const start = ({ theme = null, seed = null, prompt = null, promptFrames = null } = {}) => ({
  type: "start",
  theme,
  seed,
  prompt,
  prompt_frames: promptFrames,
});

/** @param states controller states, newest first, from `Controller.history` */
export const input = (states) => ({ type: "input", states: states.map(stateOnWire) });

const poseOnWire = ({ position, orientation, fov_y: fov }) => ({
  position: position.map(float),
  orientation: orientation.map(float),
  fov_y: float(fov),
});

const stateOnWire = ({ sequence, time, axes, buttons, keys, pointer, camera }) => ({
  sequence,
  time: float(time),
  axes: axes.map(float),
  buttons,
  keys,
  pointer: pointer.map(float),
  camera: camera && poseOnWire(camera),
});

/**
 * Give a world with `observations` a view of the engine's scene. `rgb`: 3 bytes per pixel, the upper
 * row first; `depth`: 2 bytes per pixel, little-endian, of `depthScale` metres along the camera's
 * axis, 0 where the world has to draw. `fresh`: the world forgets first what it drew before.
 */
export const observe = ({ camera, width, height, rgb, depth, depthScale, fresh = false }) => ({
  type: "observe",
  observation: {
    camera: poseOnWire(camera),
    width,
    height,
    rgb,
    depth,
    depth_scale: float(depthScale),
    fresh,
  },
});

export const ping = (time) => ({ type: "ping", time: float(time) });

export const offer = (sdp) => ({ type: "offer", sdp });

/**
 * Report a shown frame. Times are client milliseconds; `offset` is client time minus server time,
 * `refresh` the display's period.
 */
export const frameShown = ({ frame, received, shown, offset = null, refresh = null }) => ({
  type: "frame_shown",
  frame,
  received: float(received),
  shown: float(shown),
  offset: offset === null ? null : float(offset),
  refresh: refresh === null ? null : float(refresh),
});

/** Let the gateway send `frames` more frames. */
export const credit = (frames) => ({ type: "credit", frames });

export const statsRequest = () => ({ type: "stats" });

/** Ask, as a spectator, for the controls. */
export const requestControl = () => ({ type: "request_control" });

/** Give the controls to the spectator who asked first. */
export const handOver = () => ({ type: "hand_over" });

/** Leave. `keep`: the world may be resumed, unless another player needs the seat. */
export const bye = ({ keep = false } = {}) => (keep ? { type: "bye", keep } : { type: "bye" });

/** Encode a message. @returns {Uint8Array} */
export const encode = (message) => pack(message);

// -- server to client ----------------------------------------------------------------------------
// A check takes a value and its path, and throws or returns the value. In a record, a field is a
// check, or [check, value if absent]; where that value is null, null is allowed too.

const kind = (value) => {
  if (value === null) return "null";
  if (Array.isArray(value)) return "array";
  return value instanceof Uint8Array ? "bytes" : typeof value;
};

const check = (expected, test) => (value, path) => {
  if (test(value)) return value;
  const simple = ["number", "boolean"].includes(typeof value);
  throw new ProtocolError(path, expected, simple ? `${value}` : kind(value));
};

const text = (longest = 2000) =>
  check(`a string of at most ${longest}`, (v) => typeof v === "string" && [...v].length <= longest);
const oneOf = (...names) =>
  check(names.map((name) => `"${name}"`).join(" or "), (v) => names.includes(v));
const integer = (low = 0, high = Number.MAX_SAFE_INTEGER) =>
  check(`an integer from ${low}`, (v) => Number.isInteger(v) && v >= low && v <= high);
const number = (low, high) =>
  check(`a number from ${low} to ${high}`, (v) => typeof v === "number" && v >= low && v <= high);
const flag = check("a boolean", (v) => typeof v === "boolean");
const bytes = check("bytes", (v) => v instanceof Uint8Array);
const map = check("a map", (v) => kind(v) === "object");

const list =
  (item, { longest = Infinity, length = null } = {}) =>
  (value, path) => {
    if (!Array.isArray(value)) throw new ProtocolError(path, "an array", kind(value));
    if (length === null ? value.length > longest : value.length !== length)
      throw new ProtocolError(path, `${length ?? `at most ${longest}`} items`, `${value.length}`);
    value.forEach((element, i) => item(element, `${path}[${i}]`));
    return value;
  };

const record = (fields) => {
  const checks = Object.entries(fields).map(([name, field]) =>
    Array.isArray(field) ? [name, ...field] : [name, field, undefined],
  );
  return (value, path) => {
    map(value, path);
    for (const [name, inner, fallback] of checks) {
      const given = Object.hasOwn(value, name) ? value[name] : undefined;
      if (given !== undefined) {
        if (given !== null || fallback !== null) inner(given, `${path}.${name}`);
      } else if (fallback === undefined) {
        throw new ProtocolError(`${path}.${name}`, "a value", "nothing");
      } else value[name] = fallback;
    }
    return value;
  };
};

const name = text(64);
const side = integer(2, 8192);
const even = check("an even integer", (v) => Number.isInteger(v) && v % 2 === 0);
const both = (first, second) => (value, path) => second(first(value, path), path);
const time = number(-1e15, 1e15);
const transport = oneOf("webrtc", "websocket");
const codec = oneOf("h264", "vp8", "jpeg");

const camera = record({
  position: [list(number(-1e6, 1e6), { length: 3 }), [0, 0, 0]],
  orientation: [list(number(-1.01, 1.01), { length: 4 }), [0, 0, 0, 1]],
  fov_y: [number(1, 179), 50],
});

const control = record({
  name,
  kind: oneOf("axis", "button", "look"),
  range: [list(number(-Infinity, Infinity), { length: 2 }), [-1, 1]],
  low_keys: [list(name, { longest: 8 }), []],
  high_keys: [list(name, { longest: 8 }), []],
  default_axis: [integer(0, 3), null],
  inverted: [flag, false],
});

const worldSpec = record({
  name,
  title: text(),
  width: both(side, even),
  height: both(side, even),
  fps: number(0.1, 1000),
  frames_per_latent: integer(1, 64),
  themes: list(name, { longest: 256 }),
  action_schema: list(control, { longest: 64 }),
  context_latents: integer(0, 1_000_000),
  kind: oneOf("procedural", "autoregressive"),
  max_prompt_frames: [integer(0, MAX_PROMPT_FRAMES), 0],
  conditionings: [list(name, { longest: 16 }), []],
  depth: [flag, false],
});

const header = record({
  frame: integer(),
  input_sequence: integer(-1),
  input_time: time,
  t_input: time,
  t_controls: time,
  t_tokens: time,
  t_frame: time,
  camera,
  t_gateway: [time, 0],
  t_encoded: [time, 0],
  t_sent: [time, 0],
  width: [integer(0, 8192), 0],
  height: [integer(0, 8192), 0],
  rtp: [integer(0, 2 ** 32 - 1), null],
  dropped: [integer(), 0],
  batch: [integer(1), 1],
});

const seat = record({
  state: oneOf("seated", "queued", "watching"),
  position: [integer(), null],
  expected_wait_s: [number(-Infinity, Infinity), null],
});

const iceServer = record({
  urls: list(text(), { longest: 8 }),
  username: [text(), null],
  credential: [text(), null],
});

const SERVER_MESSAGES = {
  welcome: record({
    server: name,
    session: name,
    resume: text(256),
    role: oneOf("player", "spectator", "engine"),
    world: worldSpec,
    seat,
    seats: record({ used: integer(), total: integer() }),
    transport,
    codec,
    started: [flag, false],
    ice_servers: [list(iceServer, { longest: 8 }), []],
    kept_s: [number(-Infinity, Infinity), null],
    version: [integer(), VERSION],
  }),
  status: record({
    state: oneOf("loading", "ready", "queued", "playing", "reconnecting"),
    detail: [text(), ""],
    progress: [number(0, 1), null],
    position: [integer(), null],
    expected_wait_s: [number(-Infinity, Infinity), null],
  }),
  frame: record({
    header,
    image: [bytes, null],
    codec: [codec, null],
    depth: [bytes, null],
    depth_scale: [number(0, 1e6), null],
  }),
  event: record({
    name: oneOf(
      "world_lost",
      "world_restored",
      "world_reset",
      "session_resumed",
      "seat_warning",
      "control_requested",
    ),
    detail: [text(), ""],
    seconds: [number(-Infinity, Infinity), null],
    frames: [integer(), null],
  }),
  error: record({
    code: name,
    message: text(),
    expected: [text(), ""],
    got: [text(), ""],
    remedy: [text(), ""],
    path: [text(), ""],
    fatal: [flag, true],
  }),
  pong: record({ time, server_time: time }),
  answer: record({ sdp: text(60_000) }),
  stats: record({ values: [map, {}] }),
};

function unpackMap(data) {
  if (data.length > MAX_MESSAGE)
    throw new ProtocolError("", `at most ${MAX_MESSAGE} bytes`, `${data.length} bytes`);
  try {
    return map(unpack(data), "");
  } catch (error) {
    if (error instanceof MsgpackError) throw new ProtocolError("", error.expected, error.got);
    throw error;
  }
}

/**
 * Decode and check a message of the server. Fields that are absent get their default.
 * @param {Uint8Array} data
 * @throws {ProtocolError}
 */
export function decode(data) {
  const message = unpackMap(data);
  if (!Object.hasOwn(SERVER_MESSAGES, message.type)) {
    const known = Object.keys(SERVER_MESSAGES).join(", ");
    throw new ProtocolError("type", known, String(message.type), "unknown_type");
  }
  const { type, version = VERSION } = message;
  if (type === "welcome" && version !== VERSION)
    throw new ProtocolError(type, `version ${VERSION}`, `version ${version}`, "version_mismatch");
  return SERVER_MESSAGES[type](message, type);
}
