// The connection to the gateway: a WebSocket for signalling, liveness and JPEG frames, and WebRTC
// with a video track and two data channels where the network allows it. It delivers decoded
// messages and knows nothing about sessions.

import { decode, encode, offer, ProtocolError } from "./protocol.js";
import { PeerConnection } from "./webrtc.js";

// bytes waiting in a socket above which input is dropped: late input is worthless
const MAX_BUFFERED = 16 * 1024;
const BROKEN = 1006; // close code of a connection that failed or ended without a close frame
const ASK_MS = 2000;

/** Return the WebSocket URL of the gateway that serves the page at `base`. */
export function sessionUrl(base) {
  const url = new URL("session", base);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.search = "";
  url.hash = "";
  return url.href;
}

/**
 * Talk to the gateway. Events go to `handlers`: opened(), closed(reason), message(message),
 * invalid(error), track(stream), videoFailed(reason).
 */
export class Transport {
  #socket = null;
  #peer = null;

  constructor(url, handlers) {
    this.url = url;
    this.handlers = handlers;
    this.inputsSkipped = 0; // controller states not sent because the network was behind
  }

  connect() {
    this.disconnect();
    const socket = new WebSocket(this.url);
    this.#socket = socket;
    socket.binaryType = "arraybuffer";
    let opened = false;
    socket.onopen = () => {
      opened = true;
      if (this.#socket === socket) this.handlers.opened();
    };
    socket.onmessage = ({ data }) => this.#socket === socket && this.#deliver(data);
    socket.onclose = (event) => {
      if (this.#socket !== socket) return;
      this.disconnect();
      if (opened || event.code !== BROKEN) this.handlers.closed(describeClose(event));
      else this.#closeRefused();
    };
  }

  /** Report why a socket did not open, unless another attempt began meanwhile. */
  async #closeRefused() {
    const reason = await whyRefused(this.url);
    if (this.#socket === null) this.handlers.closed(reason);
  }

  disconnect() {
    const socket = this.#socket;
    this.#socket = null;
    this.#peer?.close();
    this.#peer = null;
    if (socket && socket.readyState <= WebSocket.OPEN) socket.close(1000);
  }

  #deliver(data) {
    try {
      if (!(data instanceof ArrayBuffer))
        throw new ProtocolError("message", "a binary message", "text");
      this.handlers.message(decode(new Uint8Array(data)));
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.handlers.invalid(error);
    }
  }

  send(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(encode(message));
  }

  /** Whether a message is still being sent: prompt frames are large. */
  get sending() {
    return this.#socket !== null && this.#socket.bufferedAmount > 0;
  }

  /** Send input by the fastest open channel, or drop it. @returns {boolean} whether it was sent */
  sendInput(message) {
    const bytes = encode(message);
    const channel = this.#peer?.inputOpen ? this.#peer.input : this.#socket;
    const open = channel === this.#socket ? WebSocket.OPEN : "open";
    if (channel?.readyState !== open) return false;
    if (channel.bufferedAmount > MAX_BUFFERED) {
      this.inputsSkipped += 1;
      return false;
    }
    channel.send(bytes);
    return true;
  }

  sendReport(message) {
    if (this.#peer?.controlOpen) this.#peer.control.send(encode(message));
    else this.send(message);
  }

  /** Negotiate WebRTC, with the ICE servers of the welcome message. */
  negotiate(iceServers = []) {
    this.#peer?.close();
    const peer = new PeerConnection({
      offer: (sdp) => this.#peer === peer && this.send(offer(sdp)),
      message: (data) => this.#peer === peer && this.#deliver(data),
      track: (stream) => this.#peer === peer && this.handlers.track(stream),
      failed: (reason) => this.#peer === peer && this.handlers.videoFailed(reason),
    });
    this.#peer = peer;
    peer.open(iceServers);
  }

  answer(sdp) {
    this.#peer?.answer(sdp);
  }

  get inputPath() {
    return this.#peer?.inputOpen ? "datachannel" : "websocket";
  }

  get codec() {
    return this.#peer?.codec ?? null;
  }
}

/**
 * Ask the server why it refused a page's WebSocket: browsers do not say. A POST carries the same
 * Origin, and is answered with the reason.
 */
async function whyRefused(url) {
  try {
    const health = new URL("health", url.replace(/^ws/, "http"));
    const response = await fetch(health, { method: "POST", signal: AbortSignal.timeout(ASK_MS) });
    const { code, message, remedy } = response.status === 403 ? await response.json() : {};
    if (code === "forbidden_origin") return `${message}. ${remedy}`;
  } catch {
    // no server, no network, or a page that may not read the answer
  }
  return describeClose({ code: BROKEN });
}

function describeClose({ code, reason }) {
  if (reason) return reason;
  if (code === BROKEN) return "the connection broke";
  if (code === 1001) return "the server is going away";
  if (code === 1012) return "the server is restarting";
  return `the server closed the connection (code ${code})`;
}
