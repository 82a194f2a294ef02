import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { Controller } from "../../engine_plugins/js/input.js";

// The little of a browser that Controls uses.
const page = new EventTarget();
const stage = new EventTarget();
let focused = true;
globalThis.window = { onpointerrawupdate: null };
globalThis.addEventListener = (...args) => page.addEventListener(...args);
globalThis.document = Object.assign(new EventTarget(), {
  hidden: false,
  pointerLockElement: null,
  hasFocus: () => focused,
});

const { Controls } = await import("../../engine_plugins/web/controls.js");

const fire = (type, properties = {}) => {
  const event = Object.assign(new Event(type, { cancelable: true }), properties);
  Object.defineProperty(event, "target", { value: { closest: () => null } });
  page.dispatchEvent(event);
};
const NO_MODIFIER = { shiftKey: false, ctrlKey: false, altKey: false, metaKey: false };
const key = (type, code, more = {}) => fire(type, { code, key: code, ...NO_MODIFIER, ...more });

const controller = new Controller();
const pad = {
  id: "pad",
  mapping: "standard",
  axes: [0, 0, 0, 0],
  connected: true,
  buttons: [],
};
const controls = new Controls(
  controller,
  stage,
  { sensitivity: 1, invertY: false },
  { active: () => true, changed() {}, key: () => false, unlocked() {}, gamepad() {} },
);
Object.defineProperty(globalThis, "navigator", {
  value: { getGamepads: () => [pad] },
  configurable: true,
});

const held = () => controller.sample(performance.now()).keys;

beforeEach(() => {
  focused = true;
  pad.axes = [0, 0, 0, 0];
  controls.poll();
  controller.releaseAll();
});

test("losing the focus releases keys, sticks and buttons, and nothing comes back by itself", () => {
  key("keydown", "KeyW");
  pad.axes = [0.8, 0, 0, 0];
  controls.poll();
  assert.equal(controller.sample(0).axes[0], 0.8);
  focused = false;
  fire("blur");
  for (let i = 0; i < 10; i += 1) controls.poll(); // the browser froze the stick where it was
  const state = controller.sample(0);
  assert.deepEqual([state.keys, state.axes], [[], [0, 0, 0, 0]]);
});

test("alt-tab and a hidden page leave no key held", () => {
  key("keydown", "KeyW");
  key("keydown", "AltLeft", { altKey: true });
  fire("blur");
  assert.deepEqual(held(), []);
  key("keydown", "KeyD");
  document.hidden = true;
  document.dispatchEvent(new Event("visibilitychange"));
  document.hidden = false;
  assert.deepEqual(held(), []);
});

test("both Shift keys, of which the system reports one release only", () => {
  key("keydown", "ShiftLeft", { shiftKey: true });
  key("keydown", "ShiftRight", { shiftKey: true });
  key("keydown", "KeyW", { shiftKey: true });
  key("keyup", "ShiftRight");
  assert.deepEqual(held(), ["KeyW"]);
});

test("a modifier whose release the system took is up with the next key", () => {
  key("keydown", "ShiftLeft", { shiftKey: true });
  key("keydown", "KeyW");
  assert.deepEqual(held(), ["KeyW"]);
});

test("keys that went up while Command was down are up", () => {
  key("keydown", "KeyW");
  key("keydown", "MetaLeft", { metaKey: true, key: "Meta" });
  key("keyup", "MetaLeft", { key: "Meta" });
  assert.deepEqual(held(), []);
});

test("an input method and a virtual keyboard press nothing that nobody can release", () => {
  key("keydown", "");
  key("keydown", "KeyA", { isComposing: true });
  assert.deepEqual(held(), []);
});
