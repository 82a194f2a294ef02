// The page: connects the session's state machine to the transport, displays, controls and panels.

import { Controls } from "./controls.js";
import { byId, toast } from "./dom.js";
import { Hud } from "./hud.js";
import { Controller, SendClock } from "../js/input.js";
import { Landing } from "./landing.js";
import { ClockOffset, FrameMatcher, LatencyMeter, Rate } from "../js/latency.js";
import { Menu, toggleFullscreen } from "./menu.js";
import { CanvasDisplay, VideoDisplay } from "./display.js";
import * as protocol from "../js/protocol.js";
import { Session } from "../js/session.js";
import { RefreshPeriod } from "./refresh.js";
import * as settings from "./settings.js";
import { profile } from "./stats.js";
import { PromptStore } from "./prompt_store.js";
import { DropArea, MAX_PROMPT_FRAMES, PromptChoice, PromptControl } from "./prompt_frames.js";
import { StatusCard } from "./status.js";
import { Sticks } from "./sticks.js";
import { ServerInfo } from "./server.js";
import { describeTheme } from "./themes.js";
import { sessionUrl, Transport } from "../js/transport.js";

const TICK_MS = 8; // while playing
const SLOW_TICK_MS = 100; // while waiting or hidden
const RENDER_MS = 200;
const SEAT_KEPT_MS = 30_000; // how long the gateway keeps the seat of a lost connection
const REPORT_EVERY = 3; // shown frames per report to the gateway
const HINT_MS = 7000;

class Page {
  constructor() {
    this.url = settings.readUrl(location.search);
    this.preferences = settings.loadPreferences();
    this.stored = settings.loadSession();
    this.clock = new ClockOffset();
    this.meter = new LatencyMeter();
    this.matcher = new FrameMatcher();
    this.rate = new Rate();
    this.refresh = new RefreshPeriod();
    this.counts = {
      received: 0,
      shown: 0,
      droppedServer: 0,
      measured: 0,
      sent: 0,
      firstShown: null,
    };
    this.sendClock = new SendClock();
    this.controller = new Controller(this.stored.counters);
    this.session = new Session({ video: this.url.video, token: this.url.token });
    this.rendered = { at: -Infinity, state: null };
    this.#io();
    this.#interface();
    this.#clockwork();
  }

