import assert from "node:assert/strict";
import { test } from "node:test";
import { promptFrames, start } from "../../engine_plugins/js/protocol.js";
import { Session } from "../../engine_plugins/js/session.js";
import {
  inOrder,
  PromptChoice,
  problemWith,
  titleOf,
} from "../../engine_plugins/web/prompt_frames.js";
import { example } from "./fixtures.mjs";

const file = (name, type = "image/png", size = 9) => ({ name, type, size });
const RED = Uint8Array.of(1, 2, 3);
const BLUE = Uint8Array.of(4, 5);
const WELCOME = example("server_welcome", { transport: "websocket", codec: "jpeg" });
const status = (state) => ({ type: "status", state, detail: "", progress: null, position: null });
const REJECTION = {
  type: "error",
  code: "bad_prompt_frame",
  message: "image 1 of 1 is damaged",
  expected: "e",
  got: "g",
  remedy: "r",
  path: "",
  fatal: false,
};
const sent = (session, type) =>
  session
    .commands()
    .filter((c) => c.do === "send" && c.message.type === type)
    .map((c) => c.message);

/** Return a session that plays, and the messages that started its world. */
function playing(promptFrames) {
  const session = new Session({ video: "jpeg" });
  session.play({ theme: "zoo", seed: 7, promptFrames }, 0);
  session.opened(5);
  session.commands();
  session.received(WELCOME, 10);
  const messages = session.commands().flatMap((c) => (c.do === "send" ? [c.message] : []));
  session.received(status("playing"), 20);
  session.frameShown(300);
  session.commands();
  assert.equal(session.state, "playing");
  return [session, messages];
}

test("files that no world can start from are named", () => {
  assert.equal(problemWith([file("a.png"), file("b.webp", "image/webp")], 9), null);
  assert.match(problemWith([], 9), /no image/);
  assert.match(problemWith([file("a.png")], 0), /rendered/);
  assert.match(problemWith([file("a"), file("b")], 1), /at most 1 image, not 2/);
  assert.match(problemWith(Array(10).fill(file("a")), 9), /at most 9 images, not 10/);
  assert.match(problemWith([file("a.png"), file("notes.txt", "text/plain")], 9), /^notes.txt is/);
  assert.match(problemWith([file("moves.gif", "image/gif")], 9), /^moves.gif is not/);
  assert.match(problemWith([file("a.png", "image/png", 0)], 9), /a.png is empty/);
});

test("frames of a clip come in the order of their numbers", () => {
  const names = inOrder(["f10.png", "f9.png", "f1.png"].map((name) => file(name)));
  assert.deepEqual(
    names.map((f) => f.name),
    ["f1.png", "f9.png", "f10.png"],
  );
  assert.deepEqual([titleOf(1), titleOf(3)], ["Your image", "Your 3 images"]);
});

test("the server's image is offered, and can be declined", () => {
  const shown = [];
  const choice = new PromptChoice((now) => shown.push(now.title));
  assert.deepEqual([choice.now.value, choice.limit], [null, null]);
  choice.offer(9, 1);
  assert.deepEqual(
    [choice.now.url, choice.now.value],
    ["prompt-frame", null],
    "absent: its default",
  );
  choice.clear();
  assert.deepEqual(choice.now.value, [], "none, not the server's default");
  choice.restore({ value: [RED], url: "blob:1", count: 1, title: "Your image" });
  assert.deepEqual(choice.now.value, [RED]);
  choice.clear();
  assert.deepEqual(shown, ["This server's image", "", "Your image", ""]);
});

test("a world starts from the prompt frames that precede its start", () => {
  const zoo = { theme: "zoo", seed: 7 };
  assert.deepEqual(playing(null)[1], [start(zoo)], "the server's default");
  assert.deepEqual(playing([])[1], [start({ ...zoo, promptFrames: 0 })], "the theme's own start");
  assert.deepEqual(playing([RED, BLUE])[1], [
    ...promptFrames([RED, BLUE]),
    start({ ...zoo, promptFrames: 2 }),
  ]);
});

