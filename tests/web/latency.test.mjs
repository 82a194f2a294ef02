import assert from "node:assert/strict";
import { test } from "node:test";
import {
  ClockOffset,
  FrameMatcher,
  LatencyMeter,
  SPANS,
  spansOf,
  percentile,
  Rate,
  summarize,
} from "../../engine_plugins/js/latency.js";

const OFFSET = -123_456.75; // client time - server time
const header = (frame, inputSeq, inputTime, stamps = {}) => {
  const start = inputTime - OFFSET + 4; // the state travels for 4 ms
  return {
    frame,
    input_sequence: inputSeq,
    input_time: inputTime,
    t_input: start,
    t_controls: start + 30,
    t_tokens: start + 50,
    t_frame: start + 57,
    t_gateway: start + 58,
    t_encoded: start + 60,
    t_sent: start + 60.5,
    rtp: frame * 6000,
    dropped: 0,
    batch: 1,
    ...stamps,
  };
};
const sum = (spans) => SPANS.reduce((total, span) => total + spans[span], 0);
const near = (a, b, what = "") => assert.ok(Math.abs(a - b) < 1e-6, `${a} is not ${b} ${what}`);

test("the spans add up to the total, whatever the stamps", () => {
  let state = 12345;
  const random = (scale) => ((state = (state * 1103515245 + 12345) % 2 ** 31) / 2 ** 31) * scale;
  for (let i = 0; i < 500; i += 1) {
    const sampled = random(1e6);
    const inputTime = sampled + random(60);
    let t = inputTime - OFFSET + random(50) - 10;
    const stamps = {};
    for (const name of ["t_input", "t_controls", "t_tokens", "t_frame", "t_gateway", "t_encoded"])
      stamps[name] = t += random(40);
    const received = stamps.t_encoded + OFFSET + random(30);
    const shown = received + random(17);
    const spans = spansOf(header(i, i, inputTime, stamps), sampled, received, shown, OFFSET);
    near(sum(spans), shown - sampled);
  }
});

test("each span is what its name says", () => {
  const h = header(0, 5, 1000);
  const encodedHere = h.t_encoded + OFFSET;
  const spans = spansOf(h, 1000, encodedHere + 3, encodedHere + 10, OFFSET);
  const expected = {
    uplink: 4,
    wait: 30,
    tokens: 20,
    detokenize: 7,
    handover: 1,
    encode: 2,
    downlink: 3,
    show: 7,
  };
  for (const span of SPANS) near(spans[span], expected[span], span);
});

test("every state is answered by the first shown frame that is at least as new", () => {
  const meter = new LatencyMeter();
  for (let sequence = 0; sequence < 6; sequence += 1) meter.sent(sequence, 1000 + sequence * 16);
  const first = meter.shown(header(0, 2, 1032), 1100, 1105, OFFSET);
  assert.deepEqual(
    first.map((s) => s.sequence),
    [0, 1, 2],
  );
  assert.deepEqual(
    first.map((s) => s.total),
    [105, 89, 73],
  );
  for (const sample of first) near(sum(sample.spans), sample.total);
  near(first[0].spans.wait - first[2].spans.wait, 32, "an older state waited longer");
  assert.deepEqual(
    meter.shown(header(1, 2, 1032), 1150, 1160, OFFSET),
    [],
    "each is measured once",
  );
  assert.deepEqual(
    meter.shown(header(2, 5, 1080), 1200, 1205, OFFSET).map((s) => s.sequence),
    [3, 4, 5],
  );
});

test("nothing is measured before the clocks are matched, or twice", () => {
  const meter = new LatencyMeter();
  meter.sent(0, 0);
  assert.deepEqual(meter.shown(header(0, 0, 0), 90, 100, null), []);
  assert.deepEqual(meter.shown(header(1, 0, 0), 190, 200, OFFSET), []);
});

test("states of a hidden page are forgotten", () => {
  const meter = new LatencyMeter();
  meter.sent(0, 0);
  meter.forget();
  meter.sent(1, 60_000);
  assert.deepEqual(
    meter.shown(header(9, 1, 60_000), 60_090, 60_100, OFFSET).map((s) => s.sequence),
    [1],
  );
});

test("a frame that answers nothing is no measurement", () => {
  const meter = new LatencyMeter();
  meter.sent(0, 0);
  assert.deepEqual(meter.shown(header(0, -1, 0), 10, 20, OFFSET), []);
});

