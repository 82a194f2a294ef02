import assert from "node:assert/strict";
import { test } from "node:test";
import { Client } from "../../engine_plugins/js/client.js";
import { SPANS } from "../../engine_plugins/js/latency.js";
import { describeHealth } from "../../engine_plugins/web/server.js";
import { parseSeed, readUrl, shareUrl, takeToken } from "../../engine_plugins/web/settings.js";
import { profile } from "../../engine_plugins/web/stats.js";

const client = () => new Client("ws://127.0.0.1:1/session", {}, { video: "jpeg", now: () => 0 });
const displays = { dropped: 3, damaged: 0 };

test("the profile has the keys of `worldbridge profile --json` from the start", () => {
  const given = client();
  given.counts.dropped = 2;
  const stats = profile(given, displays);
  for (const key of [
    "frames_per_second",
    "input_to_photon_ms",
    "spans_ms",
    "dropped_frames",
    "world",
    "seconds",
    "transport",
  ]) {
    assert.ok(key in stats, key);
  }
  assert.deepEqual(Object.keys(stats.spans_ms), SPANS);
  assert.deepEqual(
    [stats.transport, stats.dropped_frames, stats.input_to_photon_ms.p50],
    ["websocket-jpeg", 5, null],
  );
  assert.doesNotThrow(() => JSON.stringify(stats));
});

test("the transport is named with its codec", () => {
  const given = client();
  given.session.video = "webrtc";
  assert.equal(profile(given, displays).transport, "webrtc");
  Object.defineProperty(given.transport, "codec", { value: "H264" });
  assert.equal(profile(given, displays).transport, "webrtc-h264");
});

test("seeds are whole numbers from 0 to 2^31 - 1", () => {
  assert.deepEqual(["0", " 42 ", "2147483647"].map(parseSeed), [0, 42, 2147483647]);
  assert.deepEqual(
    ["", "-1", "1.5", "1e3", "2147483648", "abc", null].map(parseSeed),
    Array(7).fill(null),
  );
});

test("the address is read, and what is not understood is left alone", () => {
  assert.deepEqual(readUrl("?theme=zoo&seed=5&autoplay=1&video=jpeg&hud=1"), {
    theme: "zoo",
    seed: 5,
    autoplay: true,
    watch: false,
    video: "jpeg",
    hud: true,
  });
  assert.deepEqual(readUrl("?seed=x&video=dance"), {
    theme: null,
    seed: null,
    autoplay: false,
    watch: false,
    video: "auto",
    hud: false,
  });
});

test("a token in the address is remembered for the tab and leaves the address", () => {
  const stored = new Map();
  const addresses = [];
  globalThis.window = {
    sessionStorage: {
      getItem: (key) => stored.get(key) ?? null,
      setItem: (key, value) => stored.set(key, value),
    },
  };
  globalThis.history = { replaceState: (state, title, url) => addresses.push(url.href) };
  globalThis.location = { href: "http://host:1/?theme=zoo" };
  assert.equal(takeToken(), null);
  for (const [href, left] of [
    ["http://host:1/?theme=zoo#token=a%20secret", "http://host:1/?theme=zoo"],
    ["http://host:1/?token=a+secret&seed=5", "http://host:1/?seed=5"],
  ]) {
    globalThis.location = { href };
    assert.equal(takeToken(), "a secret");
    assert.equal(addresses.at(-1).replace(/#$/, ""), left);
  }
  globalThis.location = { href: "http://host:1/" };
  assert.equal(takeToken(), "a secret", "after a reload");
});

test("a link to share names the world and never the token", () => {
  assert.equal(
    shareUrl("http://host:1/play/?token=secret&hud=1#x", "zoo", 7),
    "http://host:1/play/?theme=zoo&seed=7",
  );
});

test("the server is described in words", () => {
  const health = { ready: true, detail: "", progress: null, seats: { used: 1, total: 4 } };
  assert.deepEqual(describeHealth(health), { tone: "good", text: "Ready · 3 of 4 seats free" });
  assert.equal(describeHealth({ ...health, seats: { used: 4, total: 4 } }).tone, "warn");
  assert.equal(
    describeHealth({ ready: false, detail: "Reading weights", progress: 0.25 }).text,
    "Getting ready: Reading weights · 25 %",
  );
  assert.equal(describeHealth(null).tone, "bad");
});
