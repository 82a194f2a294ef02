import assert from "node:assert/strict";
import { test } from "node:test";
import { headingOf, keepsPlaces, Trail } from "../../engine_plugins/web/minimap.js";

const turned = (angle) => [0, Math.sin(angle / 2), 0, Math.cos(angle / 2)];
const pose = (x, z, angle = 0) => ({ position: [x, 1.6, z], orientation: turned(angle) });
const walk = (trail, points) => points.forEach(([x, z, angle]) => trail.add(pose(x, z, angle)));
const line = (from, to, step = 0.5) =>
  Array.from({ length: Math.round(Math.abs(to - from) / step) + 1 }, (_, i) => [
    0,
    from + Math.sign(to - from) * i * step,
  ]);

test("the heading is the angle about the vertical, whatever the pitch", () => {
  for (const angle of [0, 0.5, -2, 3]) assert.ok(Math.abs(headingOf(turned(angle)) - angle) < 1e-9);
  const [half, pitch] = [0.4, 0.3];
  const [s, c, p, q] = [Math.sin(half), Math.cos(half), Math.sin(pitch), Math.cos(pitch)];
  assert.ok(Math.abs(headingOf([c * p, s * q, -s * p, c * q]) - 0.8) < 1e-9);
});

test("ahead is up and left is left", () => {
  const trail = new Trail();
  walk(trail, [[0, 0], [0, -2], [-2, -2, Math.PI / 2]]); // ahead, then to the left, looking there
  const { points, radius } = trail.seen();
  const [start, corner] = points.map((point) => point.map((value) => Math.round(value * 1e6) / 1e6));
  assert.deepEqual(corner.map(Math.abs), [0, 2]);
  assert.ok(corner[1] > 0, "the corner lies behind");
  assert.deepEqual([Math.sign(start[0]), Math.sign(start[1])], [-1, 1], "the start: behind, left");
  assert.equal(radius, 4);
});

test("a place is known again after one was away from it", () => {
  const trail = new Trail();
  walk(trail, line(0, -1));
  assert.equal(trail.returned, false, "nobody left");
  walk(trail, line(-1, -6));
  assert.equal(trail.returned, false, "a new place");
  walk(trail, line(-6, -1));
  assert.equal(trail.returned, true);
});

test("standing adds nothing, and a jump begins a new trail", () => {
  const trail = new Trail();
  for (let i = 0; i < 50; i += 1) walk(trail, [[0, 0]]);
  assert.equal(trail.points.length, 1);
  walk(trail, line(0, -3));
  walk(trail, [[40, 0]]);
  assert.deepEqual([trail.points.length, trail.walked], [1, 0]);
});

test("a long walk stays bounded", () => {
  const trail = new Trail();
  walk(trail, line(0, -5000, 1));
  assert.equal(trail.points.length, 4000);
});

test("worlds without places have no map", () => {
  assert.equal(keepsPlaces({ kind: "autoregressive", conditionings: ["actions"] }), false);
  assert.equal(keepsPlaces({ kind: "autoregressive", conditionings: ["actions", "camera"] }), true);
  assert.equal(keepsPlaces({ kind: "procedural", conditionings: ["actions"] }), true);
});
