import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { decode, encode, float, MsgpackError } from "../../engine_plugins/js/msgpack.js";
import { fixtures } from "./fixtures.mjs";

const fixture = JSON.parse(readFileSync(new URL("msgpack_fixture.json", import.meta.url)));
const fromHex = (hex) => Uint8Array.from(hex.match(/../g) ?? [], (pair) => parseInt(pair, 16));
const toHex = (bytes) => Buffer.from(bytes).toString("hex");

/** The fixture writes floats and bytes as tagged objects; `leaf` says what a float becomes. */
function revive(value, leaf) {
  if (Array.isArray(value)) return value.map((item) => revive(item, leaf));
  if (value === null || typeof value !== "object") return value;
  if ("$float" in value) return leaf(Number(value.$float));
  if ("$bin" in value) return fromHex(value.$bin);
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, revive(item, leaf)]));
}

for (const { name, hex, value } of fixture.cases) {
  test(`reads what Python wrote: ${name}`, () =>
    assert.deepEqual(
      decode(fromHex(hex)),
      revive(value, (v) => v),
    ));
  test(`writes the same bytes as Python: ${name}`, () =>
    assert.equal(toHex(encode(revive(value, float))), hex));
}

test("long text, bytes and arrays use the 32-bit forms", () => {
  for (const value of ["x".repeat(70_000), new Uint8Array(70_000).fill(7), Array(70_000).fill(1)]) {
    const bytes = encode(value);
    assert.ok([0xdb, 0xc6, 0xdd].includes(bytes[0]));
    assert.deepEqual(decode(bytes), value);
  }
});

test("float32 can be read", () => assert.equal(decode(fromHex("ca3f000000")), 0.5));

test("a whole number wrapped in float() travels as float64", () =>
  assert.equal(encode(float(1))[0], 0xcb));

test("decodes inside a larger buffer", () => {
  const bytes = new Uint8Array([9, 9, ...encode({ a: 300 }), 9]);
  assert.deepEqual(decode(bytes.subarray(2, bytes.length - 1)), { a: 300 });
});

test("a __proto__ key stays a key", () => {
  const bytes = fromHex("81a95f5f70726f746f5f5f8101".slice(0, -4) + "01");
  assert.equal(Object.getPrototypeOf(decode(bytes)), Object.prototype);
  assert.ok(Object.hasOwn(decode(bytes), "__proto__"));
});

for (const [name, hex] of Object.entries({
  "nothing at all": "",
  "truncated text": "a5616263",
  "truncated map": "82a16101",
  "bytes after the value": "c0c0",
  "an extension type": "d40101",
  "a key that is no string": "8101c0",
  "the same key twice": "82a161c0a161c0",
  "broken UTF-8": "a2c328",
  "an integer beyond 2^53": "cf0020000000000001",
  "bottomless nesting": "91".repeat(40) + "c0",
  "a huge announced length": "ddffffffff",
})) {
  test(`refuses ${name}`, () => assert.throws(() => decode(fromHex(hex)), MsgpackError));
}

test("every truncation of a real message is refused, never a crash", () => {
  const [{ bytes }] = fixtures("valid", "server_welcome");
  for (let end = 0; end < bytes.length; end += 1)
    assert.throws(() => decode(bytes.subarray(0, end)), MsgpackError);
});