  #io() {
    const now = () => performance.now();
    this.transport = new Transport(sessionUrl(document.baseURI), {
      opened: () => this.#dispatch(() => this.session.opened(now())),
      closed: (reason) => this.#dispatch(() => this.session.closed(reason, now())),
      message: (message) => this.#dispatch(() => this.session.received(message, now())),
      invalid: (error) => this.#dispatch(() => this.session.invalid(error, now())),
      videoFailed: (reason) => this.#dispatch(() => this.session.videoFailed(reason, now())),
      track: (stream) => this.video.attach(stream),
    });
    this.canvas = new CanvasDisplay(byId("canvas"), (header, received, shown) => {
      this.#shown(shown);
      this.#measure(header, received, shown);
    });
    this.video = new VideoDisplay(byId("video"), (rtp, received, shown) => {
      this.#shown(shown);
      this.#join(this.matcher.frame(rtp, received, shown));
    });
  }

  #interface() {
    const now = () => performance.now();
    const changed = () => {
      this.sendClock.changed();
      this.#sendInput(now());
    };
    this.controls = new Controls(this.controller, byId("stage"), this.preferences, {
      active: () =>
        !this.menu.open && ["loading", "playing", "reconnecting"].includes(this.session.state),
      changed,
      key: (code) => this.#key(code),
      unlocked: () => {
        if (this.session.state === "playing" && document.hasFocus()) this.#openMenu();
      },
      gamepad: (pad) => this.#gamepad(pad),
    });
    this.sticks = new Sticks(byId("sticks"), this.controller, this.preferences, changed);
    this.landing = new Landing({
      play: (theme, seed) => this.play(theme, seed),
      resume: () => this.#resumeStored(),
      picked: (theme) => this.session.state === "idle" && this.#dress(theme),
    });
    this.server = new ServerInfo(
      document.baseURI,
      (themes) => {
        this.#prefer({ themes });
        if (this.session.state === "idle")
          this.landing.show(themes, this.landing.cards.value, this.landing.seed.value);
      },
      (limit, offered) => this.choice.offer(limit, offered),
    );
    this.#promptFrames();
    this.status = new StatusCard({
      retry: () => this.#dispatch(() => this.session.retry(now())),
      leave: () => this.#dispatch(() => this.session.leave(now())),
      authorize: (token) =>
        this.#dispatch(() => {
          this.session.token = token;
          this.session.retry(now());
        }),
    });
    this.menu = new Menu(this.preferences, {
      apply: (theme, seed) => this.#restart(theme, seed, this.choice.now.value),
      reset: () => this.#restart(this.session.theme, this.session.seed),
      leave: () => this.#dispatch(() => this.session.leave(now())),
      link: () => settings.shareUrl(location.href, this.session.theme, this.session.seed),
      promptFrames: () => this.played.value?.length ?? 0,
      preferences: (changes) => this.#prefer(changes),
      opened: () => {
        this.controls.free();
        this.controls.releaseAll();
        this.sticks.reset();
      },
      closed: () => byId("menu-button").focus({ preventScroll: true }),
    });
    this.hud = new Hud({ stats: () => this.stats(), csv: () => this.meter.csv() }, (open) =>
      this.#prefer({ hud: open }),
    );
    byId("menu-button").addEventListener("click", () => this.#openMenu());
    byId("fullscreen-button").addEventListener("click", () => toggleFullscreen());
    addEventListener(
      "pointerdown",
      (event) => this.#useInput(event.pointerType === "touch" ? "touch" : null),
      true,
    );
    document.body.dataset.input = matchMedia("(pointer: coarse)").matches ? "touch" : "keys";
    this.#prefer({});
  }

  #promptFrames() {
    const controls = ["prompt", "menu-prompt"].map((id) => [byId(id)]);
    this.choice = new PromptChoice((choice) => {
      for (const control of controls) control[1].show(choice, this.choice.limit);
      this.landing.showPrompt(choice);
    }, new PromptStore(settings.tabName()));
    for (const control of controls) control.push(new PromptControl(control[0], this.choice));
    this.played = this.choice.now;
    const file = byId("prompt-file");
    file.addEventListener("change", async () => {
      const files = [...file.files];
      file.value = ""; // the same file can be chosen again
      if (files.length > 0) await this.choice.take(files);
    });
    new DropArea({
      limit: () => this.choice.limit ?? MAX_PROMPT_FRAMES,
      dropped: (files) => this.#dropped(files),
    });
  }

  /** Choose the dropped files; in a running world, start from them at once. */
  async #dropped(files) {
    if (!(await this.choice.take(files))) return;
    const running = ["loading", "playing", "reconnecting"].includes(this.session.state);
    if (running && !this.menu.open)
      this.#restart(this.session.theme, this.session.seed, this.choice.now.value);
    else if (!this.menu.open) byId("play").focus({ preventScroll: true });
  }

  #clockwork() {
    this.ticker = new Worker(new URL("ticker.js", import.meta.url));
    this.ticker.onmessage = () => this.#tick();
    document.addEventListener("visibilitychange", () => {
      this.meter.forget(); // a hidden page shows nothing, which is not latency
      this.sticks.reset();
      this.#pace();
    });
    addEventListener("pagehide", () => this.#store());
  }

  // -- entering and leaving a world ---------------------------------------------------------------

  async start() {
    const themes = this.preferences.themes;
    this.landing.show(themes, this.url.theme ?? this.preferences.theme, this.url.seed);
    const recalled = this.choice.recall(); // Play does not wait for it
    if (this.url.autoplay) {
      await recalled;
      if (this.session.state !== "idle") return;
    }
    const fresh = this.stored.resume && Date.now() - this.stored.at < SEAT_KEPT_MS;
    const reloaded = performance.getEntriesByType("navigation")[0]?.type === "reload";
    if (fresh && reloaded && this.url.autoplay) return this.#resumeStored();
    if (this.url.autoplay)
      return this.play(this.landing.cards.value, this.url.seed ?? settings.randomSeed());
    this.landing.offerResume(fresh ? this.stored.theme : null);
    if (fresh)
      setTimeout(() => this.landing.offerResume(null), this.stored.at + SEAT_KEPT_MS - Date.now());
    this.#render(true);
  }

  play(theme, seed, resume = null) {
    this.#prefer({ theme });
    this.#dress(theme);
    const promptFrames = this.choice.now.value;
    this.played = this.choice.now;
    this.#dispatch(() => this.session.play({ theme, seed, promptFrames, resume }, performance.now()));
  }

  #resumeStored() {
    this.play(this.stored.theme, this.stored.seed, this.stored.resume);
  }

  #restart(theme, seed, promptFrames = null) {
    this.#prefer({ theme });
    this.#dress(theme);
    if (promptFrames !== null) {
      this.playedBefore = this.played;
      this.played = this.choice.now;
    }
    this.#dispatch(() => this.session.restart(theme, seed, performance.now(), promptFrames));
    this.#address();
  }

  // -- commands of the session --------------------------------------------------------------------

  #dispatch(event) {
    event();
    for (const command of this.session.commands()) this.#carryOut(command);
    if (this.rendered.state !== this.session.state) this.#render(true);
  }

  #carryOut(command) {
    switch (command.do) {
      case "connect":
        this.meter.forget();
        this.matcher.reset();
        this.clock.reset();
        return this.transport.connect();
      case "disconnect":
        return this.transport.disconnect();
      case "send":
        return this.transport.send(command.message);
      case "negotiate":
        return this.transport.negotiate();
      case "answer":
        return this.transport.answer(command.sdp);
      case "welcomed":
        return this.#welcomed(command.welcome);
      case "remember":
        this.resume = command.resume;
        return this.#store();
      case "notice":
        return toast(command.text, command.tone, 7);
      case "prompt_refused":
        this.played = this.playedBefore;
        this.choice.restore(this.played);
        return this.#address();
      case "pong":
        return this.clock.pong(command.message.time, command.received, command.message.server_time);
      case "frame":
        return this.#frame(command.message, command.received);
    }
  }

  #welcomed({ spec }) {
    this.controller.holdMs = 1000 / spec.fps + TICK_MS;
    this.#prefer({ themes: spec.themes });
    this.choice.offer(spec.takes_pictures ?? 0, this.choice.offered);
    this.#address();
  }

  #frame({ header, jpeg }, received) {
    this.counts.received += 1;
    this.counts.droppedServer = header.dropped;
    if (jpeg) this.canvas.push(header, jpeg, received);
    else this.#join(this.matcher.header(header));
  }

  #shown(at) {
    this.counts.shown += 1;
    this.counts.firstShown ??= at;
    this.rate.add(at);
    this.#dispatch(() => this.session.frameShown(at));
  }

  #join(match) {
    if (match) this.#measure(match.header, match.received, match.shown);
  }

  #measure(header, received, shown) {
    const { offset } = this.clock;
    this.counts.measured += this.meter.shown(header, received, shown, offset).length;
    if (offset !== null && this.counts.shown % REPORT_EVERY === 0) {
      const refresh = this.refresh.milliseconds(shown);
      this.transport.sendReport(
        protocol.shown({ frame: header.frame, received, shown, offset, refresh }),
      );
    }
  }

  #sendInput(now) {
    if (this.session.state !== "playing" || document.hidden || !this.sendClock.due(now)) return;
    const { seq, time } = this.controller.sample(now);
    if (!this.transport.sendInput(protocol.input(this.controller.history))) return;
    this.counts.sent += 1;
    this.meter.sent(seq, time);
  }

  // -- time ---------------------------------------------------------------------------------------

  #tick() {
    const now = performance.now();
    this.controls.poll();
    this.#sendInput(now);
    this.#dispatch(() => this.session.tick(now, !document.hidden, this.transport.sending));
    if (now - this.rendered.at > RENDER_MS) this.#render(false);
  }

  #pace() {
    const { state } = this.session;
    const idle = state === "idle" || state === "error";
    this.ticker.postMessage(
      idle ? null : state === "playing" && !document.hidden ? TICK_MS : SLOW_TICK_MS,
    );
  }

  // -- rendering ----------------------------------------------------------------------------------

  #render(entered) {
    const now = performance.now();
    const view = this.session.view(now);
    const before = this.rendered.state;
    this.rendered = { at: now, state: view.state };
    const { dataset } = document.body;
    dataset.state = view.state;
    dataset.video = view.video;
    dataset.frame = String(
      view.lastFrame !== null || (dataset.frame === "true" && view.state === "reconnecting"),
    );
    this.status.update(view);
    this.hud.update(now);
    if (entered && before !== view.state) this.#entered(view, before);
  }

  #entered(view, before) {
    this.#pace();
    byId("landing").inert = view.state !== "idle";
    if (view.theme && view.state !== "idle") this.#dress(view.theme);
    if (view.state === "playing") this.#startedPlaying(before);
    else if (view.state !== "reconnecting") this.hud.panel.hidden = true;
    if (["idle", "error", "full"].includes(view.state)) {
      this.controls.free();
      this.menu.close();
    }
    if (view.state === "error" || view.state === "full") {
      byId(view.error.code === "unauthorized" ? "token" : "status-retry").focus({
        preventScroll: true,
      });
    }
    this.server.watch(view.state === "idle");
    if (view.state === "idle" && before !== null) {
      this.landing.offerResume(null);
      this.landing.show(this.preferences.themes, view.theme ?? this.preferences.theme, view.seed);
      byId("play").focus({ preventScroll: true });
    }
  }

  #startedPlaying(before) {
    if (this.preferences.hud || this.url.hud) this.hud.toggle(true);
    if (before === "reconnecting") return;
    document.activeElement?.blur();
    this.#hint();
    const mouse = document.body.dataset.input === "keys" && navigator.userActivation?.isActive;
    if (mouse && !this.menu.open) this.controls.capture();
  }

  #hint() {
    clearTimeout(this.hintTimer);
    document.body.dataset.hint = "true";
    this.hintTimer = setTimeout(() => {
      document.body.dataset.hint = "false";
    }, HINT_MS);
  }

  #dress(theme) {
    const { key, art: own } = describeTheme(theme);
    const art = this.choice?.now.url ?? own;
    document.body.dataset.theme = key;
    const backdrop = byId("backdrop");
    if (backdrop.dataset.art === art) return;
    backdrop.dataset.art = art;
    const image = new Image();
    image.src = art;
    image.alt = "";
    image
      .decode()
      .catch(() => {})
      .then(() => {
        if (backdrop.dataset.art !== art) return;
        for (const old of [...backdrop.children].slice(0, -1)) old.remove();
        backdrop.append(image);
      });
  }

  #openMenu() {
    this.menu.show(this.session.view(performance.now()));
  }

  #key(code) {
    this.#useInput("keys");
    if (code === "Escape") this.#openMenu();
    else if (code === "KeyH") this.hud.toggle();
    else if (code === "KeyF") toggleFullscreen();
    else return false;
    return true;
  }

  #useInput(kind) {
    if (kind) document.body.dataset.input = kind;
  }

  #gamepad(pad) {
    if (pad === null) return toast("Gamepad disconnected", "pad");
    const name = pad.id.replace(/\s*\(.*\)\s*$/, "") || "Gamepad";
    toast(
      pad.mapping === "standard"
        ? `${name} connected`
        : `${name} connected, with an unusual layout: sticks may be swapped`,
      "pad",
    );
    this.#useInput("pad");
    if (this.session.state === "playing") this.#hint();
  }

  #prefer(changes) {
    Object.assign(this.preferences, changes);
    document.body.dataset.fill = String(this.preferences.fill);
    settings.savePreferences(this.preferences);
  }

  // -- URL and storage ----------------------------------------------------------------------------

  #address() {
    const url = new URL(location.href);
    if (this.session.theme) url.searchParams.set("theme", this.session.theme);
    if (this.session.seed !== null) url.searchParams.set("seed", String(this.session.seed));
    history.replaceState(null, "", url);
  }

  #store() {
    if (!this.resume) return settings.saveSession(null);
    const { theme, seed } = this.session;
    settings.saveSession({
      resume: this.resume,
      theme,
      seed,
      at: Date.now(),
      counters: this.controller.counters,
    });
  }

  // -- statistics ---------------------------------------------------------------------------------

  stats() {
    const now = performance.now();
    const { counts, canvas, video, matcher, transport } = this;
    return profile({
      view: this.session.view(now),
      meter: this.meter,
      clock: this.clock,
      rate: this.rate,
      transport,
      now,
      seconds: counts.firstShown === null ? 0 : (now - counts.firstShown) / 1000,
      counts: {
        frames: {
          received: counts.received,
          shown: counts.shown,
          dropped_server: counts.droppedServer,
          dropped_page: canvas.dropped + video.dropped,
          damaged: canvas.broken,
          headers_without_frame: matcher.skipped,
          matched_by: matcher.approximate ? "order" : "rtp",
        },
        inputs: { sent: counts.sent, measured: counts.measured, held_back: transport.inputsSkipped },
      },
    });
  }
}

const page = new Page();
Object.defineProperty(window, "worldbridge", {
  value: Object.freeze({
    get state() {
      return page.session.state;
    },
    get session() {
      return Object.freeze(page.session.view(performance.now()));
    },
    stats: () => page.stats(),
  }),
});
page.start();
