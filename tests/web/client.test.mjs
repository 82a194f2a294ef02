import assert from "node:assert/strict";
import { test } from "node:test";
import { Client } from "../../engine_plugins/js/client.js";
import { decode as unpack, encode as pack } from "../../engine_plugins/js/msgpack.js";
import { promptFrames } from "../../engine_plugins/js/protocol.js";
import { Transport } from "../../engine_plugins/js/transport.js";
import { example } from "./fixtures.mjs";

/** A WebSocket that a test answers for the server. */
class FakeSocket {
  static OPEN = 1;
  static last = null;
  readyState = 0;
  bufferedAmount = 0;
  sent = [];

  constructor(url) {
    this.url = url;
    FakeSocket.last = this;
  }

  open() {
    this.readyState = FakeSocket.OPEN;
    this.onopen();
  }

  send(bytes) {
    this.sent.push(unpack(bytes));
  }

  close() {
    this.readyState = 3;
  }

  answer(message) {
    const bytes = pack(message);
    this.onmessage({ data: bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length) });
  }

  types() {
    return this.sent.splice(0).map(({ type }) => type);
  }
}

globalThis.WebSocket = FakeSocket;

const welcome = example("server_welcome", { transport: "websocket", codec: "jpeg" });
const playingStatus = example("server_status_playing");

function opened(handlers = {}) {
  const clock = { now: 0 };
  const options = { video: "jpeg", token: "secret", now: () => clock.now };
  const client = new Client("ws://127.0.0.1:1/session", handlers, options);
  client.play({ theme: "zoo", seed: 7, promptFrames: [Uint8Array.of(1, 2, 3)] });
  const socket = FakeSocket.last;
  socket.open();
  return { client, clock, socket };
}

/** A client that has shown its first frame. */
function playing(handlers = {}) {
  const all = opened(handlers);
  all.socket.answer(welcome);
  all.socket.answer(playingStatus);
  all.clock.now = 1000;
  all.client.imageShown(example("server_frame").header, 990, 1000);
  assert.equal(all.client.state, "playing");
  all.socket.types();
  return all;
}

test("greets first, then sends its prompt frames and starts", () => {
  const welcomed = [];
  const { socket } = opened({ welcomed: ({ world }) => welcomed.push(world.name) });
  assert.equal(socket.sent[0].type, "hello");
  assert.equal(socket.sent[0].token, "secret");
  assert.deepEqual(socket.types(), ["hello"]);
  socket.answer(welcome);
  const sent = socket.sent.filter(({ type }) => type === "prompt_frame");
  assert.deepEqual(sent, promptFrames([Uint8Array.of(1, 2, 3)]));
  const types = socket.types().filter((type) => type !== "credit");
  assert.deepEqual(types, ["prompt_frame", "start"]);
  assert.deepEqual(welcomed, ["tiny"]);
});

test("hands over frames with images and counts them", () => {
  const frames = [];
  const { client, socket } = playing({ frame: (message, at) => frames.push([message, at]) });
  const frame = example("server_frame", { depth: null });
  socket.answer(frame);
  assert.deepEqual(frames[0][0].image, frame.image);
  assert.equal(frames[0][1], 1000);
  assert.deepEqual([client.counts.received, client.counts.shown], [1, 1]);
});

test("grants as many JPEG frames as came: a slow network never queues them", () => {
  const { socket } = opened();
  socket.answer(welcome);
  const granted = () => socket.sent.splice(0).filter(({ type }) => type === "credit");
  assert.deepEqual(
    granted().map(({ frames }) => frames),
    [2],
  );
  socket.answer(example("server_frame", { depth: null }));
  assert.deepEqual(
    granted().map(({ frames }) => frames),
    [1],
  );
});

test("sends a change of the controls at once, and the last states with it", () => {
  const { client, clock, socket } = playing();
  client.tick();
  socket.types();
  clock.now = 1010;
  client.controller.press("KeyW", clock.now);
  client.inputChanged();
  const [input] = socket.sent;
  assert.equal(input.type, "input");
  assert.deepEqual(input.states[0].keys, ["KeyW"]);
  assert.deepEqual(
    input.states.map(({ sequence }) => sequence),
    [1, 0],
  );
});

test("does not send input that would queue behind other data", () => {
  const { client, clock, socket } = playing();
  socket.bufferedAmount = 100_000;
  clock.now = 1100;
  client.controller.press("KeyW", clock.now);
  client.inputChanged();
  assert.deepEqual([socket.types(), client.transport.inputsSkipped], [[], 1]);
});

test("reports what the latency of shown frames is made of", () => {
  const { client, clock, socket } = playing();
  client.tick();
  clock.now = 1010;
  socket.answer({ type: "pong", time: 1000, server_time: 5 });
  const { header } = example("server_frame");
  for (let frame = 0; frame < 3; frame += 1)
    client.imageShown({ ...header, input_sequence: 0, frame }, 1015, 1020);
  const reports = socket.sent.filter(({ type }) => type === "frame_shown");
  assert.equal(reports.length, 1);
  assert.deepEqual([reports[0].received, reports[0].shown, reports[0].offset], [1015, 1020, 1000]);
  assert.equal(client.meter.samples.length, 1);
});

test("bytes that are no message end the session with an error", () => {
  let changes = 0;
  const { client, socket } = opened({ changed: () => (changes += 1) });
  changes = 0;
  socket.onmessage({ data: new Uint8Array([0xc1]).buffer });
  assert.deepEqual([client.state, changes], ["error", 1]);
  assert.equal(client.view().error.code, "bad_message");
});

test("text is not a message", () => {
  const { client, socket } = opened();
  socket.onmessage({ data: "hello" });
  assert.equal(client.view().error.code, "bad_message");
});

test("a closed connection is opened again with the resume token", () => {
  const { client, clock, socket } = playing();
  socket.onclose({ code: 1006, reason: "" });
  assert.equal(client.state, "reconnecting");
  clock.now = 1300;
  client.tick();
  const again = FakeSocket.last;
  assert.notEqual(again, socket);
  again.open();
  assert.equal(again.sent[0].resume, "resume-1");
});

test("a page that the server refuses is shown the reason", async () => {
  const reasons = [];
  const transport = new Transport("wss://play.example/w/session", {
    closed: (reason) => reasons.push(reason),
  });
  const asked = [];
  const answer = { code: "forbidden_origin", message: "no pages of it", remedy: "Allow it." };
  const { fetch } = globalThis;
  globalThis.fetch = async (url, { method }) => {
    asked.push(`${method} ${url}`);
    return { status: 403, json: async () => answer };
  };
  try {
    transport.connect();
    FakeSocket.last.onclose({ code: 1006, reason: "" });
    for (let i = 0; i < 10 && reasons.length === 0; i++) await Promise.resolve();
  } finally {
    globalThis.fetch = fetch;
  }
  assert.deepEqual(asked, ["POST https://play.example/w/health"]);
  assert.deepEqual(reasons, ["no pages of it. Allow it."]);
});

test("leaving says goodbye", () => {
  const { client, socket } = playing();
  client.leave();
  assert.deepEqual([socket.types(), client.state], [["bye"], "idle"]);
});
