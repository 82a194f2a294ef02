import assert from "node:assert/strict";
import { test } from "node:test";
import { start } from "../../engine_plugins/js/protocol.js";
import { Session } from "../../engine_plugins/js/session.js";
import { inOrder, PromptChoice, problemWith, titleOf } from "../../engine_plugins/web/prompt_frames.js";

const file = (name, type = "image/png", size = 9) => ({ name, type, size });
const RED = Uint8Array.of(1, 2, 3);
const BLUE = Uint8Array.of(4, 5);
const SPEC = { themes: ["city", "zoo"], takes_pictures: 9 };
const WELCOME = { type: "welcome", version: 1, session: "s", resume: "r", spec: SPEC };
const status = (state) => ({ type: "status", state, detail: "", progress: null });
const refusal = (fatal) => ({
  type: "error", code: "bad_picture", message: "image 1 of 1 is damaged",
  expected: "e", got: "g", remedy: "r", fatal,
}); // prettier-ignore
const sent = (session, type) =>
  session
    .commands()
    .filter((c) => c.do === "send" && c.message.type === type)
    .map((c) => c.message);

function playing(promptFrames) {
  const session = new Session({ video: "jpeg" });
  session.play({ theme: "zoo", seed: 7, promptFrames }, 0);
  session.opened(5);
  const [hello] = sent(session, "hello");
  session.received(WELCOME, 10);
  session.received(status("playing"), 20);
  session.frameShown(300);
  session.commands();
  assert.equal(session.state, "playing");
  return [session, hello];
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
  assert.deepEqual(names.map((f) => f.name), ["f1.png", "f9.png", "f10.png"]);
  assert.deepEqual([titleOf(1), titleOf(3)], ["Your image", "Your 3 images"]);
});

test("the server's image is offered, and can be declined", () => {
  const shown = [];
  const choice = new PromptChoice((now) => shown.push(now.title));
  assert.deepEqual([choice.now.value, choice.limit], [null, null]);
  choice.offer(9, 1);
  assert.deepEqual([choice.now.url, choice.now.value], ["picture", null], "absent: its default");
  choice.clear();
  assert.deepEqual(choice.now.value, [], "none, not the server's default");
  choice.restore({ value: [RED], url: "blob:1", count: 1, title: "Your image" });
  assert.deepEqual(choice.now.value, [RED]);
  choice.clear();
  assert.deepEqual(shown, ["This server's image", "", "Your image", ""]);
});

test("hello and start carry prompt frames only when the player chose", () => {
  assert.equal("pictures" in playing(null)[1], false);
  assert.deepEqual(playing([RED])[1].pictures, [RED]);
  assert.deepEqual(playing([])[1].pictures, []);
  assert.deepEqual(start("zoo", 1), { type: "start", theme: "zoo", seed: 1 });
  assert.deepEqual(start("zoo", 1, []).pictures, []);
});

test("a choice survives a reload, until it is cleared", async () => {
  globalThis.URL.createObjectURL ??= () => "blob:";
  const store = { kept: [RED, BLUE], load: async () => store.kept, save: (files) => (store.kept = files) };
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
  assert.deepEqual(sent(session, "start"), [start("zoo", 7, [RED])]);
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
  session.received(refusal(false), 1500);
  assert.deepEqual(
    session.commands().map((c) => c.do),
    ["prompt_refused", "notice"],
  );
  session.frameShown(1600);
  const view = session.view(1600);
  assert.deepEqual([view.state, view.theme, view.seed, view.promptFrames], ["playing", "zoo", 7, 1]);
});

test("a rejected hello is an error", () => {
  const session = new Session({ video: "jpeg" });
  session.play({ theme: "zoo", seed: 7, promptFrames: [RED] }, 0);
  session.opened(5);
  session.received(refusal(true), 10);
  assert.deepEqual([session.state, session.error.code], ["error", "bad_picture"]);
});

test("a resumed session does not send them again, a new one does", () => {
  const [session] = playing([RED]);
  session.closed("gone", 1000);
  session.tick(2000);
  session.opened(2001);
  assert.equal("pictures" in sent(session, "hello")[0], false);
  session.received({ ...refusal(true), code: "session_expired" }, 2010);
  session.opened(2020);
  assert.deepEqual(sent(session, "hello")[0].pictures, [RED]);
});

test("a slow upload is not a silent server, but it times out", () => {
  const [session] = playing(null);
  session.restart("zoo", 7, 1000, [RED]);
  for (let now = 1100; now < 20_000; now += 100) session.tick(now, true, true);
  assert.equal(session.state, "loading");
  for (let now = 20_000; now < 80_000; now += 100) session.tick(now, true, true);
  assert.equal(session.state, "reconnecting");
});
