// A test of the latency that the page reports: turn a little, see when the pixels move, and compare
// that with the figure of the same controller state. A square in the corner flashes with each press,
// so a camera in front of the screen can measure what no page knows: keyboard, compositor, display.

const WIDTH = 64;
const HEIGHT = 40;
const STILL_FRAMES = 6; // alike, before a press
const STILL_MS = 4000; // to wait for them; worlds that always move have to be compared as they are
const ANSWER_MS = 3000;
const PAUSE_MS = 400; // so that the answer to a release is not taken for one to the next press
const LEAST_CHANGE = 1.0; // mean difference, of 255, that noise of the video may not reach
const NOISE_FACTOR = 4;

/** Return the mean difference of two grey frames. */
export function difference(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i += 1) sum += Math.abs(a[i] - b[i]);
  return sum / a.length;
}

/** Return the middle of unsorted values; null without values. */
export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted.length === 0 ? null : sorted[Math.floor(sorted.length / 2)];
}

/** Return the ms from `pressed` to the first shown frame that answers it, null if none did. */
export function reported(samples, pressed) {
  const answer = samples.find(({ sampled }) => sampled >= pressed);
  return answer === undefined ? null : answer.sampled + answer.total - pressed;
}

export class LatencyTest {
  #small = new OffscreenCanvas(WIDTH, HEIGHT).getContext("2d", { willReadFrequently: true });

  /**
   * `client`: its controller and meter are used; `source()`: the element that shows frames;
   * `changed()`: sends what the controller holds; `flash(on)`: the square in the corner.
   */
  constructor({ client, source, changed, flash }) {
    Object.assign(this, { client, source, changed, flash });
    this.running = false;
  }

  /** Press `presses` times. @returns {presses: [{pixels_ms, reported_ms}], pixels_ms, reported_ms} */
  async run(presses = 5) {
    if (this.running) throw new Error("a latency test is running");
    this.running = true;
    try {
      const results = [];
      for (let i = 0; i < presses; i += 1) {
        const result = await this.#press(i % 2 === 0 ? "ArrowLeft" : "ArrowRight");
        if (result !== null) results.push(result);
      }
      const middle = (name) => median(results.map((result) => result[name]));
      return {
        presses: results,
        pixels_ms: middle("pixels_ms"),
        reported_ms: middle("reported_ms"),
      };
    } finally {
      this.running = false;
      this.flash(false);
    }
  }

  async #press(code) {
    const { frame, noise } = await this.#still();
    const limit = Math.max(LEAST_CHANGE, NOISE_FACTOR * noise);
    const { controller, meter } = this.client;
    const pressed = performance.now();
    controller.press(code, pressed);
    this.changed();
    this.flash(true);
    let seen = null;
    while (seen === null && performance.now() < pressed + ANSWER_MS) {
      const at = await this.#shown();
      if (difference(this.#grab(), frame) > limit) seen = at;
    }
    controller.release(code, performance.now());
    this.changed();
    this.flash(false);
    await new Promise((done) => setTimeout(done, PAUSE_MS));
    const report = reported(meter.samples, pressed);
    if (seen === null || report === null) return null;
    return { pixels_ms: seen - pressed, reported_ms: report };
  }

  /** Wait until the frames are alike. Returns the last one, and by how much they differed. */
  async #still() {
    const end = performance.now() + STILL_MS;
    let frame = this.#grab();
    let differences = [];
    while (differences.length < STILL_FRAMES && performance.now() < end) {
      await this.#shown();
      const next = this.#grab();
      const moved = difference(next, frame);
      differences = moved > LEAST_CHANGE ? [] : [...differences, moved];
      frame = next;
    }
    return { frame, noise: Math.max(0, ...differences) };
  }

  /** Wait for the next frame on the screen. Returns when that was. */
  #shown() {
    const element = this.source();
    return new Promise((done) => {
      const timer = setTimeout(() => done(performance.now()), ANSWER_MS);
      const shown = (now) => {
        clearTimeout(timer);
        done(Math.max(now, performance.now()));
      };
      if (element.requestVideoFrameCallback) element.requestVideoFrameCallback(shown);
      else requestAnimationFrame(shown);
    });
  }

  #grab() {
    this.#small.drawImage(this.source(), 0, 0, WIDTH, HEIGHT);
    const { data } = this.#small.getImageData(0, 0, WIDTH, HEIGHT);
    const grey = new Float32Array(WIDTH * HEIGHT);
    for (let i = 0; i < grey.length; i += 1)
      grey[i] = 0.3 * data[4 * i] + 0.59 * data[4 * i + 1] + 0.11 * data[4 * i + 2];
    return grey;
  }
}
