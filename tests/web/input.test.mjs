import assert from "node:assert/strict";
import { test } from "node:test";
import { Controller, MIN_GAP_MS, SendClock } from "../../engine_plugins/js/input.js";
import { decode } from "../../engine_plugins/js/msgpack.js";
import { encode, input } from "../../engine_plugins/js/protocol.js";

test("history holds the last four states, newest first", () => {
  const controls = new Controller();
  for (let i = 0; i < 6; i += 1) controls.sample(i * 16);
  assert.deepEqual(
    controls.history.map((s) => s.sequence),
    [5, 4, 3, 2],
  );
});

test("an early packet carries what there is", () => {
  const controls = new Controller();
  controls.sample(0);
  assert.deepEqual(
    controls.history.map((s) => s.sequence),
    [0],
  );
});

test("a sample is the whole state, and later changes do not reach into it", () => {
  const controls = new Controller();
  controls.press("KeyW", 0);
  const first = controls.sample(1);
  controls.press("KeyA", 2);
  controls.movePointer(5, 5);
  assert.deepEqual([first.keys, first.pointer], [["KeyW"], [0, 0]]);
  assert.deepEqual(controls.sample(3).keys, ["KeyW", "KeyA"]);
});

test("pointer counters are cumulative and survive letting go", () => {
  const controls = new Controller();
  controls.movePointer(10, -4);
  controls.sample(0);
  controls.movePointer(-3, 1.5);
  controls.releaseAll();
  assert.deepEqual(controls.sample(1).pointer, [7, -2.5]);
});

test("a lost packet loses no movement: the next one has the total", () => {
  const controls = new Controller();
  let seen = 0;
  for (let i = 0; i < 10; i += 1) {
    controls.movePointer(3, 0);
    const { pointer } = controls.sample(i);
    if (i % 3 === 0) seen = pointer[0]; // two of three packets are lost
  }
  assert.equal(seen, 30);
});

test("key repeat is no change; letting go is", () => {
  const controls = new Controller();
  assert.equal(controls.press("KeyW", 0), true);
  assert.equal(controls.press("KeyW", 30), false);
  assert.equal(controls.release("KeyW", 60), true);
  assert.equal(controls.release("KeyW", 61), false);
});

test("a tap shorter than a step of the world is held until the step could see it", () => {
  const controls = new Controller({ holdMs: 67 });
  controls.press("KeyW", 0);
  controls.release("KeyW", 10);
  assert.deepEqual(controls.sample(20).keys, ["KeyW"]);
  assert.deepEqual(controls.sample(66).keys, ["KeyW"]);
  assert.deepEqual(controls.sample(68).keys, []);
});

test("a key pressed again during that hold stays down", () => {
  const controls = new Controller({ holdMs: 67 });
  controls.press("KeyW", 0);
  controls.release("KeyW", 10);
  controls.press("KeyW", 30);
  assert.deepEqual(controls.sample(100).keys, ["KeyW"]);
});

test("losing the focus lets go of everything at once, taps included", () => {
  const controls = new Controller({ holdMs: 67 });
  controls.press("KeyW", 0);
  controls.press("KeyD", 0);
  controls.release("KeyD", 5);
  controls.setPad("touch", [0, -1, 0, 0], 1);
  assert.equal(controls.releaseAll(), true);
  const state = controls.sample(6);
  assert.deepEqual([state.keys, state.axes, state.buttons], [[], [0, 0, 0, 0], 0]);
  assert.equal(controls.releaseAll(), false);
});

test("no more keys than the protocol allows", () => {
  const controls = new Controller();
  for (let i = 0; i < 30; i += 1) controls.press(`Key${i}`, 0);
  assert.equal(controls.sample(1).keys.length, 16);
});

test("gamepad and touch together: the stronger deflection, all buttons, never beyond one", () => {
  const controls = new Controller();
  controls.setPad("gamepad", [0.2, -1.5, 0, 0.1], 0b01);
  controls.setPad("touch", [-0.6, 0, 0, 0], 0b10);
  const { axes, buttons } = controls.sample(0);
  assert.deepEqual([axes, buttons], [[-0.6, -1, 0, 0.1], 0b11]);
  assert.equal(controls.setPad("touch", [-0.6, 0, 0, 0], 0b10), false, "unchanged");
  assert.equal(controls.setPad("touch", [-0.5, 0, 0, 0], 0b10), true);
});

test("a reloaded page goes on where the counters stood", () => {
  const before = new Controller();
  before.movePointer(100, 50);
  before.sample(0);
  before.sample(1);
  const after = new Controller(before.counters);
  const state = after.sample(2);
  assert.deepEqual([state.sequence, state.pointer], [2, [100, 50]]);
});

test("on the wire every float is a float64, also when it is whole", () => {
  const controls = new Controller();
  controls.setPad("gamepad", [0, -1, 0.5, 0], 3);
  controls.sample(12);
  const bytes = encode(input(controls.history));
  assert.equal([...bytes].filter((byte) => byte === 0xcb).length, 1 + 4 + 2);
  assert.deepEqual(decode(bytes).states[0], {
    sequence: 0,
    time: 12,
    axes: [0, -1, 0.5, 0],
    buttons: 3,
    keys: [],
    pointer: [0, 0],
    camera: null,
  });
});

test("sends 60 times a second when nothing changes", () => {
  const clock = new SendClock();
  let count = 0;
  for (let now = 0; now < 1000; now += 1) if (clock.due(now)) count += 1;
  assert.ok(count >= 58 && count <= 61, `${count}`);
});

test("keeps 60 a second on a timer of 8 ms as well", () => {
  const clock = new SendClock();
  let count = 0;
  for (let now = 0; now < 1000; now += 8) if (clock.due(now)) count += 1;
  assert.ok(count >= 58 && count <= 61, `${count}`);
});

test("sends a change at once, but a storm of changes not more often than the gap", () => {
  const clock = new SendClock();
  assert.equal(clock.due(0), true);
  assert.equal(clock.due(8), false);
  clock.changed();
  assert.equal(clock.due(8), true);
  let count = 0;
  for (let now = 9; now < 1009; now += 1) {
    clock.changed();
    if (clock.due(now)) count += 1;
  }
  assert.ok(count <= 1000 / MIN_GAP_MS + 1, `${count}`);
});
