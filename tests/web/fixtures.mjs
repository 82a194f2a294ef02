// The messages in engine_plugins/fixtures, which the tests of every client read.

import { readdirSync, readFileSync } from "node:fs";

const FOLDER = new URL("../../engine_plugins/fixtures/", import.meta.url);

const read = (path) => readFileSync(new URL(path, FOLDER));

export const readJson = (path) => JSON.parse(read(path));

/** Bytes are written as {"hex": "..."}. */
function revive(value) {
  if (Array.isArray(value)) return value.map(revive);
  if (value === null || typeof value !== "object") return value;
  if (Object.keys(value).join() === "hex") return Uint8Array.from(Buffer.from(value.hex, "hex"));
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, revive(item)]));
}

/** Return {name, bytes, ...facts} of all "valid" or "invalid" messages that start with `prefix`. */
export const fixtures = (folder, prefix = "") =>
  readdirSync(new URL(`${folder}/`, FOLDER))
    .filter((file) => file.startsWith(prefix) && file.endsWith(".json"))
    .map((file) => file.slice(0, -5))
    .map((name) => ({
      name,
      bytes: new Uint8Array(read(`${folder}/${name}.msgpack`)),
      ...revive(readJson(`${folder}/${name}.json`)),
    }));

/** Return the decoded JSON of one valid message, with some fields changed. */
export const example = (name, changes = {}) => ({
  ...fixtures("valid", name).find((fixture) => fixture.name === name).message,
  ...changes,
});
