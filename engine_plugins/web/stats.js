// The profile of a session: the JSON of `worldbridge profile`, and more under "page".

import { SPANS } from "../js/latency.js";

const round = (value, digits = 3) =>
  value === null || value === undefined ? null : Number(value.toFixed(digits));
const rounded = (summary) =>
  Object.fromEntries(Object.entries(summary).map(([key, value]) => [key, round(value)]));

const transportName = (video, codec) =>
  video !== "webrtc"
    ? `websocket-${video}`
    : ["webrtc", codec?.toLowerCase()].filter(Boolean).join("-");

/** `displays`: {dropped, damaged} frames of the page's displays. */
export function profile(client, displays) {
  const { counts, clock, matcher, meter, rate, transport } = client;
  const now = client.now();
  const view = client.view();
  const { total, spans } = meter.rolling();
  const { world } = view;
  return {
    frames_per_second: round(rate.perSecond(now), 2),
    input_to_photon_ms: rounded(total),
    spans_ms: Object.fromEntries(SPANS.map((span) => [span, rounded(spans[span])])),
    dropped_frames: counts.dropped + displays.dropped,
    world: world?.name ?? null,
    seconds: round(counts.firstShown === null ? 0 : (now - counts.firstShown) / 1000, 1),
    transport: transportName(view.video, transport.codec),
    page: {
      state: view.state,
      session: view.session,
      server: view.server,
      theme: view.theme,
      seed: view.seed,
      world,
      frames: {
        received: counts.received,
        shown: counts.shown,
        dropped_server: counts.dropped,
        dropped_page: displays.dropped,
        damaged: displays.damaged,
        headers_without_frame: matcher.skipped,
        matched_by: matcher.approximate ? "order" : "rtp",
      },
      inputs: {
        sent: counts.sent,
        measured: counts.measured,
        held_back: transport.inputsSkipped,
        path: transport.inputPath,
      },
      clock: {
        offset_ms: round(clock.offset),
        rtt_ms: round(clock.rtt),
        min_rtt_ms: round(clock.minRtt),
      },
      fallback: view.fallback,
    },
  };
}
