import assert from "node:assert/strict";
import { test } from "node:test";
import { periodOf, RefreshPeriod } from "../../engine_plugins/web/refresh.js";

const display = (period, count, jitter = () => 0) =>
  Array.from({ length: count }, (_, i) => 5000 + i * period + jitter(i));

test("missed refreshes and rounded clocks do not change the period", () => {
  const times = display(1000 / 60, 60, (i) => (i % 2 ? 0.1 : -0.1)).filter((_, i) => i % 7 !== 3);
  assert.ok(Math.abs(periodOf(times) - 1000 / 60) < 0.05, periodOf(times));
});

test("a display of 144 Hz differs from one of 60", () => {
  assert.ok(Math.abs(periodOf(display(1000 / 144, 41)) - 1000 / 144) < 0.01);
});

test("nonsense has no period", () => {
  assert.equal(periodOf([]), null);
  assert.equal(periodOf([5]), null);
  assert.equal(periodOf([5, 5, 5, 5]), null);
  assert.equal(periodOf([0, 1000, 2000]), null);
});

test("the period is measured once, and again when it may have changed", () => {
  let asked = [];
  const refresh = new RefreshPeriod((callback) => asked.push(callback));
  let time = 0;
  const run = (period) => {
    while (asked.length > 0) {
      const [callback] = asked.splice(0, 1);
      callback((time += period));
    }
  };
  assert.equal(refresh.milliseconds(0), null);
  assert.equal(asked.length, 1);
  assert.equal(refresh.milliseconds(1), null, "one measurement at a time");
  assert.equal(asked.length, 1);
  run(10);
  assert.ok(Math.abs(refresh.milliseconds(500) - 10) < 1e-9);
  assert.equal(asked.length, 0, "no callbacks while the period is fresh");
  refresh.milliseconds(11_000);
  run(20);
  assert.ok(Math.abs(refresh.milliseconds(12_000) - 20) < 1e-9);
});
