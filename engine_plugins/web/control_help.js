// The help for a world's controls, made from its action schema.

import { byId, h } from "./dom.js";

const ACTIONS = {
  forward: "walk",
  strafe: "sidestep",
  yaw: "turn",
  pitch: "look up and down",
};
const ARROWS = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓" };
const STICKS = ["left", "left", "right", "right"]; // of the axes of a controller state

/** Return the cap of a key from its `KeyboardEvent.code`. */
export const keyCap = (code) => ARROWS[code] ?? code.replace(/^(Key|Digit|Numpad)/, "");

const actionOf = ({ name }) => ACTIONS[name] ?? name.replace(/[_-]+/g, " ");

/**
 * Describe a world's controls as rows {caps, input, action}: groups of key caps or an input device,
 * and what it does.
 */
export function describeControls(schema) {
  const rows = schema
    .filter(({ low_keys, high_keys }) => low_keys.length + high_keys.length > 0)
    .map((control) => ({ caps: capsOf(control), input: "", action: actionOf(control) }));
  if (schema.some(({ kind }) => kind === "look"))
    rows.push({ caps: [], input: "mouse", action: "look, after a click" });
  for (const stick of ["left", "right"]) {
    const controls = schema.filter(({ default_axis }) => STICKS[default_axis] === stick);
    if (controls.length > 0)
      rows.push({
        caps: [],
        input: `${stick} stick`,
        action: controls.map(actionOf).join(", "),
      });
  }
  return rows;
}

/** Pair the keys, left or forward first: [A D] and [← →] of one control are two groups. */
function capsOf({ low_keys: low, high_keys: high, inverted }) {
  const [first, second] = inverted ? [high, low] : [low, high];
  const groups = Array.from({ length: Math.max(low.length, high.length) }, (_, i) => [
    first[i],
    second[i],
  ]);
  return groups.map((codes) => codes.filter((code) => code !== undefined).map(keyCap));
}

const caps = (groups) =>
  groups.flatMap((group, i) => [
    i > 0 ? " or " : "",
    ...group.map((cap) => h("kbd", { text: cap })),
  ]);

const capitalized = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** Fill the menu's table and the hints with a world's controls. */
export function showControls(schema) {
  const rows = describeControls(schema);
  byId("control-rows").replaceChildren(
    ...rows.map((row) =>
      h(
        "tr",
        {},
        h("th", { scope: "row" }, ...(row.input ? [capitalized(row.input)] : caps(row.caps))),
        h("td", { text: row.action }),
      ),
    ),
  );
  byId("hint-keys").replaceChildren(
    ...rows
      .filter(({ input }) => input === "")
      .map((row) => h("span", {}, ...caps(row.caps.slice(0, 1)), ` ${row.action}`)),
  );
  const sticks = rows.filter(({ input }) => input.endsWith("stick"));
  for (const [id, device] of [
    ["hint-touch", "thumb"],
    ["hint-pad", "stick"],
  ])
    byId(id).replaceChildren(
      ...sticks.map(({ input, action }) =>
        h("span", { text: `${capitalized(input.replace("stick", device))}: ${action}` }),
      ),
    );
}
