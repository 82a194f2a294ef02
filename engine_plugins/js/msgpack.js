// MessagePack as the protocol uses it: nil, bool, integers, floats, str, bin, array, and map with
// string keys. Extension types, duplicate keys, trailing bytes and deep nesting are errors.

const MAX_DEPTH = 16;
const SHORT = 31; // up to here ASCII text is faster without TextEncoder and TextDecoder
const ASCII = /^[\x00-\x7f]*$/;
const utf8Encoder = new TextEncoder();
const utf8Decoder = new TextDecoder("utf-8", { fatal: true });

export class MsgpackError extends Error {
  constructor(expected, got, offset = null) {
    super(`expected ${expected}, got ${got}${offset === null ? "" : ` at byte ${offset}`}`);
    this.name = "MsgpackError";
    this.expected = expected;
    this.got = got;
  }
}

/** A number that is encoded as float64 even when it is whole: JavaScript has one number type. */
export class Float {
  constructor(value) {
    this.value = value;
  }
}

export const float = (value) => new Float(value);

class Writer {
  constructor() {
    this.bytes = new Uint8Array(512);
    this.view = new DataView(this.bytes.buffer);
    this.length = 0;
  }

  reserve(count) {
    const at = this.length;
    this.length += count;
    if (this.length > this.bytes.length) {
      const grown = new Uint8Array(Math.max(this.length, this.bytes.length * 2));
      grown.set(this.bytes);
      this.bytes = grown;
      this.view = new DataView(grown.buffer);
    }
    return at;
  }

  // Reserve before reading `this.view`: growing replaces it.
  put(method, width, value) {
    const at = this.reserve(width);
    this.view[method](at, value);
  }

  u8(value) {
    this.put("setUint8", 1, value);
  }

  u16(value) {
    this.put("setUint16", 2, value);
  }

  u32(value) {
    this.put("setUint32", 4, value);
  }

  float64(value) {
    this.u8(0xcb);
    this.put("setFloat64", 8, value);
  }

  raw(bytes) {
    const at = this.reserve(bytes.length);
    this.bytes.set(bytes, at);
  }

  integer(value) {
    if (value >= 0) {
      if (value < 0x80) this.u8(value);
      else if (value <= 0xff) (this.u8(0xcc), this.u8(value));
      else if (value <= 0xffff) (this.u8(0xcd), this.u16(value));
      else if (value <= 0xffffffff) (this.u8(0xce), this.u32(value));
      else (this.u8(0xcf), this.put("setBigUint64", 8, BigInt(value)));
    } else if (value >= -0x20) this.u8(value & 0xff);
    else if (value >= -0x80) (this.u8(0xd0), this.u8(value & 0xff));
    else if (value >= -0x8000) (this.u8(0xd1), this.u16(value & 0xffff));
    else if (value >= -0x80000000) (this.u8(0xd2), this.u32(value >>> 0));
    else (this.u8(0xd3), this.put("setBigInt64", 8, BigInt(value)));
  }

  /** Write a length: `short` is [base, limit] of the one-byte form, codes have 8, 16, 32 bits. */
  header(length, short, [code8, code16, code32]) {
    if (short !== null && length < short[1]) this.u8(short[0] | length);
    else if (code8 !== null && length <= 0xff) (this.u8(code8), this.u8(length));
    else if (length <= 0xffff) (this.u8(code16), this.u16(length));
    else (this.u8(code32), this.u32(length));
  }

  value(value, depth) {
    if (depth > MAX_DEPTH) throw new MsgpackError(`nesting up to ${MAX_DEPTH}`, "deeper nesting");
    if (value === null || value === undefined) this.u8(0xc0);
    else if (value === true) this.u8(0xc3);
    else if (value === false) this.u8(0xc2);
    else if (typeof value === "number")
      Number.isSafeInteger(value) ? this.integer(value) : this.float64(value);
    else if (value instanceof Float) this.float64(value.value);
    else if (typeof value === "string") this.string(value);
    else if (value instanceof Uint8Array)
      (this.header(value.length, null, [0xc4, 0xc5, 0xc6]), this.raw(value));
    else if (Array.isArray(value)) {
      this.header(value.length, [0x90, 16], [null, 0xdc, 0xdd]);
      for (const item of value) this.value(item, depth + 1);
    } else if (typeof value === "object") this.map(value, depth);
    else
      throw new MsgpackError(
        "null, boolean, number, string, Uint8Array, array or object",
        typeof value,
      );
  }

  string(text) {
    if (text.length <= SHORT && ASCII.test(text)) {
      const at = this.reserve(text.length + 1);
      this.bytes[at] = 0xa0 | text.length;
      for (let i = 0; i < text.length; i += 1) this.bytes[at + 1 + i] = text.charCodeAt(i);
      return;
    }
    const bytes = utf8Encoder.encode(text);
    this.header(bytes.length, [0xa0, 32], [0xd9, 0xda, 0xdb]);
    this.raw(bytes);
  }

