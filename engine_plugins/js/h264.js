// H.264 that arrives in messages, decoded with WebCodecs. The gateway sends as many frames as were
// granted: two more than are on their way, so the network never holds a queue.

const AHEAD = 2; // frames beyond those that the round trip holds
const MAX_CREDIT = 8; // as the protocol has it

/** Whether this browser decodes H.264 frame by frame; WebCodecs needs a secure context. */
export const decodesH264 = () => typeof VideoDecoder !== "undefined";

/** Yield the offsets of the NAL units of an Annex B access unit. */
function* nalUnits(data) {
  for (let i = 0; i + 3 < data.length; i++)
    if (data[i] === 0 && data[i + 1] === 0 && data[i + 2] === 1) yield i + 3;
}

/** Return {key, codec}: whether a decoder can begin here, and the codec string of its SPS. */
export function describeAccessUnit(data) {
  let key = false;
  let codec = null;
  for (const at of nalUnits(data)) {
    const kind = data[at] & 31;
    if (kind === 5) key = true;
    if (kind === 7 && at + 3 < data.length)
      codec = `avc1.${[1, 2, 3].map((i) => data[at + i].toString(16).padStart(2, "0")).join("")}`;
    if (kind === 1 || kind === 5) break; // headers come first
  }
  return { key, codec };
}

/** Counts the frames that the gateway may send. */
export class CreditWindow {
  #size = 0;

  /** Return the credit to send for `done` frames, given the shortest round trip in ms. */
  grant(done, roundTrip, framePeriod) {
    const inFlight = Math.floor((roundTrip ?? 0) / framePeriod);
    const wanted = Math.min(MAX_CREDIT, AHEAD + inFlight);
    const more = Math.max(0, wanted - this.#size);
    this.#size += more;
    return done + more;
  }
}

/**
 * Decodes access units in order. Handlers: decoded(videoFrame, header, received), whoever gets the
 * videoFrame closes it; done(): the gateway may send one more frame; failed(reason).
 */
export class H264Decoder {
  #decoder = null;
  #waiting = [];
  #failed = false;

  constructor(handlers, create = (init) => new VideoDecoder(init)) {
    this.handlers = handlers;
    this.create = create;
  }

  push(header, data, received) {
    if (this.#failed) return;
    const { key, codec } = describeAccessUnit(data);
    try {
      if (codec !== null) this.#configure(codec);
      if (this.#decoder === null) return this.handlers.done(); // the key frame is still to come
      this.#waiting.push({ header, received });
      this.#decoder.decode(
        new EncodedVideoChunk({
          type: key ? "key" : "delta",
          timestamp: Math.round(header.t_frame * 1000),
          data,
        }),
      );
    } catch (error) {
      this.#fail(error.message);
    }
  }

  #configure(codec) {
    if (this.#decoder !== null && this.codec === codec) return;
    this.#decoder?.close();
    this.#waiting = [];
    this.codec = codec;
    this.#decoder = this.create({
      output: (videoFrame) => this.#output(videoFrame),
      error: (error) => this.#fail(error.message),
    });
    this.#decoder.configure({ codec, optimizeForLatency: true });
  }

  #output(videoFrame) {
    const { header, received } = this.#waiting.shift();
    this.handlers.done();
    this.handlers.decoded(videoFrame, header, received);
  }

  #fail(reason) {
    if (this.#failed) return;
    this.close();
    this.handlers.failed(`H.264 was not decoded: ${reason}`);
  }

  close() {
    this.#failed = true;
    if (this.#decoder !== null && this.#decoder.state !== "closed") this.#decoder.close();
    this.#decoder = null;
  }
}
