import assert from "node:assert/strict";
import { test } from "node:test";
import { backoff, Session } from "../../engine_plugins/js/session.js";
import * as protocol from "../../engine_plugins/js/protocol.js";
import { example } from "./fixtures.mjs";

const WORLD = { ...example("server_welcome").world, themes: ["city", "zoo", "amusement_park"] };
const welcome = (fields = {}) =>
  example("server_welcome", {
    session: "s1",
    resume: "r1",
    world: WORLD,
    transport: "websocket",
    codec: "jpeg",
    ...fields,
  });
const error = (code, fatal = true) => ({
  type: "error",
  code,
  message: `it is ${code}`,
  expected: "e",
  got: "g",
  remedy: "r",
  path: "",
  fatal,
});
const status = (state, detail = "", progress = null, position = null) => ({
  type: "status",
  state,
  detail,
  progress,
  position,
});
const event = (name, detail = "") => ({ type: "event", name, detail });
const frame = (image) => ({ type: "frame", header: { frame: 0 }, image });

const names = (session) =>
  session.commands().map((c) => (c.do === "send" ? `send ${c.message.type}` : c.do));
const sent = (commands, type) =>
  commands.find((c) => c.do === "send" && c.message.type === type)?.message;

/** A session that has been welcomed at t=10, with no commands left to take. */
function greeted(options = {}, wanted = { theme: "zoo", seed: 7 }) {
  const session = new Session({ video: "jpeg", ...options });
  session.play(wanted, 0);
  session.opened(5);
  const transport = session.video === "jpeg" ? "websocket" : "webrtc";
  session.received(welcome({ transport }), 10);
  session.commands();
  return session;
}

function playing(options) {
  const session = greeted(options);
  session.received(status("playing"), 20);
  session.frameShown(300);
  session.commands();
  assert.equal(session.state, "playing");
  return session;
}

test("goes from idle over connecting and loading to playing", () => {
  const session = new Session({ video: "jpeg" });
  assert.equal(session.state, "idle");
  session.play({ theme: "zoo", seed: 7 }, 0);
  assert.deepEqual([session.state, names(session)], ["connecting", ["connect"]]);
  session.opened(5);
  const hello = sent(session.commands(), "hello");
  assert.deepEqual(hello, protocol.hello({ client: "web", wait: true }));
  assert.ok(protocol.encode(hello).length <= 4096);
  session.received(welcome(), 10);
  const commands = session.commands();
  assert.deepEqual(
    [session.state, commands.map((c) => c.do)],
    ["loading", ["remember", "welcomed", "send"]],
  );
  assert.deepEqual(sent(commands, "start"), protocol.start({ theme: "zoo", seed: 7 }));
  session.received(status("ready"), 12);
  assert.deepEqual(names(session), [], "start is sent once");
  session.received(status("loading", "Reading weights", 0.4), 20);
  assert.deepEqual([session.detail, session.progress], ["Reading weights", 0.4]);
  session.received(status("playing"), 30);
  assert.equal(session.state, "loading", "no frame yet");
  session.frameShown(40);
  assert.equal(session.state, "playing");
});

test("offers the media that it may use, and follows the server's choice", () => {
  for (const [video, transports, chosen] of [
    ["auto", ["webrtc", "websocket"], "webrtc"],
    ["auto", ["webrtc", "websocket"], "websocket"],
    ["webrtc", ["webrtc"], "webrtc"],
    ["jpeg", ["websocket"], "websocket"],
  ]) {
    const session = new Session({ video });
    session.play({ theme: null, seed: null }, 0);
    session.opened(1);
    assert.deepEqual(sent(session.commands(), "hello").transports, transports);
    const iceServers = [{ urls: ["stun:a"], username: null, credential: null }];
    session.received(welcome({ transport: chosen, ice_servers: iceServers }), 2);
    const negotiate = session.commands().find((c) => c.do === "negotiate");
    assert.equal(session.video, chosen === "webrtc" ? "webrtc" : "jpeg");
    if (chosen === "webrtc") assert.deepEqual(negotiate.iceServers, iceServers);
    else assert.equal(negotiate, undefined);
  }
});

test("a frame of the world before does not end loading", () => {
  const session = playing();
  session.restart("city", 3, 1000);
  assert.deepEqual(sent(session.commands(), "start"), protocol.start({ theme: "city", seed: 3 }));
  session.frameShown(1040);
  assert.equal(session.state, "loading");
  session.frameShown(1400);
  assert.equal(session.state, "playing");
});

