// Which way video takes to this client: what did not get through is left out for an hour, what was
// never measured is tried, and then the fastest one is taken.

export const RETRY_MS = 60 * 60 * 1000; // after which a way that failed is tried again
export const VALID_MS = 24 * 60 * 60 * 1000; // for which a measurement counts
const PATHS = ["webrtc", "h264"]; // beside JPEG, which always works

/**
 * `stored` is what `saved` was given the last time, for the same server: {path: {failed, measured,
 * ms}}, times in ms since 1970.
 */
export class VideoChoice {
  constructor(stored, saved = () => {}, supported = PATHS) {
    this.known = {};
    for (const path of PATHS) {
      const { failed, measured, ms } = stored?.[path] ?? {};
      if (Number.isFinite(failed)) this.known[path] = { failed };
      else if (Number.isFinite(measured) && Number.isFinite(ms))
        this.known[path] = { measured, ms };
    }
    this.saved = saved;
    this.supported = supported;
  }

  /** Return the ways to try, best first; the last one is JPEG. */
  order(now) {
    const cost = (path) => {
      const { failed, measured, ms } = this.known[path] ?? {};
      if (failed !== undefined && now - failed < RETRY_MS) return null;
      return measured !== undefined && now - measured < VALID_MS ? ms : -1;
    };
    const paths = PATHS.filter((path) => this.supported.includes(path) && cost(path) !== null);
    return [...paths.sort((a, b) => cost(a) - cost(b)), "jpeg"];
  }

  failed(path, now) {
    this.#note(path, { failed: now });
  }

  /** Note the time from a frame's way out of the server to the display. */
  measured(path, ms, now) {
    this.#note(path, { measured: now, ms });
  }

  #note(path, what) {
    if (!PATHS.includes(path)) return;
    this.known[path] = what;
    this.saved(this.known);
  }
}
