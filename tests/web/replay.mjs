// Play to the last frame and print the hash of every image: node replay.mjs URL LAST
// See tests/support/client_server.py.

import { Client, TICK_MS } from "../../engine_plugins/js/index.js";

const [url, last] = process.argv.slice(2);
const shown = [];

function fnv1a(bytes) {
  let hash = 0x811c9dc5;
  for (const byte of bytes) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  return hash;
}

const client = new Client(
  url,
  {
    changed: () => {
      if (client.state === "error") finish();
    },
    frame: ({ header, image }, received) => {
      shown.push(fnv1a(image));
      client.imageShown(header, received, performance.now());
      if (header.frame === Number(last)) finish();
    },
  },
  { video: "jpeg", client: "node" },
);

function finish() {
  const { error } = client.view();
  console.log(JSON.stringify(error ? { shown, error } : { shown }));
  clearInterval(timer);
  client.leave();
  setTimeout(() => process.exit(0), 200); // the farewell is still being sent
}

client.play({ theme: null, seed: null });
const timer = setInterval(() => client.tick(), TICK_MS);