test("backs off from 250 ms to 4 s", () => {
  assert.deepEqual([0, 1, 2, 3, 4, 5, 50].map(backoff), [250, 500, 1000, 2000, 4000, 4000, 4000]);
});

test("a lost connection is resumed with the token, into the same world", () => {
  const session = playing();
  session.closed("the connection broke", 1000);
  assert.equal(session.state, "reconnecting");
  session.tick(1200);
  assert.deepEqual(names(session), []);
  session.tick(1250);
  assert.deepEqual(names(session), ["connect"]);
  session.opened(1300);
  assert.equal(sent(session.commands(), "hello").resume, "r1");
  session.received(welcome({ resume: "r2", started: true }), 1310);
  assert.equal(session.state, "reconnecting", "until there is a frame");
  const commands = session.commands();
  assert.deepEqual(commands[0], { do: "remember", resume: "r2" });
  assert.equal(sent(commands, "start"), undefined, "the world runs already");
  session.received(status("playing"), 1320);
  session.frameShown(1400);
  assert.equal(session.state, "playing");
});

test("counts the seconds since the loss, not since the last attempt", () => {
  const session = playing();
  session.closed("broke", 1000);
  session.tick(1250);
  session.closed("broke", 1260);
  const view = session.view(3000);
  assert.equal(view.seconds, 2);
  assert.equal(view.attempt, 2);
  assert.equal(view.retryIn, 0);
});

test("gives up after a minute, with a reason and a remedy", () => {
  const session = playing();
  let now = 1000;
  session.closed("broke", now);
  while (session.state === "reconnecting" && now < 200_000) {
    now += 100;
    session.tick(now);
    if (session.commands().some((c) => c.do === "connect")) session.closed("broke", now);
  }
  assert.equal(session.state, "error");
  assert.equal(session.error.code, "connection_lost");
  assert.ok(now > 60_000 && now < 70_000, `${now}`);
  assert.ok(session.error.expected && session.error.got && session.error.remedy);
  session.retry(now);
  session.opened(now + 1);
  assert.equal(sent(session.commands(), "hello").resume, "r1");
});

test("a server that was never there is unreachable, not lost", () => {
  const session = new Session({ video: "jpeg" });
  session.play({ theme: "zoo", seed: 1 }, 0);
  for (let now = 0; now < 30_000 && session.state === "connecting"; now += 100) {
    session.tick(now);
    if (session.commands().some((c) => c.do === "connect")) session.closed("refused", now);
  }
  assert.equal(session.error.code, "unreachable");
});

test("a socket that does not open is tried again", () => {
  const session = new Session({ video: "jpeg" });
  session.play({ theme: null, seed: null }, 0);
  session.commands();
  session.tick(4900);
  session.tick(5100);
  assert.deepEqual(names(session), ["disconnect"]);
  session.tick(5400);
  assert.deepEqual(names(session), ["connect"]);
});

test("a silent server counts as lost after four seconds, a sleeping page does not", () => {
  const silent = playing();
  for (let now = 300; now <= 3900; now += 100) silent.tick(now);
  assert.equal(silent.state, "playing");
  for (let now = 4000; now <= 4200; now += 100) silent.tick(now);
  assert.equal(silent.state, "reconnecting");
  const asleep = playing();
  asleep.tick(300);
  asleep.tick(60_000);
  assert.equal(asleep.state, "playing");
});

test("pings fast at first, then every 500 ms", () => {
  const session = greeted();
  const times = [];
  for (let now = 0; now < 3000; now += 10) {
    session.received({ type: "pong", time: 0, server_time: 0 }, now);
    session.tick(now);
    if (sent(session.commands(), "ping")) times.push(now);
  }
  const gaps = times.slice(1).map((t, i) => t - times[i]);
  assert.deepEqual(gaps, [80, 80, 80, 80, 80, 500, 500, 500, 500, 500]);
});

test("a full server is asked again after a while, or at once", () => {
  const session = new Session({ video: "jpeg" });
  session.play({ theme: "zoo", seed: 1 }, 0);
  session.opened(1);
  session.received(error("no_free_seat"), 2);
  assert.equal(session.state, "full");
  assert.equal(session.view(1002).retryIn, 4);
  session.commands();
  session.tick(4000);
  assert.deepEqual(names(session), []);
  session.tick(5100);
  assert.deepEqual([session.state, names(session)], ["connecting", ["connect"]]);
  session.opened(5200);
  session.received(error("no_free_seat"), 5210);
  session.retry(5300);
  assert.equal(session.state, "connecting");
});

