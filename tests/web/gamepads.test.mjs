import assert from "node:assert/strict";
import { test } from "node:test";
import { Gamepads } from "../../engine_plugins/js/gamepads.js";

const REST = { pad: null, axes: [0, 0, 0, 0], buttons: 0 };
// What Firefox on Linux reports of an Xbox pad: triggers on axes 2 and 5, the directional pad last.
const RAW = [0, 0, -1, 0, 0, -1, 0, 0];

function fake({ id = "pad", mapping = "standard", axes = [0, 0, 0, 0], buttons = 17 } = {}) {
  const pad = { id, mapping, axes: [...axes], connected: true, buttons: [] };
  pad.buttons = Array.from({ length: buttons }, () => ({ pressed: false, value: 0 }));
  return pad;
}

const raw = () => fake({ mapping: "", axes: RAW, buttons: 11 });
const still = (pads) => {
  for (let i = 0; i < 180; i += 1) {
    const { axes, buttons } = pads.poll();
    assert.deepEqual([axes, buttons], [[0, 0, 0, 0], 0]);
  }
};

test("nothing, holes in the list and a browser without gamepads are at rest", () => {
  assert.deepEqual(new Gamepads(() => []).poll(), REST);
  assert.deepEqual(new Gamepads(() => [null, null]).poll(), REST);
  assert.deepEqual(new Gamepads().poll(), REST);
});

test("triggers that rest at -1 do not move the camera", () => {
  const pad = raw();
  const pads = new Gamepads(() => [pad]);
  still(pads);
  pad.axes = [0, 0, -1, 0.5, -0.75, -1, 0, 0];
  assert.deepEqual(pads.poll().axes, [0, 0, 0.5, -0.75]);
  pad.axes = [-1, 1, -1, 0, 0, -1, 0, 0];
  assert.deepEqual(pads.poll().axes, [-1, 1, 0, 0]);
});

test("nor when the browser reports 0 for them until they move", () => {
  const pad = fake({ mapping: "", axes: Array(8).fill(0), buttons: 11 });
  const pads = new Gamepads(() => [pad]);
  still(pads);
  pad.axes = [...RAW];
  still(pads);
});

test("a pulled trigger is a button, never a stick", () => {
  const pad = raw();
  const pads = new Gamepads(() => [pad]);
  pads.poll();
  for (const value of [-0.4, 0.3, 1]) {
    pad.axes[2] = value;
    const { axes, buttons } = pads.poll();
    assert.deepEqual([axes, buttons], [[0, 0, 0, 0], 1 << 6]);
  }
  pad.axes[2] = -1;
  pad.axes[5] = 1;
  assert.equal(pads.poll().buttons, 1 << 7);
});

test("raw buttons and the directional pad are those of the standard layout", () => {
  const pad = raw();
  const pads = new Gamepads(() => [pad]);
  pads.poll();
  pad.buttons[7].pressed = true; // start
  pad.buttons[10].pressed = true; // right stick
  pad.axes[6] = -1; // left
  pad.axes[7] = 1; // down
  assert.equal(pads.poll().buttons, (1 << 9) | (1 << 11) | (1 << 14) | (1 << 13));
});

test("a pad with its triggers on other axes keeps its sticks", () => {
  const pad = fake({ mapping: "", axes: [0, 0, 0, -1, -1, 0], buttons: 13 });
  const pads = new Gamepads(() => [pad]);
  still(pads);
  pad.axes = [0.5, 0, 0.25, -1, -1, -0.5];
  assert.deepEqual(pads.poll().axes, [0.5, 0, 0.25, -0.5]);
});

test("an idle second pad takes nobody's place; the one that moved last steers", () => {
  const [first, second] = [fake({ id: "first" }), fake({ id: "second" })];
  let list = [first];
  const pads = new Gamepads(() => list);
  pads.poll();
  first.axes[0] = 0.6;
  assert.equal(pads.poll().pad, first);
  list = [first, second];
  first.axes[0] = 0.7;
  assert.deepEqual([pads.poll().pad, pads.poll().axes[0]], [first, 0.7]);
  second.axes[1] = -0.9;
  assert.deepEqual([pads.poll().pad, pads.poll().axes], [second, [0, -0.9, 0, 0]]);
  first.buttons[0].pressed = true;
  assert.equal(pads.poll().pad, first);
});

test("a pad that is unplugged lets go, and the next one that moves steers", () => {
  const [first, second] = [fake({ id: "first" }), fake({ id: "second" })];
  let list = [first, second];
  const pads = new Gamepads(() => list);
  pads.poll();
  second.axes[0] = 1;
  assert.equal(pads.poll().axes[0], 1);
  list = [first, null];
  assert.deepEqual(pads.poll(), REST);
  first.axes[2] = 0.8;
  assert.deepEqual(pads.poll().axes, [0, 0, 0.8, 0]);
  first.connected = false;
  assert.deepEqual(pads.poll(), REST);
});

test("a phantom that is deflected from the start and trembles never steers", () => {
  const [pad, phantom] = [fake({ id: "pad" }), fake({ id: "phantom", axes: [1, -1, 0, 0.9] })];
  const pads = new Gamepads(() => [pad, phantom]);
  pads.poll();
  for (let i = 0; i < 60; i += 1) {
    phantom.axes[3] = 0.9 + (i % 2) / 100;
    pad.axes[0] = 0.5 + i / 200;
    assert.equal(pads.poll().pad, pad);
  }
  phantom.axes[3] = 0.01; // somebody uses it after all
  pads.poll();
  phantom.axes[3] = 0.9;
  assert.deepEqual([pads.poll().pad, pads.poll().axes], [phantom, [0, 0, 0, 0.9]]);
});

test("a worn stick that rests beside its centre takes nobody's place", () => {
  const [pad, worn] = [fake({ id: "pad" }), fake({ id: "worn" })];
  const pads = new Gamepads(() => [pad, worn]);
  pad.axes[0] = 0.2;
  pads.poll();
  pad.axes[0] = 0.9;
  assert.equal(pads.poll().pad, pad);
  for (let i = 0; i < 60; i += 1) {
    worn.axes[0] = 0.1 + (i % 3) / 20;
    assert.equal(pads.poll().pad, pad);
  }
});

test("another pad on the same place is read afresh", () => {
  let pad = raw();
  const pads = new Gamepads(() => [pad]);
  pads.poll();
  pad = fake({ id: "another" });
  pads.poll();
  pad.axes = [0, 0, -1, 0];
  assert.deepEqual(pads.poll().axes, [0, 0, -1, 0]);
});
