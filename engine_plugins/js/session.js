// One session as a state machine without I/O. Its methods report what happened and when (client
// milliseconds); `commands()` returns what the caller has to do. States: idle, connecting, queued,
// loading, playing, reconnecting, full, error.

import * as protocol from "./protocol.js";

export const BACKOFF_MS = [250, 4000]; // first and longest pause between two attempts
// without a message for this long, the connection counts as dead
export const SILENCE_MS = 4000;
const OPEN_MS = 5000; // longest wait for a socket to open
const SILENT_MS = 3000; // after this long without a ping the gateway may have closed the session
const PING_MS = 500;
// the first pings come quickly, to match the clocks before the first frame
const FAST_PINGS = 6;
const FAST_PING_MS = 80;
const FIRST_CONTACT_MS = 12_000; // how long to try to reach a server that never answered
const GIVE_UP_MS = 60_000; // how long to try to resume a session; its seat is kept for half of this
const FULL_RETRY_MS = 5000;
const STALE_MS = 250; // a frame this soon after "loading" may belong to the world before
const UPLOAD_MS = 60_000; // how long an upload may take while the server is silent
const STALL_MS = 1500; // a frame older than this is reported as a stall
// frame headers without frames for this long: WebRTC media does not get through
const NO_VIDEO_MS = 4000;

// fatal for the connection, not for the session
const RECONNECT = new Set(["client_too_slow", "not_greeted"]);
// the server's answers to a `start` that it rejects
const START_REJECTED = new Set(["bad_prompt_frame", "unknown_theme", "unsupported"]);
// events that a player reads as they are
const NOTICES = new Set(["seat_warning", "session_resumed", "world_reset", "control_requested"]);
// what the client can receive by each setting of `video`
const MEDIA = {
  auto: { transports: ["webrtc", "websocket"], codecs: ["h264", "vp8", "jpeg"] },
  webrtc: { transports: ["webrtc"], codecs: ["h264", "vp8"] },
  h264: { transports: ["websocket"], codecs: ["h264"] },
  h264_or_jpeg: { transports: ["websocket"], codecs: ["h264", "jpeg"] },
  jpeg: { transports: ["websocket"], codecs: ["jpeg"] },
};

const VIDEO_NAMES = {
  webrtc: "WebRTC",
  h264: "H.264 over the WebSocket",
  jpeg: "JPEG over the WebSocket",
};

/** Normalize a theme's name: "amusement_park", "Amusement park" and "park" are one theme. */
export function themeKey(id) {
  const letters = id.toLowerCase().replace(/[^a-z]/g, "");
  return THEME_ALIASES[letters] ?? letters;
}

const THEME_ALIASES = {
  amusementpark: "park",
  themepark: "park",
  amusement: "park",
  funfair: "park",
};

/** Return whether two names mean one theme. */
export const sameTheme = (a, b) => themeKey(a) === themeKey(b);

/** Return the pause before a connection attempt in ms. */
export const backoff = (attempt) => Math.min(BACKOFF_MS[1], BACKOFF_MS[0] * 2 ** attempt);

const problem = (code, message, expected = "", got = "", remedy = "") => ({
  code,
  message,
  expected,
  got,
  remedy,
  path: "",
});

// the server's own page is as new as the server, once it is loaded again
const updateOf = (client) => (client === "web" ? "Reload the page" : "Update the older of the two");

const versionMismatch = ({ expected, got }, client) =>
  problem(
    "version_mismatch",
    "Client and server use different protocol versions",
    expected,
    got,
    `${updateOf(client)}.`,
  );

const videoProblem = (video, reason) =>
  video === "webrtc"
    ? problem(
        "webrtc_failed",
        "WebRTC video did not get through",
        "a WebRTC connection within 4 s",
        reason,
        "Allow UDP between this device and the server, or remove ?video=webrtc.",
      )
    : problem(
        "h264_failed",
        "H.264 video could not be decoded",
        "a browser with WebCodecs, and a page from https or this computer",
        reason,
        "Remove ?video=h264 to use what this browser has.",
      );

export class Session {
  #commands = [];
  #wire = "closed"; // closed, opening, open, greeted
  #wireSince = 0;
  #retryAt = null;
  #lastHeard = 0;
  #lastTick = null;
  #pings = 0;
  #nextPing = 0;
  #pinged = 0;
  #resume = null;
  #wanted = { theme: null, seed: null, promptFrames: null };
  #before = null; // what to return to when the server rejects a restart
  #running = false; // whether the session has a world
  #startSent = false;
  #restartDue = false; // wanted while there was no connection
  #uploadSince = -Infinity;
  #webrtcWorked = false;
  #stale = -Infinity; // frames shown before this may belong to the world before
  #headersSince = null; // arrival of the first frame header that no frame followed
  #usualRole;

