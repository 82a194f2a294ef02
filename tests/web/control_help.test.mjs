import assert from "node:assert/strict";
import { test } from "node:test";
import { describeControls, keyCap } from "../../engine_plugins/web/control_help.js";
import { example } from "./fixtures.mjs";

const control = (name, fields) => ({
  name,
  kind: "axis",
  range: [-1, 1],
  low_keys: [],
  high_keys: [],
  default_axis: null,
  inverted: false,
  ...fields,
});

test("keys have short caps", () =>
  assert.deepEqual(["KeyW", "ArrowLeft", "Digit1", "Space", "ShiftLeft"].map(keyCap), [
    "W",
    "←",
    "1",
    "Space",
    "ShiftLeft",
  ]));

test("left and forward stand first, and alternatives are groups", () => {
  const rows = describeControls([
    control("strafe", { low_keys: ["KeyA"], high_keys: ["KeyD"] }),
    control("yaw", {
      kind: "look",
      inverted: true,
      low_keys: ["ArrowRight", "KeyE"],
      high_keys: ["ArrowLeft", "KeyQ"],
    }),
  ]);
  assert.deepEqual(
    rows.slice(0, 2).map(({ caps, action }) => [caps, action]),
    [
      [[["A", "D"]], "sidestep"],
      [
        [
          ["←", "→"],
          ["Q", "E"],
        ],
        "turn",
      ],
    ],
  );
});

test("sticks and the mouse are named only where a world uses them", () => {
  const { action_schema } = example("server_welcome").world;
  const devices = (schema) =>
    describeControls(schema)
      .map(({ input }) => input)
      .filter(Boolean);
  assert.deepEqual(devices(action_schema), ["mouse", "left stick", "right stick"]);
  assert.deepEqual(devices([control("forward", { default_axis: 1 })]), ["left stick"]);
  assert.deepEqual(devices([]), []);
});

test("a control that this page does not know is called by its name", () => {
  const [row] = describeControls([
    control("open_door", { kind: "button", range: [0, 1], high_keys: ["KeyF"] }),
  ]);
  assert.deepEqual([row.caps, row.action], [[["F"]], "open door"]);
});