test("waits for a model that takes longer to load than a silence may last", () => {
  const session = new Session({ video: "jpeg" });
  session.play({ theme: "zoo", seed: 1 }, 0);
  session.opened(1);
  let pings = 0;
  for (let now = 10; now < 30_000; now += 100) {
    session.received(status("loading", "Reading weights", now / 30_000), now);
    session.tick(now);
    if (sent(session.commands(), "ping")) pings += 1;
  }
  assert.equal(session.state, "loading");
  assert.ok(pings > 50, `${pings} pings before the welcome`);
});

test("a session that was taken over elsewhere is not taken back", () => {
  const session = playing();
  for (let now = 300; now < 2000; now += 100) session.tick(now);
  session.commands();
  session.received(error("session_expired"), 2010);
  assert.equal(session.state, "error");
  session.retry(2020);
  session.opened(2030);
  assert.equal(sent(session.commands(), "hello").resume, null, "a retry is a session of its own");
});

test("a session that was given up while this page slept is resumed", () => {
  const session = playing();
  session.tick(300);
  session.received(error("session_expired"), 20_000);
  assert.equal(session.state, "reconnecting");
  session.opened(20_010);
  assert.equal(sent(session.commands(), "hello").resume, "r1");
});

test("a world that does not come back is an error with a retry", () => {
  const session = playing();
  session.received(error("worker_lost", true), 400);
  assert.deepEqual([session.state, session.error.code], ["error", "worker_lost"]);
});

test("an expired session starts again with the same theme and seed", () => {
  const session = new Session({ video: "jpeg" });
  session.play({ theme: "zoo", seed: 7, resume: "old" }, 0);
  session.opened(1);
  assert.equal(sent(session.commands(), "hello").resume, "old");
  session.received(error("session_expired"), 2);
  assert.deepEqual(names(session), ["disconnect", "remember", "notice", "connect"]);
  session.opened(3);
  assert.equal(sent(session.commands(), "hello").resume, null);
  session.received(welcome(), 4);
  assert.deepEqual(sent(session.commands(), "start"), protocol.start({ theme: "zoo", seed: 7 }));
});

test("a theme that the server names differently is found", () => {
  const session = new Session({ video: "jpeg" });
  session.play({ theme: "park", seed: 7 }, 0);
  session.opened(1);
  session.received(welcome(), 4);
  const commands = session.commands();
  assert.equal(sent(commands, "start").theme, "amusement_park");
  assert.equal(session.theme, "amusement_park");
  assert.ok(!commands.some((c) => c.do === "notice"));
});

test("a theme that the server does not have is replaced, with a notice", () => {
  const session = new Session({ video: "jpeg" });
  session.play({ theme: "moon", seed: 7 }, 0);
  session.opened(1);
  session.received(welcome(), 4);
  assert.ok(names(session).includes("notice"));
  assert.equal(session.theme, "city");
});

test("a queued player waits for a seat and then starts", () => {
  const session = new Session({ video: "jpeg" });
  session.play({ theme: "zoo", seed: 7 }, 0);
  session.opened(1);
  const seat = { state: "queued", position: 2, expected_wait_s: 60 };
  session.received(welcome({ seat }), 4);
  assert.equal(sent(session.commands(), "start"), undefined);
  assert.deepEqual([session.state, session.view(5).position], ["queued", 2]);
  session.received(status("queued", "", null, 0), 1000);
  assert.equal(session.view(1001).position, 0);
  session.restart("city", 3, 1500);
  assert.deepEqual(names(session), [], "nothing to restart yet");
  session.received(status("ready"), 2000);
  assert.equal(sent(session.commands(), "start").theme, "city");
  assert.deepEqual([session.state, session.view(2001).position], ["loading", null]);
});

test("a spectator starts nothing", () => {
  const session = new Session({ video: "jpeg", role: "spectator" });
  session.play({ theme: null, seed: null }, 0);
  session.opened(1);
  assert.equal(sent(session.commands(), "hello").role, "spectator");
  session.received(welcome({ role: "spectator" }), 2);
  session.received(status("ready"), 3);
  assert.equal(sent(session.commands(), "start"), undefined);
});

