// One WebRTC connection: a video track, an input channel (unordered and never retransmitted, since
// every message repeats the last states) and a reliable control channel. The gateway disables the
// jitter buffer with the playout-delay extension; setting `jitterBufferTarget` as well makes
// Chromium slower.

const CONNECT_MS = 4000;
const GATHER_MS = 800;
const PREFERRED = ["video/H264", "video/VP8"]; // cheapest to encode first

export class PeerConnection {
  #pc = null;
  #timer = null;
  #failed = false;

  /** `handlers`: offer(sdp), message(arrayBuffer), track(stream), failed(reason) */
  constructor(handlers) {
    this.handlers = handlers;
    this.input = null;
    this.control = null;
    this.codec = null;
  }

  get inputOpen() {
    return this.input?.readyState === "open";
  }

  get controlOpen() {
    return this.control?.readyState === "open";
  }

  /** Connect. `iceServers` as in the welcome message. */
  async open(iceServers = []) {
    if (typeof RTCPeerConnection === "undefined") return this.#fail("this browser has no WebRTC");
    this.#timer = setTimeout(() => this.#fail("no connection within 4 s"), CONNECT_MS);
    const pc = new RTCPeerConnection({
      iceServers: iceServers.map(withoutNull),
      bundlePolicy: "max-bundle",
    });
    this.#pc = pc;
    preferCodecs(pc.addTransceiver("video", { direction: "recvonly" }));
    this.input = pc.createDataChannel("input", { ordered: false, maxRetransmits: 0 });
    this.control = pc.createDataChannel("control");
    this.control.binaryType = "arraybuffer";
    this.control.onmessage = ({ data }) => this.handlers.message(data);
    this.input.onopen = this.control.onopen = () => this.#settle();
    pc.ontrack = ({ streams, track }) =>
      this.handlers.track(streams[0] ?? new MediaStream([track]));
    pc.onconnectionstatechange = () => this.#settle();
    try {
      await pc.setLocalDescription(await pc.createOffer());
      await gathered(pc);
      if (this.#pc === pc) this.handlers.offer(pc.localDescription.sdp);
    } catch (error) {
      this.#fail(error.message);
    }
  }

  async answer(sdp) {
    try {
      await this.#pc?.setRemoteDescription({ type: "answer", sdp });
      this.codec = /a=rtpmap:\d+ (H264|VP8|VP9|AV1)\//.exec(sdp)?.[1] ?? null;
    } catch (error) {
      this.#fail(error.message);
    }
  }

  #settle() {
    const state = this.#pc?.connectionState;
    if (state === "failed" || state === "closed") this.#fail(`the connection ${state}`);
    if (state === "connected" && this.inputOpen && this.controlOpen) clearTimeout(this.#timer);
  }

  #fail(reason) {
    if (this.#failed) return;
    this.#failed = true;
    clearTimeout(this.#timer);
    this.handlers.failed(reason);
  }

  close() {
    this.#failed = true;
    clearTimeout(this.#timer);
    this.#pc?.close();
    this.#pc = null;
  }
}

/** Drop absent fields: RTCIceServer does not take null. */
const withoutNull = (server) =>
  Object.fromEntries(Object.entries(server).filter(([, value]) => value !== null));

function preferCodecs(transceiver) {
  const all = RTCRtpReceiver.getCapabilities?.("video")?.codecs;
  if (!all || !transceiver.setCodecPreferences) return;
  const rank = ({ mimeType }) =>
    PREFERRED.includes(mimeType) ? PREFERRED.indexOf(mimeType) : PREFERRED.length;
  transceiver.setCodecPreferences([...all].sort((a, b) => rank(a) - rank(b)));
}

/** Wait for the ICE candidates: the gateway takes one complete offer, without trickle ICE. */
function gathered(pc) {
  if (pc.iceGatheringState === "complete") return Promise.resolve();
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, GATHER_MS);
    pc.addEventListener("icegatheringstatechange", () => {
      if (pc.iceGatheringState !== "complete") return;
      clearTimeout(timer);
      resolve();
    });
  });
}
