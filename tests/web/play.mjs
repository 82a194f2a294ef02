// Play without a browser and print what came, for tests/e2e: node play.mjs URL COUNT

import { Client, sessionUrl, TICK_MS } from "../../engine_plugins/js/index.js";

const [url, count] = process.argv.slice(2);
const frames = [];
let timer = null;

const client = new Client(
  sessionUrl(url),
  {
    changed: () => {
      if (client.state === "error") finish(1);
    },
    frame: ({ header, image }, received) => {
      frames.push({ frame: header.frame, answers: header.input_sequence, bytes: image.length });
      client.imageShown(header, received, performance.now());
      if (frames.length === Number(count)) finish(0);
    },
  },
  { video: "jpeg", client: "node" },
);

function finish(code) {
  const { theme, seed, world, error } = client.view();
  const { total } = client.meter.rolling();
  console.log(JSON.stringify({ frames, theme, seed, world: world?.name, error, latency: total }));
  clearInterval(timer);
  client.leave();
  setTimeout(() => process.exit(code), 100); // the farewell is still being sent
}

client.play({ theme: "zoo", seed: 3 });
client.controller.press("KeyW", performance.now());
timer = setInterval(() => client.tick(), TICK_MS);
