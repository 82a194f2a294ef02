// A client of the gateway: joins session, transport, input and latency. It shows nothing itself:
// the caller displays frames, reports when each was shown, and calls `tick`.

import { CreditWindow, decodesH264, H264Decoder } from "./h264.js";
import { Controller, SendClock } from "./input.js";
import { ClockOffset, FrameMatcher, LatencyMeter, Rate } from "./latency.js";
import * as protocol from "./protocol.js";
import { Session } from "./session.js";
import { Transport } from "./transport.js";

export const TICK_MS = 8; // interval of `tick` while playing
export const SLOW_TICK_MS = 100; // its interval while waiting
const REPORT_EVERY = 3; // shown frames per report to the gateway

export class Client {
  #sendClock = new SendClock();
  #grant = null; // grants frames that come in messages

  /**
   * @param {string} url WebSocket URL of the gateway, see `sessionUrl`
   * @param {object} handlers
   *   changed(): the session's state changed;
   *   frame(message, received): a frame with an image (JPEG) arrived;
   *   decoded(videoFrame, header, received): a frame was decoded; close the VideoFrame when shown;
   *   header(header): the header of a frame arrived, with or without an image;
   *   track(stream): a WebRTC video track arrived;
   *   videoFailed(video): "webrtc" or "h264" did not get through;
   *   welcomed(welcome), resumable(token or null), notice(text, tone),
   *   startRejected(): a restart was rejected and the present world continues
   * @param {object} [options]
   * @param {"auto"|"webrtc"|"h264"|"jpeg"} [options.video]
   * @param {string[]} [options.order] what "auto" tries, see `VideoChoice`
   * @param {string|null} [options.token] access token of the gateway
   * @param {"player"|"spectator"|"engine"} [options.role]
   * @param {boolean} [options.wait] in the queue if every seat is taken (default)
   * @param {boolean} [options.depth] ask for depth with every JPEG frame
   * @param {string} [options.client] name and version of the program, for the server's log
   * @param {object} [options.counters] `controller.counters` of an earlier page
   * @param {() => number} [options.now] clock in ms
   * @param {(now: number) => number|null} [options.refreshPeriod] of the display in ms
   */
  constructor(url, handlers, options = {}) {
    const { video = "auto", token = null, counters = {}, role, client, wait, order, depth } = options;
    this.handlers = handlers;
    this.now = options.now ?? (() => performance.now());
    this.refreshPeriod = options.refreshPeriod ?? (() => null);
    const h264 = handlers.decoded && decodesH264() ? ["h264"] : [];
    const ways = order ?? ["webrtc", ...h264, "jpeg"];
    this.session = new Session({ video, order: ways, token, role, client, wait, depth });
    this.decoder = null;
    this.controller = new Controller(counters);
    this.clock = new ClockOffset();
    this.meter = new LatencyMeter();
    this.matcher = new FrameMatcher();
    this.rate = new Rate();
    this.counts = { received: 0, shown: 0, dropped: 0, measured: 0, sent: 0, firstShown: null };
    this.transport = new Transport(url, {
      opened: () => this.#dispatch((now) => this.session.opened(now)),
      closed: (reason) => this.#dispatch((now) => this.session.closed(reason, now)),
      message: (message) => this.#dispatch((now) => this.session.received(message, now)),
      invalid: (error) => this.#dispatch((now) => this.session.invalid(error, now)),
      videoFailed: (reason) => this.#dispatch((now) => this.session.videoFailed(reason, now)),
      track: (stream) => handlers.track?.(stream),
    });
  }

  get state() {
    return this.session.state;
  }

  /** Return the session's state as plain data. */
  view() {
    return this.session.view(this.now());
  }

  /** Start a session: {theme, seed, promptFrames, resume, role}. */
  play(wanted) {
    this.#dispatch((now) => this.session.play(wanted, now));
  }

  /** Restart the session's world. `promptFrames` null keeps the present ones. */
  restart(theme, seed, promptFrames = null) {
    this.#dispatch((now) => this.session.restart(theme, seed, now, promptFrames));
  }

  /** Try again after an error, with another access token if one is given. */
  retry(token = this.session.token) {
    this.session.token = token;
    this.#dispatch((now) => this.session.retry(now));
  }

  leave() {
    this.#dispatch((now) => this.session.leave(now));
  }

  /** Give a world with `observations` a view of the caller's scene, see `protocol.observe`. */
  observe(view) {
    if (this.state === "playing") this.transport.send(protocol.observe(view));
  }

  /** Ask, as a spectator, for the controls. */
  requestControl() {
    this.#dispatch(() => this.session.requestControl());
  }

  /** Give the controls to the spectator who asked first. */
  handOver() {
    this.#dispatch(() => this.session.handOver());
  }

