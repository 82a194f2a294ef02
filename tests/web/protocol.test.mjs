import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { test } from "node:test";
import { encode as pack, float } from "../../engine_plugins/js/msgpack.js";
import * as protocol from "../../engine_plugins/js/protocol.js";
import { sameTheme } from "../../engine_plugins/js/session.js";
import { Gamepads } from "../../engine_plugins/js/gamepads.js";
import { describeTheme, describeThemes, THEMES } from "../../engine_plugins/web/themes.js";
import { example, fixtures, readJson } from "./fixtures.mjs";

const { decode, encode, ProtocolError } = protocol;
const hex = (bytes) => Buffer.from(bytes).toString("hex");

for (const { name, bytes, message } of fixtures("valid", "server_"))
  test(`reads ${name}`, () => assert.deepEqual(decode(bytes), message));

for (const { name, bytes, path } of fixtures("invalid", "server_"))
  test(`rejects ${name} and names the field`, () =>
    assert.throws(
      () => decode(bytes),
      (error) => error instanceof ProtocolError && error.path === path,
    ));

for (const { name, bytes } of fixtures("invalid"))
  test(`rejects ${name} with a ProtocolError`, () =>
    assert.throws(() => decode(bytes), ProtocolError));

/** The builder of each message of a client, applied to the fields of an example. */
const BUILDERS = {
  bye: protocol.bye,
  credit: ({ frames }) => protocol.credit(frames),
  frame_shown: protocol.frameShown,
  hand_over: protocol.handOver,
  hello: ({ max_frame: maxFrame, ...fields }) => protocol.hello({ ...fields, maxFrame }),
  input: ({ states }) => protocol.input(states),
  observe: ({ observation: { depth_scale: depthScale, ...view } }) =>
    protocol.observe({ ...view, depthScale }),
  offer: ({ sdp }) => protocol.offer(sdp),
  ping: ({ time }) => protocol.ping(time),
  prompt_depth: (part) => ({ ...part, scale: float(part.scale) }), // this client sends none
  prompt_frame: (part) => part, // built by `promptFrames`, see below
  request_control: protocol.requestControl,
  start: ({ prompt_frames: promptFrames, ...fields }) =>
    protocol.start({ ...fields, promptFrames }),
  stats: protocol.statsRequest,
};

for (const { name, bytes, message } of fixtures("valid", "client_"))
  test(`writes ${name}`, () =>
    assert.equal(hex(encode(BUILDERS[message.type](message))), hex(bytes)));

test("a message with absent fields gets their defaults", () => {
  const message = decode(pack({ type: "status", state: "playing" }));
  assert.deepEqual(message, {
    type: "status",
    state: "playing",
    detail: "",
    progress: null,
    position: null,
    expected_wait_s: null,
  });
  const { header } = example("server_frame");
  delete header.rtp;
  assert.equal(decode(pack({ type: "frame", header })).header.rtp, null);
});

test("unknown fields are skipped, null stands only for what is optional", () => {
  assert.equal(decode(pack({ type: "pong", time: 1, server_time: 2, mood: "good" })).time, 1);
  assert.throws(
    () => decode(pack({ type: "status", state: "playing", detail: null })),
    (error) => error.path === "status.detail",
  );
});

test("another version is found before anything else", () => {
  assert.throws(
    () => decode(pack({ type: "welcome", version: 3, whatever: true })),
    (error) => error.code === "version_mismatch",
  );
});

test("prompt frames are split into parts", () => {
  const files = [new Uint8Array(600_000).fill(7), new Uint8Array(3).fill(9)];
  const messages = protocol.promptFrames(files);
  assert.deepEqual(
    messages.map(({ index, count, part, parts }) => [index, count, part, parts]),
    [
      [0, 2, 0, 3],
      [0, 2, 1, 3],
      [0, 2, 2, 3],
      [1, 2, 0, 1],
    ],
  );
  const joined = Buffer.concat(messages.slice(0, 3).map(({ data }) => data));
  assert.ok(joined.equals(files[0]));
  assert.ok(messages.every((message) => encode(message).length <= 257 * 1024));
  assert.deepEqual(protocol.promptFrames([]), []);
});

test("a prompt frame of one part has the bytes of the example", () => {
  const { bytes, message } = fixtures("valid", "client_prompt_frame")[0];
  if (message.count === 1 && message.parts === 1)
    assert.equal(hex(encode(protocol.promptFrames([message.data])[0])), hex(bytes));
  else assert.equal(hex(encode(message)), hex(bytes));
});

test("gamepads as the browser reports them become the states of the examples", () => {
  for (const { axes, pressed, buttons } of readJson("gamepads.json")) {
    const rest = { id: "pad", mapping: "standard", axes: [0, 0, 0, 0], buttons: [] };
    const held = Array.from({ length: 18 }, (_, i) => ({ pressed: pressed.includes(i) }));
    let pad = rest;
    const pads = new Gamepads(() => [pad]);
    pads.poll();
    pad = { ...rest, axes, buttons: held };
    const state = pads.poll();
    assert.deepEqual({ axes: state.axes, buttons: state.buttons }, { axes, buttons });
  }
});

test("themes are found under their usual names", () => {
  assert.ok(sameTheme("amusement_park", "Amusement park") && sameTheme("park", "amusement-park"));
  assert.ok(!sameTheme("zoo", "city"));
  assert.deepEqual(
    describeThemes([]).map((t) => t.id),
    THEMES.map((t) => t.id).filter((id) => !id.includes("/")),
  );
});

test("every theme has its image", () => {
  for (const { art } of [...THEMES, describeTheme("deep_forest")])
    assert.ok(existsSync(new URL(art)), art);
});

test("a theme without artwork still gets a name and an image", () => {
  const theme = describeTheme("deep_forest");
  assert.deepEqual([theme.id, theme.title, theme.key], ["deep_forest", "Deep forest", "other"]);
  assert.ok(theme.art.endsWith(".svg"));
});

test("a locality of the city has its own title and image, and the city's colours", () => {
  const theme = describeTheme("city/new_york");
  assert.equal(theme.title, "New York");
  assert.equal(theme.key, "city");
  assert.ok(theme.art.endsWith("theme-new_york.webp"));
  assert.deepEqual(
    describeThemes(["city", "city/paris"]).map((t) => t.title),
    ["City", "Paris"],
  );
});
