import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import * as library from "../../engine_plugins/js/index.js";

const read = (path) => readFileSync(new URL(`../../${path}`, import.meta.url), "utf8");
const { $defs: schema } = JSON.parse(read("docs/protocol.schema.json"));
const messages = read("engine_plugins/js/messages.d.ts");
const declarations = read("engine_plugins/js/index.d.ts");

const interfaces = [...messages.matchAll(/export interface (\w+) \{\n([^}]*)\}/g)].map(
  ([, name, body]) => ({ name, fields: [...body.matchAll(/^ {2}(\w+):/gm)].map(([, f]) => f) }),
);

test("every message of the server is declared", () => {
  const declared = new Set(interfaces.map(({ name }) => name));
  const names = JSON.stringify(schema.server).matchAll(/#\/\$defs\/(\w+)/g);
  for (const name of new Set([...names].map(([, name]) => name)))
    assert.ok(declared.has(name), name);
});

for (const { name, fields } of interfaces)
  test(`${name} is declared as the schema has it`, () =>
    assert.deepEqual([...fields].sort(), Object.keys(schema[name].properties).sort()));

test("every export of the library is declared, and nothing else", () => {
  const pattern = /^export (?:class|const|function|namespace) (\w+)/gm;
  const declared = [...declarations.matchAll(pattern)].map(([, name]) => name);
  assert.deepEqual(declared.sort(), Object.keys(library).sort());
});

for (const name of ["protocol", "msgpack"])
  test(`every export of ${name} is declared, and nothing else`, () => {
    const [, body] = new RegExp(`export namespace ${name} \\{\\n(.*?)^\\}`, "ms").exec(
      declarations,
    );
    const declared = [...body.matchAll(/^ {2}(?:class|const|function) (\w+)/gm)].map(([, n]) => n);
    assert.deepEqual(declared.sort(), Object.keys(library[name]).sort());
  });

for (const name of ["Client", "Controller", "Session", "Transport", "LatencyMeter"])
  test(`every public method of ${name} is declared`, () => {
    const [, body] = new RegExp(`export class ${name} \\{\\n(.*?)^\\}`, "ms").exec(declarations);
    const { constructor: _, ...methods } = Object.getOwnPropertyDescriptors(
      library[name].prototype,
    );
    for (const method of Object.keys(methods))
      assert.match(body, new RegExp(`^ {2}(readonly )?${method}[(:]`, "m"), method);
  });
