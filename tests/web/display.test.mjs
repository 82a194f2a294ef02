import assert from "node:assert/strict";
import { test } from "node:test";
import { CanvasDisplay } from "../../engine_plugins/web/display.js";

/** A canvas that notes what is drawn, and refreshes when the test says so. */
function canvasDisplay() {
  const drawn = [];
  const shown = [];
  const callbacks = [];
  globalThis.requestAnimationFrame = (callback) => callbacks.push(callback);
  const canvas = {
    width: 0,
    height: 0,
    getContext: () => ({ drawImage: (frame) => drawn.push(frame.name) }),
  };
  const display = new CanvasDisplay(canvas, (header) => shown.push(header.frame));
  const refresh = () => callbacks.splice(0).forEach((callback) => callback());
  return { canvas, display, drawn, shown, refresh };
}

function frame(name) {
  const made = { name, width: 512, height: 320, closed: 0, close: () => (made.closed += 1) };
  return made;
}

test("the first frame since a refresh is drawn at once, of more only the newest", () => {
  const { canvas, display, drawn, shown, refresh } = canvasDisplay();
  const frames = [0, 1, 2, 3].map(frame);
  frames.forEach((each, number) => display.show(each, { frame: number }, 0));
  assert.deepEqual(drawn, [0]);
  refresh();
  assert.deepEqual([drawn, shown, display.dropped], [[0, 3], [3], 3]);
  assert.deepEqual(
    frames.map(({ closed }) => closed),
    [1, 1, 1, 1],
  );
  assert.deepEqual([canvas.width, canvas.height], [1024, 640]);
});

test("frames that come one by one are all drawn at once and shown", () => {
  const { display, drawn, shown, refresh } = canvasDisplay();
  for (const number of [0, 1, 2]) {
    display.show(frame(number), { frame: number }, 0);
    assert.equal(drawn.at(-1), number);
    refresh();
  }
  assert.deepEqual([shown, display.dropped], [[0, 1, 2], 0]);
});
