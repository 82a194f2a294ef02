// Input-to-photon latency and its spans. Nothing here reads a clock: all times are client
// milliseconds (`performance.now()`) that the caller passes in.

/** The latency spans in order. Their sum is exactly the time from sampled to shown. */
export const SPANS = [
  "uplink",
  "wait",
  "tokens",
  "detokenize",
  "handover",
  "encode",
  "downlink",
  "show",
];

export const SPAN_TEXT = {
  uplink: "control sampled → received by the gateway",
  wait: "received → the step that uses it starts",
  tokens: "step starts → tokens decoded",
  detokenize: "tokens decoded → frame ready",
  handover: "worker → gateway",
  encode: "frame → encoded",
  downlink: "encoded → received here, including the send queue",
  show: "received → on screen",
};

const ROLLING = 600; // states in the rolling percentiles: ten seconds at 60 Hz
const HISTORY = 6000; // states kept for the CSV
const MAX_PENDING = 1024;

/** Return a percentile, interpolated between the closest ranks; null without values. */
export function percentile(sorted, p) {
  if (sorted.length === 0) return null;
  const rank = (sorted.length - 1) * p;
  const low = Math.floor(rank);
  const high = Math.min(low + 1, sorted.length - 1);
  return sorted[low] + (sorted[high] - sorted[low]) * (rank - low);
}

/** Return the percentiles, mean, maximum and count of unsorted values. */
export function summarize(values) {
  const sorted = Float64Array.from(values).sort();
  const mean = sorted.length === 0 ? null : sorted.reduce((sum, v) => sum + v, 0) / sorted.length;
  return {
    p50: percentile(sorted, 0.5),
    p95: percentile(sorted, 0.95),
    p99: percentile(sorted, 0.99),
    mean,
    max: sorted.length === 0 ? null : sorted[sorted.length - 1],
    count: sorted.length,
  };
}

/**
 * Estimate client time minus server time from pings, by the shortest of the last `window` round
 * trips: queueing only adds time, so the shortest is the most symmetric. The error is at most half
 * of it.
 */
export class ClockOffset {
  #samples = [];

  constructor(window = 30) {
    this.window = window;
    this.rtt = null; // of the latest pong
  }

  pong(sent, received, serverTime) {
    const rtt = received - sent;
    if (!(rtt >= 0)) return;
    this.rtt = rtt;
    this.#samples.push({ rtt, offset: (sent + received) / 2 - serverTime });
    if (this.#samples.length > this.window) this.#samples.shift();
  }

  get #best() {
    return this.#samples.reduce((best, s) => (best === null || s.rtt < best.rtt ? s : best), null);
  }

  /** Client time minus server time in ms; null before the first pong. */
  get offset() {
    return this.#best?.offset ?? null;
  }

  get minRtt() {
    return this.#best?.rtt ?? null;
  }

  reset() {
    this.#samples = [];
    this.rtt = null;
  }
}

/** Return the spans, in ms, from one controller state to the frame that answers it. */
export function spansOf(header, sampled, received, shown, offset) {
  // A state that was replaced by a newer one before the step has no arrival time of its own. It
  // gets the newer one's uplink; the rest of its time before the step counts as waiting.
  const uplink = header.t_input + offset - header.input_time;
  return {
    uplink,
    wait: header.t_controls + offset - (sampled + uplink),
    tokens: header.t_tokens - header.t_controls,
    detokenize: header.t_frame - header.t_tokens,
    handover: header.t_gateway - header.t_frame,
    encode: header.t_encoded - header.t_gateway,
    downlink: received - (header.t_encoded + offset),
    show: shown - received,
  };
}

/**
 * Measure input-to-photon latency. A controller state is answered by the first shown frame whose
 * `input_sequence` is at least the state's.
 */
export class LatencyMeter {
  #pending = []; // {sequence, time}, oldest first
  samples = []; // {sequence, sampled, frame, total, spans}

