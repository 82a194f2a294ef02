import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";

const CLIENTS = new URL("../../engine_plugins/", import.meta.url);
const modules = ["js/", "web/"].flatMap((folder) =>
  readdirSync(new URL(folder, CLIENTS))
    .filter((name) => name.endsWith(".js"))
    .map((name) => new URL(folder + name, CLIENTS)),
);
const IMPORT = /^(?:import|export) \{([^}]*)\} from "([^"]+)"/gms;

/** Names and module of each import in a source text. */
const importsOf = (text) =>
  [...text.matchAll(IMPORT)].map(([, names, from]) => ({
    from,
    names: names
      .split(",")
      .map((name) => name.trim().split(" as ")[0])
      .filter(Boolean),
  }));

for (const url of modules) {
  const path = url.href.slice(CLIENTS.href.length);
  test(`${path} imports what exists`, () => {
    for (const { from, names } of importsOf(readFileSync(url, "utf8"))) {
      const text = readFileSync(new URL(from, url), "utf8");
      for (const name of names)
        assert.match(text, new RegExp(`export (async )?(const|function|class) ${name}\\b`), from);
    }
  });
}

test("the client library needs neither DOM nor the page", () => {
  for (const url of modules.filter(({ href }) => href.includes("/js/"))) {
    const text = readFileSync(url, "utf8");
    assert.doesNotMatch(text, /\b(document|window)\.|from "\.\.\//, url.href);
  }
});

test("the library can be loaded outside of a browser", async () => {
  const library = await import("../../engine_plugins/js/index.js");
  for (const name of ["Session", "Transport", "Controller", "LatencyMeter", "protocol"])
    assert.ok(name in library, name);
});