test("a choice survives a reload, until it is cleared", async () => {
  globalThis.URL.createObjectURL ??= () => "blob:";
  const store = {
    kept: [RED, BLUE],
    load: async () => store.kept,
    save: (files) => (store.kept = files),
  };
  const choice = new PromptChoice(() => {}, store);
  await choice.recall();
  assert.deepEqual([choice.now.value, choice.now.title], [[RED, BLUE], "Your 2 images"]);
  choice.clear();
  assert.equal(store.kept, null);
  const fresh = new PromptChoice(() => {}, store);
  await fresh.recall();
  assert.equal(fresh.now.value, null);
  store.kept = [RED, BLUE];
  const small = new PromptChoice(() => {}, store);
  small.offer(1, 0);
  await small.recall();
  assert.equal(small.now.value, null, "more than this world takes");
});

test("a world starts from an image, and from its theme again", () => {
  const [session] = playing(null);
  session.restart("zoo", 7, 1000, [RED]);
  assert.deepEqual(
    session.commands().map((c) => c.message),
    [...promptFrames([RED]), start({ theme: "zoo", seed: 7, promptFrames: 1 })],
  );
  assert.equal(session.view(1000).promptFrames, 1);
  session.frameShown(4000);
  assert.equal(session.state, "loading", "the server still checks the image");
  session.received(status("playing"), 5000);
  session.frameShown(5100);
  assert.equal(session.state, "loading", "on its way before");
  session.frameShown(5300);
  assert.equal(session.state, "playing");
  session.restart("zoo", 7, 6000);
  assert.equal(session.view(6000).promptFrames, 1, "a restart keeps them");
  session.restart("zoo", 7, 7000, []);
  assert.equal(session.view(7000).promptFrames, 0);
});

test("an image that the server rejects leaves the world as it was", () => {
  const [session] = playing([BLUE]);
  session.restart("city", 8, 1000, [RED, RED]);
  session.commands();
  session.received(REJECTION, 1500);
  assert.deepEqual(
    session.commands().map((c) => c.do),
    ["start_rejected", "notice"],
  );
  session.frameShown(1600);
  const view = session.view(1600);
  assert.deepEqual(
    [view.state, view.theme, view.seed, view.promptFrames],
    ["playing", "zoo", 7, 1],
  );
});

test("rejected prompt frames of the first start are an error", () => {
  const session = new Session({ video: "jpeg" });
  session.play({ theme: "zoo", seed: 7, promptFrames: [RED] }, 0);
  session.opened(5);
  session.received(WELCOME, 10);
  session.commands();
  session.received(REJECTION, 20);
  assert.deepEqual([session.state, session.error.code], ["error", "bad_prompt_frame"]);
  const done = session.commands().map((c) => c.message?.type ?? c.do);
  assert.deepEqual(done, ["bye", "remember", "disconnect"], "the seat is free at once");
});

test("a resumed session does not send them again, a new one does", () => {
  const [session] = playing([RED]);
  session.closed("gone", 1000);
  session.tick(2000);
  session.opened(2001);
  session.received({ ...WELCOME, started: true }, 2005);
  assert.deepEqual([...sent(session, "prompt_frame"), ...sent(session, "start")], []);
  session.closed("gone", 3000);
  session.tick(4000);
  session.opened(4001);
  session.received({ ...REJECTION, code: "session_expired", fatal: true }, 4010);
  session.opened(4020);
  session.received(WELCOME, 4030);
  assert.deepEqual(sent(session, "prompt_frame"), promptFrames([RED]));
});

test("a slow upload is not a silent server, but it times out", () => {
  const [session] = playing(null);
  session.restart("zoo", 7, 1000, [RED]);
  for (let now = 1100; now < 20_000; now += 100) session.tick(now, true, true);
  assert.equal(session.state, "loading");
  for (let now = 20_000; now < 80_000; now += 100) session.tick(now, true, true);
  assert.equal(session.state, "reconnecting");
});
