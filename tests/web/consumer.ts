// A program in TypeScript that uses the npm package; tests/e2e/test_three.py compiles it.

import {
  Client,
  type FrameHeader,
  Gamepads,
  type Pose,
  protocol,
  type SceneView,
  type SessionState,
  sessionUrl,
  TICK_MS,
} from "@worldbridge/client";

const seen: FrameHeader[] = [];
const client = new Client(
  sessionUrl(new URL("http://127.0.0.1:8080/")),
  {
    changed() {
      const state: SessionState = client.state;
      const { error, world } = client.view();
      if (state === "error" && error) console.error(error.code, error.message, error.remedy);
      else console.log(world?.conditionings.includes("observations"), world?.fps);
    },
    frame({ header, image, depth, depth_scale: scale }, received) {
      const bytes: Uint8Array = image;
      const metres = depth && scale ? scale * (depth[0] + 256 * depth[1]) : null;
      console.log(bytes.length, metres);
      seen.push(header);
      client.imageShown(header, received, performance.now());
    },
  },
  { video: "jpeg", depth: true, wait: false },
);
client.play({ theme: "city", seed: 7 });

const { axes, buttons } = new Gamepads().poll();
if (client.controller.setPad("gamepad", axes, buttons)) client.inputChanged();

const camera: Pose = { position: [0, 1.6, 0], orientation: [0, 0, 0, 1], fov_y: 50 };
client.controller.camera = camera;
const pixels = { width: 1, height: 1, rgb: new Uint8Array(3), depth: new Uint8Array(2) };
const view: SceneView = { camera, ...pixels, depthScale: 0.002 };
client.observe(view);
console.log(protocol.encode(protocol.observe(view)).length, TICK_MS);

// @ts-expect-error: a key has a name
client.controller.press(65, performance.now());
// @ts-expect-error: a pose needs an orientation
client.controller.camera = { position: [0, 1.6, 0], fov_y: 50 };
// @ts-expect-error: video never comes as PNG files
new Client("ws://127.0.0.1:8080/session", {}, { video: "png" });
