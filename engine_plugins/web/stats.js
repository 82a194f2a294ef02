// The profile of a session: the JSON of `worldbridge profile`, and more under "page".

import { SPANS } from "../js/latency.js";

const round = (value, digits = 3) =>
  value === null || value === undefined ? null : Number(value.toFixed(digits));
const rounded = (summary) =>
  Object.fromEntries(Object.entries(summary).map(([key, value]) => [key, round(value)]));

const transportName = (video, codec) =>
  video === "jpeg" ? "websocket-jpeg" : ["webrtc", codec?.toLowerCase()].filter(Boolean).join("-");

/** `counts`: {frames, inputs}; `seconds`: since the first frame was shown */
export function profile({ view, meter, clock, rate, counts, transport, seconds, now }) {
  const { total, spans } = meter.rolling();
  const { spec } = view;
  return {
    frames_per_second: round(rate.perSecond(now), 2),
    input_to_photon_ms: rounded(total),
    legs_ms: Object.fromEntries(SPANS.map((span) => [span, rounded(spans[span])])),
    dropped_frames: counts.frames.dropped_server + counts.frames.dropped_page,
    world: spec?.name ?? null,
    seconds: round(seconds, 1),
    transport: transportName(view.video, transport.codec),
    page: {
      state: view.state,
      session: view.session,
      server: view.server,
      theme: view.theme,
      seed: view.seed,
      spec,
      frames: counts.frames,
      inputs: { ...counts.inputs, path: transport.inputPath },
      clock: {
        offset_ms: round(clock.offset),
        rtt_ms: round(clock.rtt),
        min_rtt_ms: round(clock.minRtt),
      },
      fallback: view.fallback,
    },
  };
}
