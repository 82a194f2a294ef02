// The messages between a client and the gateway: builders for those a client sends, validation of
// those it receives.

import { decode as unpack, encode as pack, float, MsgpackError } from "./msgpack.js";

export const VERSION = 1;
export const HISTORY = 4; // controller states in an input message, newest first
export const MAX_KEYS = 16;

export class ProtocolError extends Error {
  constructor(path, expected, got) {
    super(`${path}: expected ${expected}, got ${got}`);
    this.name = "ProtocolError";
    this.path = path;
    this.expected = expected;
    this.got = got;
  }
}

// -- client to server -----------------------------------------------------------------------------

export const hello = ({
  client,
  role = "player",
  world = null,
  theme = null,
  seed = null,
  video,
  resume = null,
  token = null,
  promptFrames = null,
}) => ({
  type: "hello",
  version: VERSION,
  client,
  role,
  world,
  theme,
  seed,
  video,
  resume,
  token,
  ...(promptFrames === null ? {} : { pictures: promptFrames }),
});

/** `promptFrames`: encoded images, empty for none; null keeps those of the session. */
export const start = (theme, seed, promptFrames = null) => ({
  type: "start",
  theme,
  seed,
  ...(promptFrames === null ? {} : { pictures: promptFrames }),
});

export const ping = (time) => ({ type: "ping", time: float(time) });

export const offer = (sdp) => ({ type: "offer", sdp });

export const bye = () => ({ type: "bye" });

/**
 * Client-clock milliseconds; `offset` = client clock minus server clock; `refresh` = the display's
 * period, or null while it is not known.
 */
export const shown = ({ frame, received, shown: at, offset, refresh = null }) => ({
  type: "shown",
  frame,
  received: float(received),
  shown: float(at),
  offset: float(offset),
  refresh: refresh === null ? null : float(refresh),
});

/** @param states controller states, newest first, from `Controller.history` */
export const input = (states) => ({ type: "input", snapshots: states.map(stateOnWire) });

const stateOnWire = ({ seq, time, axes, buttons, keys, pointer }) => ({
  seq,
  time: float(time),
  axes: axes.map(float),
  buttons,
  keys,
  pointer: pointer.map(float),
  pose: null,
});

/** @returns {Uint8Array} */
export const encode = (message) => pack(message);

// -- server to client -----------------------------------------------------------------------------

const kind = (value) =>
  value === null
    ? "null"
    : Array.isArray(value)
      ? "array"
      : value instanceof Uint8Array
        ? "bytes"
        : typeof value;

const check = (name, test) => (value, path) => {
  if (!test(value))
    throw new ProtocolError(path, name, value === undefined ? "nothing" : kind(value));
};

const text = check("a string", (v) => typeof v === "string");
const flag = check("a boolean", (v) => typeof v === "boolean");
const number = check("a finite number", (v) => typeof v === "number" && Number.isFinite(v));
const integer = check("an integer", Number.isInteger);
const bytes = check("bytes", (v) => v instanceof Uint8Array);
const oneOf = (...names) =>
  check(names.map((n) => `"${n}"`).join(" or "), (v) => names.includes(v));
const nullable = (inner) => (value, path) =>
  value === null || value === undefined ? undefined : inner(value, path);

const listOf =
  (inner, length = null) =>
  (value, path) => {
    if (!Array.isArray(value)) throw new ProtocolError(path, "an array", kind(value));
    if (length !== null && value.length !== length)
      throw new ProtocolError(path, `${length} items`, `${value.length}`);
    value.forEach((item, i) => inner(item, `${path}[${i}]`));
  };

const record = (fields) => (value, path) => {
  if (kind(value) !== "object") throw new ProtocolError(path, "a map", kind(value));
  for (const [name, inner] of Object.entries(fields)) inner(value[name], `${path}.${name}`);
};

const spec = record({
  name: text,
  title: text,
  width: integer,
  height: integer,
  fps: number,
  frames_per_latent: integer,
  themes: listOf(text),
  action_schema: listOf(text),
  context_frames: integer,
  kind: text,
  takes_pictures: nullable(integer),
});

const header = record({
  frame: integer,
  input_seq: integer,
  input_time: number,
  t_input: number,
  t_latch: number,
  t_tokens: number,
  t_pixels: number,
  t_gateway: number,
  t_encoded: number,
  t_sent: number,
  rtp: nullable(integer),
  dropped: integer,
  batch: integer,
  pose: nullable(
    record({ position: listOf(number, 3), rotation: listOf(number, 4), fov_y: number }),
  ),
});

const SERVER_MESSAGES = {
  welcome: record({
    version: integer,
    server: text,
    session: text,
    resume: text,
    role: text,
    spec,
    seats: record({ used: integer, total: integer }),
  }),
  status: record({
    state: oneOf("loading", "playing", "reconnecting"),
    detail: text,
    progress: nullable(number),
  }),
  frame: record({ header, jpeg: nullable(bytes) }),
  error: record({
    code: text,
    message: text,
    expected: text,
    got: text,
    remedy: text,
    fatal: flag,
  }),
  pong: record({ time: number, server_time: number }),
  answer: record({ sdp: text }),
  stats: record({}),
};

/**
 * @param {Uint8Array} data
 * @returns the message, checked
 * @throws {ProtocolError} when the bytes are no message of this protocol
 */
export function decode(data) {
  let message;
  try {
    message = unpack(data);
  } catch (error) {
    if (error instanceof MsgpackError)
      throw new ProtocolError("message", error.expected, error.got);
    throw error;
  }
  if (kind(message) !== "object") throw new ProtocolError("message", "a map", kind(message));
  if (!Object.hasOwn(SERVER_MESSAGES, message.type)) {
    throw new ProtocolError(
      "message.type",
      Object.keys(SERVER_MESSAGES).join(", "),
      String(message.type),
    );
  }
  SERVER_MESSAGES[message.type](message, message.type);
  return message;
}
