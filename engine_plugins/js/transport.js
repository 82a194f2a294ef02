// The connection to the gateway: a WebSocket for signalling, liveness and JPEG frames, and WebRTC
// with a video track and two data channels where the network allows it. It delivers decoded
// messages and knows nothing about sessions.

import { decode, encode, offer, ProtocolError } from "./protocol.js";
import { PeerConnection } from "./webrtc.js";

// bytes waiting in a socket above which input is dropped: late input is worthless
const MAX_BUFFERED = 16 * 1024;

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

function describeClose({ code, reason }) {
  if (reason) return reason;
  if (code === 1006) return "the connection broke";
  if (code === 1001) return "the server is going away";
  if (code === 1012) return "the server is restarting";
  return `the server closed the connection (code ${code})`;
}