  constructor({
    client = "web",
    role = "player",
    world = null,
    video = "auto",
    order = ["webrtc", "jpeg"],
    token = null,
    depth = false,
    wait = true,
    silence = SILENCE_MS,
  } = {}) {
    this.client = client;
    this.role = role; // a hand-over of the controls changes it
    this.#usualRole = role;
    this.world = world;
    this.requestedVideo = video;
    this.order = video === "auto" ? order : [video]; // ways to receive video, best first
    this.video = this.order[0];
    this.token = token;
    this.depth = depth;
    this.wait = wait; // in the queue if every seat is taken
    this.silence = silence;
    this.state = "idle";
    this.since = 0;
    this.detail = "";
    this.progress = null;
    this.position = null; // in the queue for a seat, 0 is next
    this.expectedWait = null; // in seconds
    this.controlRequested = false; // a spectator asks for the controls
    this.attempt = 0;
    this.error = null;
    this.welcome = null;
    this.fallback = null; // why this session does not use the first of `order`
    this.lastFrame = null;
  }

  get greeted() {
    return this.#wire === "greeted";
  }

  get theme() {
    return this.#wanted.theme;
  }

  get seed() {
    return this.#wanted.seed;
  }

  /** Return what has to be done since the last call, in order. */
  commands() {
    const commands = this.#commands;
    this.#commands = [];
    return commands;
  }