  sent(sequence, time) {
    this.#pending.push({ sequence, time });
    if (this.#pending.length > MAX_PENDING) this.#pending.shift();
  }

  /** Record a shown frame. @returns the samples that it completes */
  shown(header, received, shown, offset) {
    const answered = [];
    while (this.#pending.length > 0 && this.#pending[0].sequence <= header.input_sequence)
      answered.push(this.#pending.shift());
    if (offset === null) return [];
    const fresh = answered.map(({ sequence, time }) => ({
      sequence,
      sampled: time,
      frame: header.frame,
      total: shown - time,
      spans: spansOf(header, time, received, shown, offset),
    }));
    this.samples.push(...fresh);
    if (this.samples.length > HISTORY) this.samples.splice(0, this.samples.length - HISTORY);
    return fresh;
  }

  /** Forget unanswered states: a hidden page shows nothing, a lost connection answers nothing. */
  forget() {
    this.#pending = [];
  }

  /** Summarize the latest samples: {total, spans: {name: summary}}. */
  rolling() {
    const recent = this.samples.slice(-ROLLING);
    const spans = Object.fromEntries(
      SPANS.map((span) => [span, summarize(recent.map((s) => s.spans[span]))]),
    );
    return { total: summarize(recent.map((s) => s.total)), spans };
  }

  /** Return all kept samples as CSV, one row per controller state. */
  csv() {
    const rows = this.samples.map((s) => [
      s.sequence,
      s.frame,
      s.sampled,
      s.total,
      ...SPANS.map((span) => s.spans[span]),
    ]);
    const lines = rows.map((row) =>
      row.map((v) => (Number.isInteger(v) ? v : v.toFixed(3))).join(","),
    );
    return [
      ["sequence", "frame", "sampled_ms", "total_ms", ...SPANS.map((span) => `${span}_ms`)].join(
        ",",
      ),
      ...lines,
      "",
    ].join("\n");
  }
}

/**
 * Match frame headers (data channel) with shown frames (video track) by RTP timestamp. Either may
 * come first or be missing. Headers of frames that were never shown are dropped when a later frame
 * matches.
 */
export class FrameMatcher {
  #headers = new Map(); // rtp -> header
  #frames = new Map(); // rtp -> {received, shown}
  skipped = 0; // headers whose frame was never shown
  // without RTP timestamps from the browser, a shown frame is assumed to be the newest header's
  approximate = false;

  constructor(limit = 64) {
    this.limit = limit;
  }

  header(header) {
    if (header.rtp === null || header.rtp === undefined) return null;
    const rtp = header.rtp >>> 0;
    const frame = this.#frames.get(rtp);
    if (frame) {
      this.#frames.delete(rtp);
      return { header, ...frame };
    }
    this.#headers.set(rtp, header);
    this.#trim(this.#headers, true);
    return null;
  }

  frame(rtp, received, shown) {
    if (rtp === undefined || rtp === null) return this.#newest(received, shown);
    const key = rtp >>> 0;
    const header = this.#headers.get(key);
    if (!header) {
      this.#frames.set(key, { received, shown });
      this.#trim(this.#frames, false);
      return null;
    }
    this.#dropThrough(key);
    return { header, received, shown };
  }

  #newest(received, shown) {
    this.approximate = true;
    const last = [...this.#headers.keys()].at(-1);
    if (last === undefined) return null;
    const header = this.#headers.get(last);
    this.#dropThrough(last);
    return { header, received, shown };
  }

  #dropThrough(key) {
    for (const rtp of this.#headers.keys()) {
      this.#headers.delete(rtp);
      if (rtp === key) return;
      this.skipped += 1;
    }
  }

  #trim(map, counted) {
    while (map.size > this.limit) {
      map.delete(map.keys().next().value);
      if (counted) this.skipped += 1;
    }
  }

  reset() {
    this.#headers.clear();
    this.#frames.clear();
  }
}

/** Count events per second over the last two seconds. */
export class Rate {
  #times = [];

  constructor(span = 2000) {
    this.span = span;
  }

  add(now) {
    this.#times.push(now);
    this.#prune(now);
  }

  #prune(now) {
    while (this.#times.length > 0 && this.#times[0] < now - this.span) this.#times.shift();
  }

  perSecond(now) {
    this.#prune(now);
    if (this.#times.length < 2) return 0;
    return ((this.#times.length - 1) * 1000) / (now - this.#times[0] || 1);
  }
}
