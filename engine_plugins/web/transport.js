// The two ways to the gateway: a WebSocket that is always there (signalling, liveness, JPEG
// pictures) and, where it gets through, WebRTC with a video track and two data channels. Delivers
// decoded messages; knows nothing about sessions.

import { decode, encode, offer, ProtocolError } from "./protocol.js";
import { PeerLink } from "./peer.js";

// bytes waiting in a socket: more means the network is behind, and old input is worthless
const MAX_BUFFERED = 16 * 1024;

export function sessionUrl(base) {
  const url = new URL("session", base);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.search = "";
  url.hash = "";
  return url.href;
}

/**
 * Calls `handlers`: opened(), closed(reason), message(message), garbled(error), track(stream),
 * videoFailed(reason).
 */
export class Transport {
  #socket = null;
  #peer = null;

  constructor(url, handlers) {
    this.url = url;
    this.handlers = handlers;
    this.inputSkipped = 0; // snapshots not sent because the network was behind
  }

  connect() {
    this.disconnect();
    const socket = new WebSocket(this.url);
    this.#socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => this.#socket === socket && this.handlers.opened();
    socket.onmessage = ({ data }) => this.#socket === socket && this.#deliver(data);
    socket.onclose = (event) => {
      if (this.#socket !== socket) return;
      this.disconnect();
      this.handlers.closed(describeClose(event));
    };
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
      this.handlers.garbled(error);
    }
  }

  send(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(encode(message));
  }

  /** Whether the last message, say a hello with pictures, is still on its way out. */
  get sending() {
    return this.#socket !== null && this.#socket.bufferedAmount > 0;
  }

  /** Newest controls by the fastest way there is. Never queued behind older ones. */
  sendInput(message) {
    const bytes = encode(message);
    const way = this.#peer?.inputOpen ? this.#peer.input : this.#socket;
    if (way === null || way.readyState !== (way === this.#socket ? WebSocket.OPEN : "open"))
      return false;
    if (way.bufferedAmount > MAX_BUFFERED) {
      this.inputSkipped += 1;
      return false;
    }
    way.send(bytes);
    return true;
  }

  sendReport(message) {
    if (this.#peer?.controlOpen) this.#peer.control.send(encode(message));
    else this.send(message);
  }

  negotiate() {
    this.#peer?.close();
    const peer = new PeerLink({
      offer: (sdp) => this.#peer === peer && this.send(offer(sdp)),
      message: (data) => this.#peer === peer && this.#deliver(data),
      track: (stream) => this.#peer === peer && this.handlers.track(stream),
      failed: (reason) => this.#peer === peer && this.handlers.videoFailed(reason),
    });
    this.#peer = peer;
    peer.open();
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

function describeClose({ code, reason }) {
  if (reason) return reason;
  if (code === 1006) return "the connection broke";
  if (code === 1001) return "the server is going away";
  if (code === 1012) return "the server is restarting";
  return `the server closed the connection (code ${code})`;
}