test("a restart without a connection is made up for", () => {
  const session = playing();
  session.closed("broke", 1000);
  session.restart("city", 3, 1100);
  session.tick(1250);
  session.opened(1300);
  session.received(welcome({ started: true }), 1310);
  assert.deepEqual(sent(session.commands(), "start"), protocol.start({ theme: "city", seed: 3 }));
});

test("fatal errors stop and keep what the server said", () => {
  for (const code of [
    "unauthorized",
    "version_mismatch",
    "unknown_world",
    "world_failed",
    "forbidden_origin",
    "internal",
  ]) {
    const session = greeted();
    session.received(error(code), 20);
    assert.equal(session.state, "error", code);
    assert.equal(session.error.remedy, "r");
    session.closed("closed", 30);
    session.tick(60_000);
    assert.ok(!names(session).includes("connect"), "no silent retry after a fatal error");
  }
});

test("an error that is not fatal is a notice, and the game goes on", () => {
  const session = playing();
  session.received(error("invalid_input", false), 400);
  assert.equal(session.state, "playing");
  assert.deepEqual(names(session), ["notice"]);
});

test("a lost worker is waited for", () => {
  const session = playing();
  session.received(event("world_lost", "The worker died"), 400);
  assert.deepEqual([session.state, session.detail], ["reconnecting", "The worker died"]);
  session.received(status("reconnecting", "The world is being restarted"), 410);
  session.frameShown(420);
  assert.equal(session.state, "reconnecting", "that frame was on its way before");
  session.received(event("world_restored"), 2990);
  session.received(status("playing"), 3000);
  session.frameShown(3010);
  assert.equal(session.state, "playing");
});

test("another protocol version is an error, and so are invalid bytes", () => {
  const session = new Session({ video: "jpeg" });
  session.play({ theme: null, seed: null }, 0);
  session.opened(1);
  const other = new protocol.ProtocolError("welcome", "version 2", "version 3", "version_mismatch");
  session.invalid(other, 2);
  assert.deepEqual(
    [session.error.code, session.error.expected, session.error.got],
    ["version_mismatch", "version 2", "version 3"],
  );
  const invalid = playing();
  invalid.invalid({ path: "frame.header", expected: "a map", got: "null" }, 400);
  assert.deepEqual(
    [invalid.state, invalid.error.code, invalid.error.expected],
    ["error", "bad_message", "a map"],
  );
});

test("WebRTC that fails becomes JPEG in the same session", () => {
  const session = greeted({ video: "auto" });
  session.videoFailed("no connection within 4 s", 4000);
  assert.deepEqual(names(session), ["video_failed", "disconnect", "notice", "connect"]);
  session.opened(4010);
  const hello = sent(session.commands(), "hello");
  assert.deepEqual([hello.transports, hello.resume], [["websocket"], "r1"]);
  session.received(welcome(), 4020);
  assert.ok(!names(session).includes("negotiate"));
});

test("WebRTC that was insisted on is an error when it fails", () => {
  const session = greeted({ video: "webrtc" });
  session.videoFailed("no connection within 4 s", 4000);
  assert.equal(session.error.code, "webrtc_failed");
});

test("WebRTC that worked once is tried once more before JPEG", () => {
  const session = greeted({ video: "auto" });
  session.received(status("playing"), 20);
  session.frameShown(30);
  session.videoFailed("the connection failed", 1000);
  assert.deepEqual([session.state, session.video], ["reconnecting", "webrtc"]);
  session.opened(1010);
  session.received(welcome({ transport: "webrtc", started: true }), 1020);
  session.videoFailed("the connection failed", 1500);
  assert.equal(session.video, "jpeg");
});

test("headers without video mean that media is blocked, unless the page is hidden", () => {
  const run = (visible) => {
    const session = greeted({ video: "auto" });
    for (let now = 20; now < 6000; now += 50) {
      session.received(frame(null), now);
      session.tick(now, visible);
    }
    return session.video;
  };
  assert.equal(run(true), "jpeg");
  assert.equal(run(false), "webrtc");
});

test("a frame that stands still is reported", () => {
  const session = playing();
  assert.equal(session.view(1000).stalledFor, 0);
  assert.equal(session.view(3300).stalledFor, 3);
});

