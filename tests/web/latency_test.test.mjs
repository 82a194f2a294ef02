// The arithmetic of the page's latency test.

import assert from "node:assert/strict";
import test from "node:test";

globalThis.OffscreenCanvas = class {
  getContext() {
    return {};
  }
};
const { difference, median, reported } = await import("../../engine_plugins/web/latency_test.js");

test("the difference of frames is a mean", () => {
  assert.equal(difference([0, 10, 20], [0, 10, 20]), 0);
  assert.equal(difference([0, 10, 20], [3, 10, 14]), 3);
});

test("the median of nothing is null", () => {
  assert.equal(median([]), null);
  assert.equal(median([9, 1, 5]), 5);
});

test("a press is answered by the first state that was sampled after it", () => {
  const samples = [
    { sampled: 90, total: 500 },
    { sampled: 104, total: 40 },
    { sampled: 120, total: 30 },
  ];
  assert.equal(reported(samples, 100), 44);
  assert.equal(reported(samples, 121), null);
});