test("rolling percentiles and the CSV speak of the same samples", () => {
  const meter = new LatencyMeter();
  for (let sequence = 0; sequence < 100; sequence += 1) {
    meter.sent(sequence, sequence * 100);
    meter.shown(
      header(sequence, sequence, sequence * 100),
      sequence * 100 + 40,
      sequence * 100 + 50 + (sequence % 10),
      OFFSET,
    );
  }
  const { total, spans } = meter.rolling();
  assert.equal(total.count, 100);
  near(total.p50, 54.5);
  near(
    SPANS.reduce((mean, span) => mean + spans[span].mean, 0),
    total.mean,
    "means of spans add up as well",
  );
  const lines = meter.csv().trimEnd().split("\n");
  assert.equal(lines.length, 101);
  assert.equal(lines[0].split(",").length, 4 + SPANS.length);
  const row = lines[1].split(",").map(Number);
  assert.ok(Math.abs(row.slice(4).reduce((a, b) => a + b) - row[3]) < 0.01);
});

test("percentiles interpolate", () => {
  assert.equal(percentile([], 0.5), null);
  assert.equal(percentile([3], 0.95), 3);
  assert.equal(percentile([0, 10], 0.5), 5);
  assert.deepEqual(summarize([4, 1, 3, 2]), {
    p50: 2.5,
    p95: 3.8499999999999996,
    p99: 3.9699999999999998,
    mean: 2.5,
    max: 4,
    count: 4,
  });
});

test("the clock offset comes from the shortest round trip", () => {
  const clock = new ClockOffset(4);
  assert.equal(clock.offset, null);
  // True offset 1000. Delays up/down in ms; only the second exchange is symmetric and short.
  const exchange = (sent, up, down) => clock.pong(sent, sent + up + down, sent + up - 1000);
  exchange(0, 5, 45);
  exchange(500, 2, 2);
  exchange(1000, 90, 4);
  assert.equal(clock.offset, 1000);
  assert.equal(clock.minRtt, 4);
  assert.equal(clock.rtt, 94);
});

test("the clock offset follows drift: old samples leave the window", () => {
  const clock = new ClockOffset(4);
  clock.pong(0, 1, 0.5 - 1000);
  for (let i = 1; i <= 4; i += 1) clock.pong(i * 500, i * 500 + 6, i * 500 + 3 - 1010);
  assert.equal(clock.offset, 1010);
});

test("a pong from the future or garbage is ignored", () => {
  const clock = new ClockOffset();
  clock.pong(100, 50, 0);
  clock.pong(NaN, 50, 0);
  assert.equal(clock.offset, null);
});

test("headers and frames meet on the RTP timestamp, in either order", () => {
  const matcher = new FrameMatcher();
  assert.equal(matcher.header({ frame: 1, rtp: 6000 }), null);
  assert.deepEqual(matcher.frame(6000, 10, 20), {
    header: { frame: 1, rtp: 6000 },
    received: 10,
    shown: 20,
  });
  assert.equal(matcher.frame(12000, 30, 40), null);
  assert.deepEqual(matcher.header({ frame: 2, rtp: 12000 }), {
    header: { frame: 2, rtp: 12000 },
    received: 30,
    shown: 40,
  });
  assert.equal(matcher.skipped, 0);
});

test("headers without a frame are counted, and forgotten once a later one was shown", () => {
  const matcher = new FrameMatcher();
  for (const frame of [1, 2, 3]) matcher.header({ frame, rtp: frame });
  assert.equal(matcher.frame(3, 0, 0).header.frame, 3);
  assert.equal(matcher.skipped, 2);
  assert.equal(matcher.frame(2, 0, 0), null);
});

test("RTP timestamps wrap", () => {
  const matcher = new FrameMatcher();
  matcher.header({ frame: 1, rtp: 4294967295 });
  assert.equal(matcher.frame(-1, 0, 0).header.frame, 1);
});

test("without RTP timestamps the newest header is taken, and that is said", () => {
  const matcher = new FrameMatcher();
  matcher.header({ frame: 1, rtp: 1 });
  matcher.header({ frame: 2, rtp: 2 });
  assert.equal(matcher.frame(undefined, 0, 0).header.frame, 2);
  assert.equal(matcher.approximate, true);
});

test("the matcher does not grow without bound", () => {
  const matcher = new FrameMatcher(8);
  for (let rtp = 0; rtp < 1000; rtp += 1) matcher.header({ frame: rtp, rtp });
  assert.equal(matcher.skipped, 992);
  assert.equal(matcher.frame(0, 0, 0), null);
});

test("frames per second over a window", () => {
  const rate = new Rate(2000);
  assert.equal(rate.perSecond(0), 0);
  for (let t = 0; t <= 3000; t += 50) rate.add(t);
  near(rate.perSecond(3000), 20);
  assert.equal(rate.perSecond(60_000), 0);
});
