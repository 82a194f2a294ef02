// H.264 in messages, and the choice among the ways of video.

import assert from "node:assert/strict";
import { test } from "node:test";

import { CreditWindow, describeAccessUnit, H264Decoder } from "../../engine_plugins/js/h264.js";
import { Session } from "../../engine_plugins/js/session.js";
import { RETRY_MS, VALID_MS, VideoChoice } from "../../engine_plugins/js/video_choice.js";

const bytes = (...parts) => Uint8Array.from(parts.flat());
const START = [0, 0, 0, 1];
const SPS = [...START, 0x67, 0x42, 0xc0, 0x1e, 9];
const PPS = [...START, 0x68, 1, 2];
const IDR = [...START, 0x65, 7, 7];
const SLICE = [0, 0, 1, 0x41, 7, 7];
const KEY = bytes(SPS, PPS, IDR);
const DELTA = bytes(SLICE);

test("a key frame says how it is decoded", () => {
  assert.deepEqual(describeAccessUnit(KEY), { key: true, codec: "avc1.42c01e" });
  assert.deepEqual(describeAccessUnit(DELTA), { key: false, codec: null });
  assert.deepEqual(describeAccessUnit(bytes([0, 0, 1])), { key: false, codec: null });
  assert.deepEqual(describeAccessUnit(bytes(START, [0x67, 1])), { key: false, codec: null });
});

test("credit is two frames beyond those that the round trip holds", () => {
  const near = new CreditWindow();
  assert.equal(near.grant(0, null, 16), 2);
  assert.equal(near.grant(1, 1, 16), 1);
  const far = new CreditWindow();
  assert.equal(far.grant(0, null, 20), 2);
  assert.equal(far.grant(1, 70, 20), 1 + 3);
  assert.equal(far.grant(1, 50, 20), 1, "a window never shrinks: the credit is out already");
  assert.equal(far.grant(1, 5000, 20), 1 + 3, "never more than the protocol allows");
});

class FakeDecoder {
  state = "unconfigured";
  chunks = [];

  constructor(init) {
    this.init = init;
  }

  configure({ codec }) {
    if (codec === "avc1.000000") throw new Error("unknown profile");
    this.state = "configured";
  }

  decode(chunk) {
    this.chunks.push(chunk);
    this.init.output({ timestamp: chunk.timestamp, close() {} });
  }

  close() {
    this.state = "closed";
  }
}

function decoding() {
  globalThis.EncodedVideoChunk = class {
    constructor(init) {
      Object.assign(this, init);
    }
  };
  const heard = { decoded: [], done: 0, failed: [], decoders: [] };
  const decoder = new H264Decoder(
    {
      decoded: (videoFrame, header, received) => heard.decoded.push([header.frame, received]),
      done: () => (heard.done += 1),
      failed: (reason) => heard.failed.push(reason),
    },
    (init) => {
      heard.decoders.push(new FakeDecoder(init));
      return heard.decoders.at(-1);
    },
  );
  return { decoder, heard };
}

const header = (frame) => ({ frame, t_frame: frame * 16.5 });

test("frames are decoded in order, from the first key frame on, each for one credit", () => {
  const { decoder, heard } = decoding();
  decoder.push(header(0), DELTA, 1);
  decoder.push(header(1), KEY, 2);
  decoder.push(header(2), DELTA, 3);
  decoder.push(header(3), KEY, 4);
  assert.deepEqual(heard.decoded, [[1, 2], [2, 3], [3, 4]]);
  assert.equal(heard.done, 4);
  assert.equal(heard.decoders.length, 1, "the same stream goes on");
  const kinds = heard.decoders[0].chunks.map(({ type }) => type);
  assert.deepEqual(kinds, ["key", "delta", "key"]);
  decoder.close();
  assert.equal(heard.decoders[0].state, "closed");
});

test("a stream of another profile gets another decoder", () => {
  const { decoder, heard } = decoding();
  decoder.push(header(1), KEY, 1);
  decoder.push(header(2), bytes([...START, 0x67, 0x4d, 0, 0x1f], PPS, IDR), 2);
  assert.equal(heard.decoders.length, 2);
  assert.equal(heard.decoders[0].state, "closed");
});

test("what cannot be decoded is reported once", () => {
  const { decoder, heard } = decoding();
  decoder.push(header(1), bytes([...START, 0x67, 0, 0, 0], IDR), 1);
  decoder.push(header(2), KEY, 2);
  assert.deepEqual(heard.failed, ["H.264 was not decoded: unknown profile"]);
});

test("what failed is left out for an hour, what is unknown is tried, the fastest is taken", () => {
  const kept = [];
  const choice = new VideoChoice({}, (known) => kept.push(structuredClone(known)));
  assert.deepEqual(choice.order(0), ["webrtc", "h264", "jpeg"]);
  choice.measured("webrtc", 9, 0);
  assert.deepEqual(choice.order(1), ["h264", "webrtc", "jpeg"]);
  choice.measured("h264", 12, 1);
  assert.deepEqual(choice.order(2), ["webrtc", "h264", "jpeg"]);
  choice.measured("h264", 4, 3);
  assert.deepEqual(choice.order(4), ["h264", "webrtc", "jpeg"]);
  choice.failed("webrtc", 5);
  assert.deepEqual(choice.order(6), ["h264", "jpeg"]);
  assert.deepEqual(choice.order(5 + RETRY_MS)[0], "webrtc", "it is tried again");
  assert.deepEqual(new VideoChoice(kept.at(-1)).order(6), ["h264", "jpeg"]);
  choice.failed("h264", 6);
  assert.deepEqual(choice.order(7), ["jpeg"]);
  choice.measured("webrtc", 9, 8);
  assert.deepEqual(choice.order(8 + VALID_MS), ["webrtc", "h264", "jpeg"]);
});

test("what is stored may be anything, and what the browser lacks is not tried", () => {
  for (const stored of [null, 7, "x", { webrtc: null }, { webrtc: { failed: "x" } }, { x: {} }])
    assert.deepEqual(new VideoChoice(stored).order(0), ["webrtc", "h264", "jpeg"]);
  assert.deepEqual(new VideoChoice({}, () => {}, ["webrtc"]).order(0), ["webrtc", "jpeg"]);
});

test("a session tries one way after the other", () => {
  const session = new Session({ order: ["webrtc", "h264", "jpeg"] });
  session.play({ theme: null, seed: 1 }, 0);
  const hello = (now) => {
    session.opened(now);
    return session.commands().find(({ message }) => message?.type === "hello").message;
  };
  assert.deepEqual(hello(1).transports, ["webrtc", "websocket"]);
  session.videoFailed("no connection within 4 s", 10);
  const commands = session.commands();
  assert.equal(commands.find((command) => command.do === "video_failed").video, "webrtc");
  assert.match(commands.find((command) => command.do === "notice").text, /Using H.264 over/);
  assert.deepEqual([hello(20).transports, session.view(20).video], [["websocket"], "h264"]);
  session.videoFailed("H.264 was not decoded: no", 30);
  assert.deepEqual(hello(40).codecs, ["jpeg"]);
  session.videoFailed("nothing is left", 50);
  assert.equal(session.video, "jpeg");
});

test("H.264 that was insisted on is an error when it fails", () => {
  const session = new Session({ video: "h264" });
  session.play({ theme: null, seed: 1 }, 0);
  session.videoFailed("H.264 was not decoded: no", 30);
  assert.equal(session.error.code, "h264_failed");
});
