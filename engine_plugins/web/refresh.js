// The display's refresh period, measured from animation frames: browsers do not report it.

const SAMPLES = 40;
const REMEASURE_MS = 10_000; // a window may move to another display
const PLAUSIBLE_MS = [2, 50]; // 500 Hz to 20 Hz

/** Return the period in ms between refresh times; null if it is not plausible. */
export function periodOf(times) {
  const gaps = times.slice(1).map((time, i) => time - times[i]);
  const sorted = Float64Array.from(gaps).sort();
  if (sorted.length === 0) return null;
  const median = sorted[sorted.length >> 1];
  // A missed refresh makes a gap of two periods, and clocks are rounded: average the gaps near the
  // median.
  const near = gaps.filter((gap) => Math.abs(gap - median) < 0.25 * median);
  const period = near.reduce((sum, gap) => sum + gap, 0) / near.length;
  return period >= PLAUSIBLE_MS[0] && period <= PLAUSIBLE_MS[1] ? period : null;
}

export class RefreshPeriod {
  #period = null;
  #since = -Infinity;
  #times = null;

  /** `ask(callback)`: requestAnimationFrame or a replacement */
  constructor(ask = (callback) => requestAnimationFrame(callback)) {
    this.ask = ask;
  }

  /** Return the last measured period in ms, or null; measure again when it is old. */
  milliseconds(now) {
    if (this.#times === null && now - this.#since > REMEASURE_MS) {
      this.#since = now;
      this.#times = [];
      this.#sample();
    }
    return this.#period;
  }

  #sample() {
    this.ask((time) => {
      this.#times.push(time);
      if (this.#times.length <= SAMPLES) return this.#sample();
      this.#period = periodOf(this.#times);
      this.#times = null;
    });
  }
}