  /** Free the seat, as the page goes away; call it on `pagehide`. */
  pageHidden() {
    this.#dispatch(() => this.session.pageHidden());
  }

  /** Report that the controller changed. The change is sent at once. */
  inputChanged() {
    this.#sendClock.changed();
    this.#sendInput(this.now());
  }

  /** Send input that is due and advance the session's clock. `visible`: frames can be shown. */
  tick(visible = true) {
    const now = this.now();
    if (visible) this.#sendInput(now);
    this.#dispatch(() => this.session.tick(now, visible, this.transport.sending));
  }

  /** Report that an image was shown. */
  imageShown(header, received, shown) {
    this.#shown(shown);
    this.#measure(header, received, shown);
  }

  /** Report that a frame of the WebRTC track was shown. `rtp` is undefined if it is unknown. */
  videoShown(rtp, received, shown) {
    this.#shown(shown);
    this.#measureMatch(this.matcher.frame(rtp, received, shown));
  }

  #dispatch(event) {
    const before = this.session.state;
    event(this.now());
    for (const command of this.session.commands()) this.#execute(command);
    if (before !== this.session.state) this.handlers.changed?.();
  }

  #execute(command) {
    const { handlers, transport } = this;
    switch (command.do) {
      case "connect":
        this.meter.forget();
        this.matcher.reset();
        this.clock.reset();
        return transport.connect();
      case "disconnect":
        this.#stopDecoding();
        return transport.disconnect();
      case "send":
        return transport.send(command.message);
      case "negotiate":
        return transport.negotiate(command.iceServers);
      case "answer":
        return transport.answer(command.sdp);
      case "welcomed":
        this.controller.holdMs = 1000 / command.welcome.world.fps + TICK_MS;
        this.#beginVideo(command.welcome);
        return handlers.welcomed?.(command.welcome);
      case "video_failed":
        return handlers.videoFailed?.(command.video);
      case "remember":
        return handlers.resumable?.(command.resume);
      case "notice":
        return handlers.notice?.(command.text, command.tone);
      case "start_rejected":
        return handlers.startRejected?.();
      case "pong":
        return this.clock.pong(command.message.time, command.received, command.message.server_time);
      case "frame":
        return this.#frame(command.message, command.received);
    }
  }

  #frame(message, received) {
    const { header, image } = message;
    this.counts.received += 1;
    this.counts.dropped = header.dropped;
    this.handlers.header?.(header);
    if (image && message.codec === "h264") this.decoder?.push(header, image, received);
    else if (image) {
      this.#grant?.(1);
      this.handlers.frame?.(message, received);
    } else this.#measureMatch(this.matcher.header(header));
  }

  /** Grant frames that come in messages: H.264 as it is decoded, JPEG as it comes. */
  #beginVideo({ transport, codec, world }) {
    this.#stopDecoding();
    this.#grant = null;
    if (transport === "webrtc") return;
    const credit = new CreditWindow();
    const grant = (done) =>
      this.transport.send(
        protocol.credit(credit.grant(done, this.clock.minRtt, 1000 / world.fps)),
      );
    this.#grant = grant;
    grant(0);
    if (codec !== "h264") return;
    this.decoder = new H264Decoder({
      decoded: (videoFrame, header, received) => {
        if (this.handlers.decoded) this.handlers.decoded(videoFrame, header, received);
        else videoFrame.close();
      },
      done: () => grant(1),
      failed: (reason) => this.#dispatch((now) => this.session.videoFailed(reason, now)),
    });
  }

  #stopDecoding() {
    this.decoder?.close();
    this.decoder = null;
  }

  #shown(at) {
    this.counts.shown += 1;
    this.counts.firstShown ??= at;
    this.rate.add(at);
    this.#dispatch(() => this.session.frameShown(at));
  }

  #measureMatch(match) {
    if (match) this.#measure(match.header, match.received, match.shown);
  }

  #measure(header, received, shown) {
    const { offset } = this.clock;
    this.counts.measured += this.meter.shown(header, received, shown, offset).length;
    if (offset === null || this.counts.shown % REPORT_EVERY !== 0) return;
    const refresh = this.refreshPeriod(shown);
    this.transport.sendReport(
      protocol.frameShown({ frame: header.frame, received, shown, offset, refresh }),
    );
  }

  #sendInput(now) {
    const { state, role } = this.session;
    if (state !== "playing" || role === "spectator" || !this.#sendClock.due(now)) return;
    const { sequence, time } = this.controller.sample(now);
    if (!this.transport.sendInput(protocol.input(this.controller.history))) return;
    this.counts.sent += 1;
    this.meter.sent(sequence, time);
  }
}