  #do(command, fields = {}) {
    this.#commands.push({ do: command, ...fields });
  }

  #send(message) {
    this.#do("send", { message });
  }

  #enter(state, now, detail = "") {
    if (this.state !== state) this.since = now;
    this.state = state;
    this.detail = detail;
    if (state !== "loading") this.progress = null;
    if (state !== "queued") this.position = this.expectedWait = null;
  }

  // -- what the player wants ----------------------------------------------------------------------

  play({ theme, seed, promptFrames = null, resume = null, role = this.#usualRole }, now) {
    this.role = role;
    this.#wanted = { theme, seed, promptFrames };
    this.#before = null;
    this.#running = false;
    this.#restartDue = false;
    this.#resume = resume;
    this.error = null;
    this.attempt = 0;
    this.lastFrame = null;
    this.#enter("connecting", now, "Contacting the server");
    this.since = now;
    this.#connect(now);
  }

  /** Restart the session's world. `promptFrames` null keeps the present ones. */
  restart(theme, seed, now, promptFrames = null) {
    if (this.role === "spectator") return;
    const before = this.#wanted;
    this.#wanted = { theme, seed, promptFrames: promptFrames ?? before.promptFrames };
    if (this.#wire !== "greeted") {
      this.#restartDue = this.#running;
      return;
    }
    if (this.state === "queued") return; // a seat comes first
    this.#before = before;
    this.#start(now, promptFrames);
  }

  /** Send `start`, preceded by the prompt frames if there are any. */
  #start(now, promptFrames) {
    const { theme, seed } = this.#wanted;
    this.#startSent = true;
    this.#restartDue = false;
    for (const message of protocol.promptFrames(promptFrames ?? [])) this.#send(message);
    this.#send(protocol.start({ theme, seed, promptFrames: promptFrames?.length ?? null }));
    this.#await(now, "Opening the world");
    if (!promptFrames?.length) return;
    this.#uploadSince = now;
    this.#stale = Infinity; // until the server has accepted the prompt frames
  }

  retry(now) {
    if (this.state !== "error" && this.state !== "full" && this.state !== "reconnecting") return;
    if (this.#wire !== "closed") this.#hangUp();
    const resume = this.error?.code === "session_expired" ? null : this.#resume;
    this.play({ ...this.#wanted, resume, role: this.role }, now);
  }

  /** Ask, as a spectator, for the controls. */
  requestControl() {
    if (this.greeted && this.role === "spectator") this.#send(protocol.requestControl());
  }

  /** Give the controls to the spectator who asked first. */
  handOver() {
    if (!this.greeted || !this.controlRequested) return;
    this.controlRequested = false;
    this.#send(protocol.handOver());
  }

  /** Free the seat at once, as the page goes away; its world is kept in case it comes back. */
  pageHidden() {
    if (this.greeted && this.role !== "spectator") this.#send(protocol.bye({ keep: true }));
  }

  leave(now) {
    if (this.#wire === "greeted") this.#send(protocol.bye());
    this.#hangUp();
    this.#resume = null;
    this.#do("remember", { resume: null });
    this.welcome = null;
    this.#enter("idle", now);
  }

  // -- what the network does ----------------------------------------------------------------------

  #connect(now) {
    this.#wire = "opening";
    this.#wireSince = now;
    this.#retryAt = null;
    this.#do("connect");
  }

  #hangUp() {
    this.#wire = "closed";
    this.#retryAt = null;
    this.#do("disconnect");
  }

  opened(now) {
    if (this.#wire !== "opening") return;
    this.#wire = "open";
    this.#wireSince = now;
    this.#lastHeard = now;
    this.#pings = 0;
    this.#nextPing = now;
    this.#pinged = now;
    this.#hello();
  }

  #hello() {
    const auto = { webrtc: MEDIA.auto, h264: MEDIA.h264_or_jpeg };
    const media = (this.requestedVideo === "auto" && auto[this.video]) || MEDIA[this.video];
    this.#startSent = false;
    this.#send(
      protocol.hello({
        client: this.client,
        role: this.role,
        ...media,
        token: this.token,
        resume: this.#resume,
        world: this.world,
        wait: this.wait,
        depth: this.depth,
      }),
    );
  }

  closed(reason, now) {
    if (this.#wire === "closed") return; // closed by this side
    const greeted = this.#wire === "greeted";
    this.#wire = "closed";
    if (this.state === "error" || this.state === "idle" || this.state === "full") return;
    if (greeted) this.attempt = 0;
    this.#enter(this.state === "connecting" ? "connecting" : "reconnecting", now, reason);
    if (now - this.since > (this.state === "connecting" ? FIRST_CONTACT_MS : GIVE_UP_MS))
      return this.#giveUp(reason, now);
    this.#retryAt = now + backoff(this.attempt);
    this.attempt += 1;
  }

  #giveUp(reason, now) {
    const waited = Math.round((now - this.since) / 1000);
    this.#fail(
      problem(
        this.state === "connecting" ? "unreachable" : "connection_lost",
        this.state === "connecting"
          ? "The server does not answer"
          : "The connection was lost and did not come back",
        "a WebSocket connection to /session",
        `${reason || "no answer"} (${this.attempt} attempts in ${waited} s)`,
        "Check that the server is running and that this device can reach it, then try again.",
      ),
      now,
    );
  }

  #fail(error, now) {
    this.error = error;
    this.#enter("error", now, error.message);
    if (this.#wire !== "closed") this.#hangUp();
  }

  /** Report a ProtocolError in what was received. The session ends with an error. */
  invalid(error, now) {
    if (error.code === "version_mismatch") return this.#fail(versionMismatch(error, this.client), now);
    this.#fail(
      problem(
        "bad_message",
        `The server sent an invalid message${error.path && ` (${error.path})`}`,
        error.expected,
        error.got,
        `${updateOf(this.client)}. If the error returns, report it with the server's log.`,
      ),
      now,
    );
  }

  received(message, now) {
    if (this.#wire !== "open" && this.#wire !== "greeted") return;
    this.#lastHeard = now;
    switch (message.type) {
      case "welcome":
        return this.#welcome(message, now);
      case "status":
        return this.#status(message, now);
      case "frame":
        return this.#frame(message, now);
      case "event":
        return this.#event(message, now);
      case "error":
        return this.#rejected(message, now);
      case "pong":
        return this.#do("pong", { message, received: now });
      case "answer":
        return this.#do("answer", { sdp: message.sdp });
      default: // "stats" goes only to clients that ask for it
    }
  }

  #welcome(message, now) {
    const again = this.#wire === "greeted"; // the controls were handed over
    this.#wire = "greeted";
    this.welcome = message;
    this.role = message.role;
    this.controlRequested = false;
    this.attempt = 0;
    this.#resume = message.resume;
    this.#running = message.started;
    this.video = message.transport === "webrtc" ? "webrtc" : message.codec;
    this.#do("remember", { resume: message.resume });
    this.#do("welcomed", { welcome: message });
    this.#headersSince = null;
    if (this.video === "webrtc" && !again) this.#do("negotiate", { iceServers: message.ice_servers });
    this.#await(now, "Opening the world");
    if (message.seat.state === "queued") this.#queued(message.seat, now);
    else if (this.#restartDue || !this.#running) this.#begin(now);
  }

  /** Start the world that the player wants, or the nearest one that the server has. */
  #begin(now) {
    if (this.role === "spectator") return;
    const { themes } = this.welcome.world;
    const { theme } = this.#wanted;
    const match = themes.find((name) => theme !== null && sameTheme(name, theme));
    if (!match && theme !== null && themes.length > 0)
      this.#do("notice", { text: "This server has other themes. Choose one in the menu." });
    this.#wanted.theme = match ?? themes[0] ?? null;
    this.#start(now, this.#wanted.promptFrames);
  }

  #queued({ position, expected_wait_s: wait }, now, detail = "") {
    this.#enter("queued", now, detail || "All seats are taken");
    this.position = position;
    this.expectedWait = wait ?? null;
  }

  /** Wait for the first frame, "loading" or, after a lost connection, "reconnecting". */
  #await(now, detail) {
    this.lastFrame = null;
    this.#stale = now + STALE_MS;
    this.#enter(this.state === "reconnecting" ? "reconnecting" : "loading", now, detail);
  }

  #status(message, now) {
    const { state, detail, progress } = message;
    if (state !== "playing" && state !== this.state) this.#stale = now + STALE_MS;
    switch (state) {
      case "queued":
        return this.#queued(message, now, detail);
      case "ready":
        if (this.#wire === "greeted" && !this.#running && !this.#startSent) this.#begin(now);
        return;
      case "loading":
        this.#enter("loading", now, detail || "Loading the model");
        this.progress = progress;
        return;
      case "reconnecting":
        return this.#enter("reconnecting", now, detail || "The world is being restarted");
      default:
        return this.#worldRuns(now);
    }
  }

  #worldRuns(now) {
    this.#running = true;
    this.#stale = this.#stale === Infinity ? now + STALE_MS : now;
    if (this.state !== "loading") return;
    this.detail = "Waiting for the first frame";
    this.progress = 1;
  }

  #event({ name, detail }, now) {
    if (name === "control_requested") this.controlRequested = true;
    // a page that was loaded again was not away against its will
    const wasIn = this.state === "reconnecting" || this.state === "playing";
    if (name === "session_resumed" && !wasIn) return;
    if (NOTICES.has(name)) return this.#do("notice", { text: detail, tone: "warn" });
    if (name !== "world_lost") return; // "world_restored": a status follows
    this.#stale = now + STALE_MS;
    this.#enter("reconnecting", now, detail || "The world is being restarted");
  }

  #frame(message, now) {
    if (message.image === null) this.#headersSince ??= now;
    this.#do("frame", { message, received: now });
  }

  #rejected(message, now) {
    const { code } = message;
    if (code === "no_free_seat") return this.#full(message, now);
    if (code === "session_expired" && this.#wire === "greeted" && now - this.#pinged > SILENT_MS) {
      // This device slept, and the gateway keeps the seat for a while. Without such a pause the
      // session was taken over by another page: resuming it would make the two fight over it.
      return this.#again(now, () => this.#enter("reconnecting", now, "This page was asleep"));
    }
    if (code === "session_expired" && this.#wire === "open" && this.#resume !== null)
      return this.#again(now, () => {
        this.#resume = null;
        this.welcome = null;
        this.#do("remember", { resume: null });
        this.#do("notice", {
          text: "The earlier session had ended. This is a new one with the same theme and seed.",
        });
      });
    if (RECONNECT.has(code) && message.fatal && this.#wire === "greeted") {
      return this.#again(now, () => this.#enter("reconnecting", now, message.message));
    }
    if (message.fatal || this.#wire === "open") return this.#fail(message, now);
    if (START_REJECTED.has(code) && this.#startSent) {
      if (!this.#running) return this.#failStart(message, now);
      this.#revert(now);
    }
    this.#do("notice", { text: `${message.message}. ${message.remedy}`, tone: "warn" });
  }

  /** End a session whose first start was rejected, and free its seat. */
  #failStart(message, now) {
    this.#send(protocol.bye());
    this.#resume = null;
    this.#do("remember", { resume: null });
    this.#fail(message, now);
  }

  /** Keep playing the present world after a rejected restart. */
  #revert(now) {
    if (this.#before === null) return;
    this.#wanted = this.#before;
    this.#before = null;
    this.#stale = now;
    this.#do("start_rejected");
  }

  #full(message, now) {
    this.error = message;
    this.#hangUp();
    this.#enter("full", now, message.message);
    this.#retryAt = now + FULL_RETRY_MS;
  }

  /** Close the connection, apply a change, and connect again at once. */
  #again(now, change) {
    this.#hangUp();
    change();
    this.#connect(now);
  }

  // -- video --------------------------------------------------------------------------------------

  /** Report that video does not get through: the session continues with the next of `order`. */
  videoFailed(reason, now) {
    if (this.video === "jpeg" || this.state === "error" || this.state === "idle") return;
    const failed = this.video;
    if (this.#webrtcWorked) {
      // it worked before, so the network has changed: try once more
      this.#webrtcWorked = false;
      this.#again(now, () => this.#enter("reconnecting", now, reason));
      return;
    }
    this.#do("video_failed", { video: failed });
    if (this.requestedVideo !== "auto") {
      this.#fail(videoProblem(failed, reason), now);
      return;
    }
    this.video = this.order[this.order.indexOf(failed) + 1] ?? "jpeg";
    this.fallback = reason;
    this.#again(now, () =>
      this.#do("notice", {
        text:
          `${VIDEO_NAMES[failed]} did not get through (${reason}). ` +
          `Using ${VIDEO_NAMES[this.video]} instead.`,
      }),
    );
  }

  frameShown(now) {
    this.lastFrame = now;
    this.#headersSince = null;
    if (this.video === "webrtc") this.#webrtcWorked = true;
    if (
      this.#wire === "greeted" &&
      now >= this.#stale &&
      (this.state === "loading" || this.state === "reconnecting")
    )
      this.#enter("playing", now);
  }

  // -- time ---------------------------------------------------------------------------------------

  /**
   * Advance the session's clock; call at least every 100 ms while it is not idle.
   *
   * @param {number} now
   * @param {boolean} [visible] false while the page is hidden and shows no frames
   * @param {boolean} [sending] true while an upload is in progress
   */
  tick(now, visible = true, sending = false) {
    if (sending && now - this.#uploadSince < UPLOAD_MS) this.#lastHeard = now;
    const slept = this.#lastTick !== null && now - this.#lastTick > 2000;
    this.#lastTick = now;
    // after sleep or throttling, received messages may not have been read yet
    if (slept) this.#lastHeard = now;
    if (slept || !visible) this.#headersSince = null;
    if (this.#wire === "closed") this.#tickClosed(now);
    else if (this.#wire === "opening") this.#tickOpening(now);
    else this.#tickOpen(now);
  }

  #tickClosed(now) {
    if (this.#retryAt === null || now < this.#retryAt) return;
    if (this.state === "full") this.#enter("connecting", now, "Asking for a seat again");
    this.#connect(now);
  }

  #tickOpening(now) {
    if (now - this.#wireSince <= OPEN_MS) return;
    this.#do("disconnect");
    this.closed(`the connection did not open within ${OPEN_MS / 1000} s`, now);
  }

  #tickOpen(now) {
    if (now - this.#lastHeard > this.silence) {
      this.#do("disconnect");
      this.closed(`the server was silent for ${this.silence / 1000} s`, now);
      return;
    }
    if (
      this.#headersSince !== null &&
      now - this.#headersSince > NO_VIDEO_MS &&
      this.video === "webrtc"
    ) {
      this.#headersSince = null;
      this.videoFailed("frame headers arrive, but no video", now);
      return;
    }
    if (now < this.#nextPing) return;
    this.#send(protocol.ping(now)); // also before the welcome: loading a model may take minutes
    this.#pinged = now;
    this.#pings += 1;
    this.#nextPing = now + (this.#pings < FAST_PINGS ? FAST_PING_MS : PING_MS);
  }

  /** Return the session's state as plain data. */
  view(now) {
    const stalled =
      this.state === "playing" && this.lastFrame !== null && now - this.lastFrame > STALL_MS;
    return {
      state: this.state,
      detail: this.detail,
      progress: this.progress,
      seconds: Math.max(0, (now - this.since) / 1000),
      lastFrame: this.lastFrame,
      position: this.position,
      expectedWait: this.expectedWait,
      role: this.role,
      controlRequested: this.controlRequested,
      kept: this.welcome?.kept_s ?? null,
      retryIn: this.#retryAt === null ? null : Math.max(0, (this.#retryAt - now) / 1000),
      attempt: this.attempt,
      stalledFor: stalled ? (now - this.lastFrame) / 1000 : 0,
      error: this.error,
      theme: this.#wanted.theme,
      seed: this.#wanted.seed,
      promptFrames: this.#wanted.promptFrames?.length ?? 0,
      video: this.video,
      fallback: this.fallback,
      session: this.welcome?.session ?? null,
      server: this.welcome?.server ?? null,
      seats: this.welcome?.seats ?? null,
      world: this.welcome?.world ?? null,
    };
  }
}
