// How often the display refreshes. A page is not told; it can only count.

const SAMPLES = 40;
const AGAIN_MS = 10_000; // a window may move to another display
const PLAUSIBLE_MS = [2, 50]; // 500 Hz to 20 Hz

/** The period between refreshes in ms from their times, or null if they make no sense. */
export function periodOf(times) {
  const gaps = times.slice(1).map((time, i) => time - times[i]);
  const sorted = Float64Array.from(gaps).sort();
  if (sorted.length === 0) return null;
  const median = sorted[sorted.length >> 1];
  // A refresh that was missed makes a gap of two periods, and clocks are rounded: average what is
  // near the median.
  const near = gaps.filter((gap) => Math.abs(gap - median) < 0.25 * median);
  const period = near.reduce((sum, gap) => sum + gap, 0) / near.length;
  return period >= PLAUSIBLE_MS[0] && period <= PLAUSIBLE_MS[1] ? period : null;
}

export class RefreshPeriod {
  #period = null;
  #since = -Infinity;
  #times = null;

  /** `ask(callback)`: requestAnimationFrame, or something like it */
  constructor(ask = (callback) => requestAnimationFrame(callback)) {
    this.ask = ask;
  }

  /** The last measured period in ms, null before the first; measures anew now and then. */
  milliseconds(now) {
    if (this.#times === null && now - this.#since > AGAIN_MS) {
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
