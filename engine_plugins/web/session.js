// One play session as a state machine without I/O. It is told what happened and when (client ms),
// and answers with commands for `main.js` to carry out. States: idle, connecting, loading, playing,
// reconnecting, full, error.

import * as protocol from "./protocol.js";
import { sameTheme } from "./themes.js";

export const BACKOFF_MS = [250, 4000]; // first and longest pause between two attempts
// no message for this long: the connection is dead, whatever the socket says
export const SILENCE_MS = 4000;
const OPEN_MS = 5000; // longest wait for a socket to open
const SILENT_MS = 3000; // our own last ping is older than this: the gateway may have given us up
const PING_MS = 500;
// the first few come quickly, so that the clocks are matched before the first frame
const FAST_PINGS = 6;
const FAST_PING_MS = 80;
const FIRST_CONTACT_MS = 12_000; // trying to reach a server that never answered
const GIVE_UP_MS = 60_000; // trying to get a session back; the seat is kept for half of this
const FULL_RETRY_MS = 5000;
const STALE_MS = 250; // a picture this soon after "loading" may have been on its way before
const UPLOAD_MS = 60_000; // a server that waits for the end of a message this long is not silent
const STALL_MS = 1500; // a picture older than this deserves a word
// frame headers without pictures for this long: WebRTC media does not get through
const NO_VIDEO_MS = 4000;

// fatal for the connection, not for the session
const RECONNECT = new Set(["client_too_slow", "not_greeted"]);

export const backoff = (attempt) => Math.min(BACKOFF_MS[1], BACKOFF_MS[0] * 2 ** attempt);

