// The client library: messages, session, input, gamepads, latency and transport, without DOM.

export * from "./client.js";
export * from "./gamepads.js";
export * from "./h264.js";
export * from "./input.js";
export * from "./latency.js";
export * as msgpack from "./msgpack.js";
export * as protocol from "./protocol.js";
export { backoff, sameTheme, Session, themeKey } from "./session.js";
export { sessionUrl, Transport } from "./transport.js";
export * from "./video_choice.js";
export { PeerConnection } from "./webrtc.js";
