// The profile of a session as plain data, in the shape that `worldbridge profile` prints as JSON.

import { LEGS } from "./latency.js";

const round = (value, digits = 3) => (value === null || value === undefined ? null : Number(value.toFixed(digits)));
const rounded = (summary) => Object.fromEntries(Object.entries(summary).map(([key, value]) => [key, round(value)]));

export function profile({ view, meter, clock, rate, counts, transport, now }) {
  const { total, legs } = meter.rolling();
  const { spec } = view;
  return {
    schema: "worldbridge.profile/1",
    client: "web",
    state: view.state,
    session: view.session,
    server: view.server,
    world: spec && {
      name: spec.name, title: spec.title, kind: spec.kind, theme: view.theme, seed: view.seed,
      width: spec.width, height: spec.height, fps: spec.fps, frames_per_latent: spec.frames_per_latent,
    },
    transport: { video: view.video, codec: transport.codec, input: transport.inputPath, fallback: view.fallback },
    fps: round(rate.perSecond(now), 2),
    frames: counts.frames,
    inputs: counts.inputs,
    clock: { offset_ms: round(clock.offset), rtt_ms: round(clock.rtt), min_rtt_ms: round(clock.minRtt) },
    input_to_photon_ms: rounded(total),
    legs_ms: Object.fromEntries(LEGS.map((leg) => [leg, rounded(legs[leg])])),
  };
}