  map(object, depth) {
    const entries = Object.entries(object);
    this.header(entries.length, [0x80, 16], [null, 0xde, 0xdf]);
    for (const [key, item] of entries) {
      this.string(key);
      this.value(item, depth + 1);
    }
  }
}

/** Encode one value. @returns {Uint8Array} */
export function encode(value) {
  const writer = new Writer();
  writer.value(value, 0);
  return writer.bytes.slice(0, writer.length);
}

/** Add a key whose plain assignment would change the prototype instead. */
const define = (object, key, value) =>
  Object.defineProperty(object, key, {
    value,
    enumerable: true,
    writable: true,
    configurable: true,
  });

class Reader {
  constructor(bytes) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.at = 0;
  }

  take(count) {
    const at = this.at;
    if (at + count > this.bytes.length) {
      throw new MsgpackError(`${count} more bytes`, `${this.bytes.length - at}`, at);
    }
    this.at += count;
    return at;
  }

  length(width) {
    if (width === 1) return this.view.getUint8(this.take(1));
    if (width === 2) return this.view.getUint16(this.take(2));
    return this.view.getUint32(this.take(4));
  }

  safe(big) {
    const value = Number(big);
    if (!Number.isSafeInteger(value))
      throw new MsgpackError("an integer within 2^53", `${big}`, this.at);
    return value;
  }

  text(length) {
    const at = this.take(length);
    if (length <= SHORT) {
      let [text, i] = ["", at];
      for (; i < at + length && this.bytes[i] < 0x80; i += 1)
        text += String.fromCharCode(this.bytes[i]);
      if (i === at + length) return text;
    }
    try {
      return utf8Decoder.decode(this.bytes.subarray(at, at + length));
    } catch {
      throw new MsgpackError("valid UTF-8", "broken text", at);
    }
  }

  binary(length) {
    const at = this.take(length);
    return this.bytes.subarray(at, at + length);
  }

  array(length, depth) {
    const items = [];
    for (let i = 0; i < length; i += 1) items.push(this.value(depth + 1));
    return items;
  }

  map(length, depth) {
    const entries = {};
    for (let i = 0; i < length; i += 1) {
      const at = this.at;
      const key = this.value(depth + 1);
      if (typeof key !== "string") throw new MsgpackError("a string key", typeof key, at);
      if (Object.hasOwn(entries, key))
        throw new MsgpackError("distinct keys", `"${key}" twice`, at);
      const value = this.value(depth + 1);
      if (key !== "__proto__") entries[key] = value;
      else define(entries, key, value);
    }
    return entries;
  }

  value(depth) {
    if (depth > MAX_DEPTH)
      throw new MsgpackError(`nesting up to ${MAX_DEPTH}`, "deeper nesting", this.at);
    const code = this.view.getUint8(this.take(1));
    if (code < 0x80) return code;
    if (code < 0x90) return this.map(code & 0x0f, depth);
    if (code < 0xa0) return this.array(code & 0x0f, depth);
    if (code < 0xc0) return this.text(code & 0x1f);
    if (code >= 0xe0) return code - 0x100;
    switch (code) {
      case 0xc0:
        return null;
      case 0xc2:
        return false;
      case 0xc3:
        return true;
      case 0xc4:
        return this.binary(this.length(1));
      case 0xc5:
        return this.binary(this.length(2));
      case 0xc6:
        return this.binary(this.length(4));
      case 0xca:
        return this.view.getFloat32(this.take(4));
      case 0xcb:
        return this.view.getFloat64(this.take(8));
      case 0xcc:
        return this.length(1);
      case 0xcd:
        return this.length(2);
      case 0xce:
        return this.length(4);
      case 0xcf:
        return this.safe(this.view.getBigUint64(this.take(8)));
      case 0xd0:
        return this.view.getInt8(this.take(1));
      case 0xd1:
        return this.view.getInt16(this.take(2));
      case 0xd2:
        return this.view.getInt32(this.take(4));
      case 0xd3:
        return this.safe(this.view.getBigInt64(this.take(8)));
      case 0xd9:
        return this.text(this.length(1));
      case 0xda:
        return this.text(this.length(2));
      case 0xdb:
        return this.text(this.length(4));
      case 0xdc:
        return this.array(this.length(2), depth);
      case 0xdd:
        return this.array(this.length(4), depth);
      case 0xde:
        return this.map(this.length(2), depth);
      case 0xdf:
        return this.map(this.length(4), depth);
      default:
        throw new MsgpackError(
          "nil, bool, int, float, str, bin, array or map",
          `code 0x${code.toString(16)}`,
          this.at - 1,
        );
    }
  }
}

/**
 * Decode exactly one value. Binary parts are views into `bytes`.
 * @throws {MsgpackError}
 */
export function decode(bytes) {
  const reader = new Reader(bytes);
  const value = reader.value(0);
  if (reader.at !== bytes.length) {
    throw new MsgpackError("one value", `${bytes.length - reader.at} bytes after it`, reader.at);
  }
  return value;
}
