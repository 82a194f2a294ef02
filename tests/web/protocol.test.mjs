import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { encode as pack } from "../../engine_plugins/js/msgpack.js";
import { decode, ProtocolError } from "../../engine_plugins/js/protocol.js";
import { sameTheme } from "../../engine_plugins/js/session.js";
import { describeTheme, describeThemes, THEMES } from "../../engine_plugins/web/themes.js";

const fixture = JSON.parse(readFileSync(new URL("msgpack_fixture.json", import.meta.url)));
const bytesOf = (name) =>
  Uint8Array.from(Buffer.from(fixture.cases.find((c) => c.name === name).hex, "hex"));

test("reads the messages that Python packed", () => {
  assert.equal(decode(bytesOf("welcome message")).spec.width, 512);
  assert.deepEqual([...decode(bytesOf("frame message")).jpeg], [0xff, 0xd8, 0xff, 0xd9]);
  assert.equal(decode(bytesOf("frame header only")).header.rtp, 4294967295);
  assert.equal(decode(bytesOf("error message")).code, "no_free_seat");
});

const refused = {
  "no map": [[1, 2], "message"],
  "no type": [{ a: 1 }, "message.type"],
  "an unknown type": [{ type: "toString" }, "message.type"],
  "a status of no kind": [
    { type: "status", state: "dancing", detail: "", progress: null },
    "status.state",
  ],
  "a progress that is text": [
    { type: "status", state: "loading", detail: "", progress: "half" },
    "status.progress",
  ],
  "a pong without time": [{ type: "pong", server_time: 1 }, "pong.time"],
  "a time that is not finite": [{ type: "pong", time: Infinity, server_time: 1 }, "pong.time"],
  "a frame without a header": [{ type: "frame", jpeg: null }, "frame.header"],
  "themes that are numbers": [
    {
      ...decode(bytesOf("welcome message")),
      spec: { ...decode(bytesOf("welcome message")).spec, themes: [1] },
    },
    "welcome.spec.themes[0]",
  ],
};
for (const [name, [message, path]] of Object.entries(refused)) {
  test(`refuses ${name} and says where`, () => {
    assert.throws(
      () => decode(pack(message)),
      (error) => error instanceof ProtocolError && error.path === path,
    );
  });
}

test("refuses bytes that are no MessagePack", () =>
  assert.throws(() => decode(new Uint8Array([0xc1])), ProtocolError));

test("themes are recognised under their usual names", () => {
  assert.ok(sameTheme("amusement_park", "Amusement park") && sameTheme("park", "amusement-park"));
  assert.ok(!sameTheme("zoo", "city"));
  assert.deepEqual(
    describeThemes([]).map((t) => t.id),
    THEMES.map((t) => t.id),
  );
});

test("a theme without artwork still gets a name and an image", () => {
  const theme = describeTheme("deep_forest");
  assert.deepEqual([theme.id, theme.title, theme.key], ["deep_forest", "Deep forest", "other"]);
  assert.ok(theme.art.endsWith(".svg"));
});