const problem = (code, message, expected = "", got = "", remedy = "") => ({
  code,
  message,
  expected,
  got,
  remedy,
});

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
  #wanted = { theme: null, seed: null, pictures: null };
  #before = null; // what was wanted before pictures that the server still looks at
  #uploadSince = -Infinity;
  #themeRefused = false;
  #webrtcWorked = false;
  #stale = -Infinity; // pictures until then may still be of the world before
  #headersSince = null; // first frame header that no picture followed

  constructor({
    client = "web",
    world = null,
    video = "auto",
    token = null,
    answering = SILENCE_MS,
  } = {}) {
    this.client = client;
    this.world = world;
    this.requestedVideo = video;
    this.video = video === "jpeg" ? "jpeg" : "webrtc";
    this.token = token;
    this.silence = answering;
    this.state = "idle";
    this.since = 0;
    this.detail = "";
    this.progress = null;
    this.attempt = 0;
    this.error = null;
    this.welcome = null;
    this.fallback = null; // why this session shows JPEG although WebRTC was wanted
    this.lastPicture = null;
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

  /** Everything the machine wants done since the last call, in order. */
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
  }

  // -- what the player wants ----------------------------------------------------------------------

  play({ theme, seed, pictures = null, resume = null }, now) {
    this.#wanted = { theme, seed, pictures };
    this.#before = null;
    this.#resume = resume;
    this.error = null;
    this.attempt = 0;
    this.lastPicture = null;
    this.#enter("connecting", now, "Contacting the server");
    this.since = now;
    this.#connect(now);
  }

  /**
   * The same session in another theme, with another seed or other pictures; with nothing new, from
   * the beginning. `pictures` null: as they were.
   */
  restart(theme, seed, now, pictures = null) {
    const before = this.#wanted;
    this.#wanted = { theme, seed, pictures: pictures ?? before.pictures };
    if (this.#wire !== "greeted") return;
    this.#send(protocol.start(theme, seed, pictures));
    this.#await(now, "Starting the world");
    if (!pictures?.length) return;
    this.#before = before;
    this.#uploadSince = now;
    this.#stale = Infinity; // until the server says that it has looked at them
  }

  retry(now) {
    if (this.state !== "error" && this.state !== "full" && this.state !== "reconnecting") return;
    if (this.#wire !== "closed") this.#hangUp();
    const resume = this.error?.code === "session_expired" ? null : this.#resume;
    this.play({ ...this.#wanted, resume }, now);
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
    const { theme, seed, pictures } = this.#wanted;
    this.#uploadSince = this.#lastHeard;
    this.#send(
      protocol.hello({
        client: this.client,
        world: this.world,
        theme: this.#themeRefused ? null : theme,
        seed,
        video: this.video,
        resume: this.#resume,
        token: this.token,
        pictures: this.#resume === null ? pictures : null, // the server still has them
      }),
    );
  }

  closed(reason, now) {
    if (this.#wire === "closed") return; // we hung up ourselves
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

  /** Bytes that are no message: say so and stop, instead of playing on with half of the truth. */
  garbled(error, now) {
    this.#fail(
      problem(
        "bad_message",
        `The server sent something this page does not understand (${error.path})`,
        error.expected,
        error.got,
        "Reload the page; if that does not help, page and server have different versions.",
      ),
      now,
    );
  }

  received(message, now) {
    if (this.#wire !== "open" && this.#wire !== "greeted") return;
    this.#lastHeard = now;
    switch (message.type) {
      case "welcome":
        return this.#greet(message, now);
      case "status":
        return this.#status(message, now);
      case "frame":
        return this.#frame(message, now);
      case "error":
        return this.#refused(message, now);
      case "pong":
        return this.#do("pong", { message, received: now });
      case "answer":
        return this.#do("answer", { sdp: message.sdp });
      default: // "stats" is for tools; this page never asks for it
    }
  }

  #greet(message, now) {
    if (message.version !== protocol.VERSION) {
      this.#fail(
        problem(
          "version_mismatch",
          "Page and server speak different versions of the protocol",
          `version ${protocol.VERSION}`,
          `version ${message.version}`,
          "Reload the page to get the server's own copy.",
        ),
        now,
      );
      return;
    }
    this.#wire = "greeted";
    this.welcome = message;
    this.attempt = 0;
    this.#resume = message.resume;
    this.#do("remember", { resume: message.resume });
    this.#do("welcomed", { welcome: message });
    this.#headersSince = null;
    if (this.video === "webrtc") this.#do("negotiate");
    this.#await(now, "Opening the world");
    if (this.#themeRefused) this.#chooseOwnTheme(message.spec.themes);
  }

  #chooseOwnTheme(themes) {
    this.#themeRefused = false;
    const match = themes.find(
      (theme) => this.#wanted.theme !== null && sameTheme(theme, this.#wanted.theme),
    );
    this.#wanted.theme = match ?? themes[0] ?? null;
    if (match) this.#send(protocol.start(match, this.#wanted.seed));
    else this.#do("notice", { text: "This server has other themes. Pick one in the menu." });
  }

  /**
   * Loading until a picture is there; a session that was cut off stays "reconnecting" until then.
   */
  #await(now, detail) {
    this.lastPicture = null;
    this.#stale = now + STALE_MS;
    this.#enter(this.state === "reconnecting" ? "reconnecting" : "loading", now, detail);
  }

  #status(message, now) {
    if (message.state !== "playing" && message.state !== this.state) this.#stale = now + STALE_MS;
    if (message.state === "loading") {
      this.#enter("loading", now, message.detail || "Loading the model");
      this.progress =
        message.progress === null || message.progress === undefined
          ? null
          : Math.max(0, Math.min(1, message.progress));
    } else if (message.state === "reconnecting") {
      this.#enter("reconnecting", now, message.detail || "The world is being restarted");
    } else {
      this.#stale = this.#stale === Infinity ? now + STALE_MS : now;
      if (this.state !== "loading") return;
      this.detail = "Waiting for the first picture";
      this.progress = 1;
    }
  }

  #frame(message, now) {
    if (message.jpeg === null || message.jpeg === undefined) this.#headersSince ??= now;
    this.#do("frame", { message, received: now });
  }

  #refused(message, now) {
    const { code } = message;
    if (code === "no_free_seat") return this.#full(message, now);
    if (code === "session_expired" && this.#wire === "greeted" && now - this.#pinged > SILENT_MS) {
      // We were silent (a closed laptop lid): the seat is kept for a while. Without a silence of
      // ours another connection took the session over, and taking it back would only start a tug of
      // war between two pages.
      return this.#again(now, () => this.#enter("reconnecting", now, "This page was asleep"));
    }
    if (code === "session_expired" && this.#wire === "open" && this.#resume !== null)
      return this.#again(now, () => {
        this.#resume = null;
        this.welcome = null;
        this.#do("remember", { resume: null });
        this.#do("notice", {
          text: "The earlier session was over. This is a new one with the same theme and seed.",
        });
      });
    if (code === "unknown_theme" && this.#wire === "open" && !this.#themeRefused) {
      return this.#again(now, () => {
        this.#themeRefused = true;
      });
    }
    if (RECONNECT.has(code) && message.fatal && this.#wire === "greeted") {
      return this.#again(now, () => this.#enter("reconnecting", now, message.message));
    }
    if (code === "worker_lost" && !message.fatal) {
      this.#stale = now + STALE_MS;
      return this.#enter("reconnecting", now, message.message);
    }
    if (message.fatal || this.#wire === "open") return this.#fail(message, now);
    if (code === "bad_picture" && this.#before !== null) {
      // the world that was to be left goes on
      this.#wanted = this.#before;
      this.#before = null;
      this.#stale = now;
      this.#do("pictures_refused");
    }
    this.#do("notice", { text: `${message.message}. ${message.remedy}`, tone: "warn" });
  }

  #full(message, now) {
    this.error = message;
    this.#hangUp();
    this.#enter("full", now, message.message);
    this.#retryAt = now + FULL_RETRY_MS;
  }

  /** Hangs up, changes something, and connects anew at once. */
  #again(now, change) {
    this.#hangUp();
    change();
    this.#connect(now);
  }

  // -- video --------------------------------------------------------------------------------------

  /** WebRTC does not get through: the same session again, as JPEG pictures over the WebSocket. */
  videoFailed(reason, now) {
    if (this.video === "jpeg" || this.state === "error" || this.state === "idle") return;
    if (this.#webrtcWorked) {
      // it did once, so the network changed: one new connection before giving it up
      this.#webrtcWorked = false;
      this.#again(now, () => this.#enter("reconnecting", now, reason));
      return;
    }
    if (this.requestedVideo === "webrtc") {
      this.#fail(
        problem(
          "webrtc_failed",
          "WebRTC video did not get through",
          "a WebRTC connection within 4 s",
          reason,
          "Allow UDP between this device and the server, or leave out ?video=webrtc to use JPEG.",
        ),
        now,
      );
      return;
    }
    this.video = "jpeg";
    this.fallback = reason;
    this.#again(now, () =>
      this.#do("notice", {
        text: `WebRTC did not get through (${reason}). Using JPEG pictures instead.`,
      }),
    );
  }

  pictureShown(now) {
    this.lastPicture = now;
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
   * Call at least every 100 ms while a session is wanted. `visible`: a hidden page shows no
   * pictures, that is no fault. `sending`: a message is still on its way out, and on a slow line
   * pictures take a while.
   */
  tick(now, visible = true, sending = false) {
    if (sending && now - this.#uploadSince < UPLOAD_MS) this.#lastHeard = now;
    const slept = this.#lastTick !== null && now - this.#lastTick > 2000;
    this.#lastTick = now;
    // the page slept (laptop lid, throttled tab), messages may be waiting unread
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
      this.videoFailed("frames arrive but no picture does", now);
      return;
    }
    if (now < this.#nextPing) return;
    this.#send(protocol.ping(now)); // before the welcome as well: a model may take minutes to load
    this.#pinged = now;
    this.#pings += 1;
    this.#nextPing = now + (this.#pings < FAST_PINGS ? FAST_PING_MS : PING_MS);
  }

  /** What there is to show, as plain data. */
  view(now) {
    const stalled =
      this.state === "playing" && this.lastPicture !== null && now - this.lastPicture > STALL_MS;
    return {
      state: this.state,
      detail: this.detail,
      progress: this.progress,
      seconds: Math.max(0, (now - this.since) / 1000),
      retryIn: this.#retryAt === null ? null : Math.max(0, (this.#retryAt - now) / 1000),
      attempt: this.attempt,
      stalledFor: stalled ? (now - this.lastPicture) / 1000 : 0,
      error: this.error,
      theme: this.#wanted.theme,
      seed: this.#wanted.seed,
      pictures: this.#wanted.pictures?.length ?? 0,
      video: this.video,
      fallback: this.fallback,
      session: this.welcome?.session ?? null,
      server: this.welcome?.server ?? null,
      seats: this.welcome?.seats ?? null,
      spec: this.welcome?.spec ?? null,
    };
  }
}
