// Where the time between a sampled control and the picture that answers it goes. No clock and no
// DOM in here: every function takes client milliseconds (`performance.now()`) as an argument.

/** In the order in which time passes. Together they are exactly shown - sampled. */
export const LEGS = [
  "uplink",
  "wait",
  "tokens",
  "pixels",
  "handover",
  "encode",
  "downlink",
  "show",
];

export const LEG_TEXT = {
  uplink: "control sampled → gateway has it",
  wait: "gateway has it → the step that uses it starts",
  tokens: "step starts → tokens decoded",
  pixels: "tokens decoded → picture ready",
  handover: "worker → gateway",
  encode: "picture → compressed",
  downlink: "compressed → here (with the wait to be sent)",
  show: "here → on screen",
};

const ROLLING = 600; // snapshots in the rolling percentiles: ten seconds at 60 Hz
const HISTORY = 6000; // snapshots kept for the CSV
const MAX_PENDING = 1024;

/** Linear interpolation between the closest ranks; null for no values. */
export function percentile(sorted, p) {
  if (sorted.length === 0) return null;
  const rank = (sorted.length - 1) * p;
  const low = Math.floor(rank);
  const high = Math.min(low + 1, sorted.length - 1);
  return sorted[low] + (sorted[high] - sorted[low]) * (rank - low);
}

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
 * Offset between the two clocks, from the round trip that took least time among the last `window`
 * ones: queueing only ever adds to a round trip, so the shortest is the most symmetric. Its error
 * is at most half of that round trip.
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

  /** client time - server time, or null before the first pong */
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

/** The server's stamps of one frame as legs of one snapshot that this frame answers. */
export function legsOf(header, sampled, received, shown, offset) {
  // A snapshot that a newer one replaced before the step has no arrival stamp of its own. It
  // travelled like the newer one, so it is given the same uplink, and the rest of its time up to
  // the step counts as waiting.
  const uplink = header.t_input + offset - header.input_time;
  return {
    uplink,
    wait: header.t_latch + offset - (sampled + uplink),
    tokens: header.t_tokens - header.t_latch,
    pixels: header.t_pixels - header.t_tokens,
    handover: header.t_gateway - header.t_pixels,
    encode: header.t_encoded - header.t_gateway,
    downlink: received - (header.t_encoded + offset),
    show: shown - received,
  };
}

/**
 * Input-to-photon of every snapshot: the first shown frame whose `input_seq` is at least the
 * snapshot's.
 */
export class LatencyMeter {
  #pending = []; // {seq, time}, oldest first
  samples = []; // {seq, sampled, frame, total, legs}

  sent(seq, time) {
    this.#pending.push({ seq, time });
    if (this.#pending.length > MAX_PENDING) this.#pending.shift();
  }

  /** @returns the samples this frame completed (several when it answers several snapshots) */
  shown(header, received, shown, offset) {
    const answered = [];
    while (this.#pending.length > 0 && this.#pending[0].seq <= header.input_seq)
      answered.push(this.#pending.shift());
    if (offset === null) return [];
    const fresh = answered.map(({ seq, time }) => ({
      seq,
      sampled: time,
      frame: header.frame,
      total: shown - time,
      legs: legsOf(header, time, received, shown, offset),
    }));
    this.samples.push(...fresh);
    if (this.samples.length > HISTORY) this.samples.splice(0, this.samples.length - HISTORY);
    return fresh;
  }

  /**
   * Forgets unanswered snapshots: a hidden page shows nothing and a lost connection answers
   * nothing.
   */
  forget() {
    this.#pending = [];
  }

  rolling() {
    const recent = this.samples.slice(-ROLLING);
    const legs = Object.fromEntries(
      LEGS.map((leg) => [leg, summarize(recent.map((s) => s.legs[leg]))]),
    );
    return { total: summarize(recent.map((s) => s.total)), legs };
  }

  csv() {
    const rows = this.samples.map((s) => [
      s.seq,
      s.frame,
      s.sampled,
      s.total,
      ...LEGS.map((leg) => s.legs[leg]),
    ]);
    const lines = rows.map((row) =>
      row.map((v) => (Number.isInteger(v) ? v : v.toFixed(3))).join(","),
    );
    return [
      ["seq", "frame", "sampled_ms", "total_ms", ...LEGS.map((leg) => `${leg}_ms`)].join(","),
      ...lines,
      "",
    ].join("\n");
  }
}

/**
 * Joins frame headers (data channel) and shown pictures (video track) on the RTP timestamp. Either
 * may come first, and either may be missing: headers of frames that were never shown are dropped
 * when a later one matches.
 */
export class FrameMatcher {
  #headers = new Map(); // rtp -> header
  #pictures = new Map(); // rtp -> {received, shown}
  skipped = 0; // headers whose picture was never shown
  // the browser gave no RTP timestamp, so pictures are taken to be the newest header
  approximate = false;

  constructor(limit = 64) {
    this.limit = limit;
  }

  header(header) {
    if (header.rtp === null || header.rtp === undefined) return null;
    const rtp = header.rtp >>> 0;
    const picture = this.#pictures.get(rtp);
    if (picture) {
      this.#pictures.delete(rtp);
      return { header, ...picture };
    }
    this.#headers.set(rtp, header);
    this.#trim(this.#headers, true);
    return null;
  }

  picture(rtp, received, shown) {
    if (rtp === undefined || rtp === null) return this.#newest(received, shown);
    const key = rtp >>> 0;
    const header = this.#headers.get(key);
    if (!header) {
      this.#pictures.set(key, { received, shown });
      this.#trim(this.#pictures, false);
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
    this.#pictures.clear();
  }
}

/** Events per second over the last two seconds. */
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