test("leaving says goodbye and forgets the token", () => {
  const session = playing();
  session.leave(500);
  assert.deepEqual(names(session), ["send bye", "disconnect", "remember"]);
  assert.equal(session.state, "idle");
  session.closed("closed", 510);
  session.tick(20_000);
  assert.deepEqual(names(session), []);
});

test("messages of a connection that was given up change nothing", () => {
  const session = playing();
  session.leave(500);
  session.received(status("loading"), 510);
  assert.equal(session.state, "idle");
});

test("a warning about the seat is a notice", () => {
  const session = playing();
  session.received(event("seat_warning", "Your seat ends in 60 s"), 400);
  assert.deepEqual(session.commands(), [
    { do: "notice", text: "Your seat ends in 60 s", tone: "warn" },
  ]);
});

test("a place in the queue has an expected wait, and hello asks for it", () => {
  const session = new Session({ video: "jpeg" });
  session.play({ theme: "zoo", seed: 7 }, 0);
  session.opened(1);
  assert.equal(sent(session.commands(), "hello").wait, true);
  const seat = { state: "queued", position: 2, expected_wait_s: 60 };
  session.received(welcome({ seat }), 4);
  assert.equal(session.view(5).expectedWait, 60);
  session.received({ ...status("queued", "", null, 1), expected_wait_s: 31.5 }, 10);
  assert.deepEqual([session.view(11).position, session.view(11).expectedWait], [1, 31.5]);
});

test("a page that goes away frees its seat and may come back", () => {
  const session = playing();
  session.pageHidden();
  assert.deepEqual(sent(session.commands(), "bye"), { type: "bye", keep: true });
  session.closed("bye", 500);
  session.tick(1500);
  session.opened(1501);
  assert.equal(sent(session.commands(), "hello").resume, "r1");
});

test("the controls are asked for and handed over", () => {
  const player = playing();
  player.handOver();
  assert.deepEqual(player.commands(), [], "nobody asked");
  player.received(event("control_requested", "Ada asks for the controls"), 400);
  assert.ok(player.view(401).controlRequested);
  assert.deepEqual(names(player), ["notice"]);
  player.handOver();
  assert.deepEqual(names(player), ["send hand_over"]);
  player.received(welcome({ role: "spectator", resume: "", started: true }), 410);
  player.frameShown(900);
  assert.deepEqual(
    [player.view(901).role, player.state, player.view(901).controlRequested],
    ["spectator", "playing", false],
  );
  assert.equal(sent(player.commands(), "start"), undefined);
  player.restart("city", 1, 950);
  assert.deepEqual(names(player), [], "spectators start nothing");
});

test("a spectator who gets the controls plays on without another negotiation", () => {
  const session = new Session({ video: "auto", role: "spectator" });
  session.play({ theme: null, seed: null }, 0);
  session.opened(5);
  session.received(welcome({ transport: "webrtc", role: "spectator", resume: "" }), 10);
  assert.ok(names(session).includes("negotiate"));
  session.requestControl();
  assert.deepEqual(names(session), ["send request_control"]);
  session.received(welcome({ role: "player", transport: "webrtc", started: true }), 50);
  assert.deepEqual(names(session), ["remember", "welcomed"]);
  assert.equal(session.role, "player");
});

test("what a player missed is a notice", () => {
  const fresh = new Session({ video: "jpeg" });
  fresh.play({ theme: null, seed: null }, 0);
  fresh.opened(1);
  fresh.received(welcome({ started: true }), 2);
  fresh.commands();
  fresh.received(event("session_resumed", "You loaded the page again"), 3);
  assert.deepEqual(fresh.commands(), []);

  const session = playing();
  session.commands();
  session.received(event("session_resumed", "You were away for 3 s"), 350);
  assert.deepEqual(session.commands(), [
    { do: "notice", text: "You were away for 3 s", tone: "warn" },
  ]);
  session.closed("lost", 400);
  session.tick(1000);
  session.opened(1001);
  session.received(welcome({ started: true }), 1002);
  session.commands();
  session.received(event("session_resumed", "You were away for 5 s"), 1003);
  assert.deepEqual(session.commands(), [
    { do: "notice", text: "You were away for 5 s", tone: "warn" },
  ]);
});

test("asks for depth if it is wanted", () => {
  for (const depth of [false, true]) {
    const session = new Session({ video: "jpeg", depth });
    session.play({ theme: null, seed: null }, 0);
    session.opened(1);
    assert.equal(sent(session.commands(), "hello").depth, depth);
  }
});
