// The page: connects a client of the gateway to displays, controls and panels.

import { Client, SLOW_TICK_MS, TICK_MS } from "../js/client.js";
import { MAX_PROMPT_FRAMES } from "../js/protocol.js";
import { decodesH264 } from "../js/h264.js";
import { sessionUrl } from "../js/transport.js";
import { VideoChoice } from "../js/video_choice.js";
import { showControls } from "./control_help.js";
import { Controls } from "./controls.js";
import { CanvasDisplay, VideoDisplay } from "./display.js";
import { byId, toast } from "./dom.js";
import { Hud } from "./hud.js";
import { Landing } from "./landing.js";
import { LatencyTest } from "./latency_test.js";
import { Menu, toggleFullscreen } from "./menu.js";
import { Minimap } from "./minimap.js";
import { DropArea, PromptChoice, PromptControl } from "./prompt_frames.js";
import { PromptStore } from "./prompt_store.js";
import { RefreshPeriod } from "./refresh.js";
import { ServerInfo } from "./server.js";
import * as settings from "./settings.js";
import { profile } from "./stats.js";
import { StatusCard } from "./status.js";
import { Sticks } from "./sticks.js";
import { describeTheme } from "./themes.js";

const RENDER_MS = 200;
const SEAT_KEPT_MS = 30_000; // how long the gateway keeps the seat of a lost connection
const RECALL_MS = 1000; // longest wait of ?autoplay=1 for stored prompt frames
const MEASURED_FRAMES = 300; // shown, after which a way of video is compared with the others
const HINT_MS = 7000;
const IN_WORLD = ["loading", "playing", "reconnecting"];

class Page {
  constructor() {
    this.url = settings.readUrl(location.search);
    this.preferences = settings.loadPreferences();
    this.stored = settings.loadSession();
    this.rendered = { at: -Infinity, state: null };
    this.#connections();
    this.#inputs();
    this.#panels();
    this.#promptFrames();
    this.#timers();
    this.#prefer({});
  }

  get state() {
    return this.client.state;
  }

  get inWorld() {
    return IN_WORLD.includes(this.state);
  }

  #connections() {
    const refresh = new RefreshPeriod();
    const handlers = {
      changed: () => this.#render(true),
      frame: ({ header, image }, received) => this.canvas.push(header, image, received),
      header: ({ camera }) => this.minimap.trail.add(camera),
      decoded: (...frame) => this.canvas.show(...frame),
      track: (stream) => this.video.attach(stream),
      videoFailed: (video) => this.choiceOfVideo.failed(video, Date.now()),
      welcomed: (welcome) => this.#welcomed(welcome),
      resumable: (token) => {
        this.resume = token;
        this.#store();
      },
      notice: (text, tone) => toast(text, tone, 7),
      startRejected: () => {
        this.played = this.playedBefore;
        this.choice.restore(this.played);
        this.#address();
      },
    };
    const ways = decodesH264() ? ["webrtc", "h264"] : ["webrtc"];
    this.choiceOfVideo = new VideoChoice(settings.loadVideo(), settings.saveVideo, ways);
    this.client = new Client(sessionUrl(document.baseURI), handlers, {
      video: this.url.video,
      order: this.choiceOfVideo.order(Date.now()),
      token: settings.takeToken(),
      counters: this.stored.counters,
      refreshPeriod: (now) => refresh.milliseconds(now),
    });
    this.canvas = new CanvasDisplay(byId("canvas"), (...frame) => this.client.imageShown(...frame));
    this.video = new VideoDisplay(byId("video"), (...frame) => this.client.videoShown(...frame));
  }

  #inputs() {
    const changed = () => this.client.inputChanged();
    this.controls = new Controls(this.client.controller, byId("stage"), this.preferences, {
      active: () => !this.menu.open && this.inWorld,
      changed,
      key: (code) => this.#key(code),
      unlocked: () => {
        if (this.state === "playing" && document.hasFocus()) this.#openMenu();
      },
      gamepad: (pad) => this.#gamepad(pad),
    });
    this.sticks = new Sticks(byId("sticks"), this.client.controller, this.preferences, changed);
    addEventListener(
      "pointerdown",
      (event) => this.#useInput(event.pointerType === "touch" ? "touch" : null),
      true,
    );
    document.body.dataset.input = matchMedia("(pointer: coarse)").matches ? "touch" : "keys";
  }

  #panels() {
    this.landing = new Landing({
      play: (theme, seed) => this.play(theme, seed),
      watch: () => this.watch(),
      resume: () => this.#resumeStored(),
      picked: (theme) => this.state === "idle" && this.#dress(theme),
    });
    this.server = new ServerInfo(
      document.baseURI,
      (themes) => {
        this.#prefer({ themes });
        if (this.state === "idle")
          this.landing.show(themes, this.landing.cards.value, this.landing.seed.value);
      },
      (limit, offered) => this.choice.offer(limit, offered),
    );
    this.status = new StatusCard({
      retry: () => this.client.retry(),
      leave: () => this.client.leave(),
      authorize: (token) => {
        settings.saveToken(token);
        this.client.retry(token);
      },
    });
    this.menu = new Menu(this.preferences, {
      apply: (theme, seed) => this.#restart(theme, seed, this.choice.now.value),
      reset: () => this.#restart(this.client.session.theme, this.client.session.seed),
      leave: () => this.client.leave(),
      control: () => {
        if (this.client.session.role !== "spectator") return this.client.handOver();
        this.client.requestControl();
        toast("The player has been asked for the controls");
      },
      link: () =>
        settings.shareUrl(location.href, this.client.session.theme, this.client.session.seed),
      promptFrames: () => this.played.value?.length ?? 0,
      preferences: (changes) => this.#prefer(changes),
      opened: () => {
        this.controls.free();
        this.controls.releaseAll();
        this.sticks.reset();
      },
      closed: () => byId("menu-button").focus({ preventScroll: true }),
    });
    this.latencyTest = new LatencyTest({
      client: this.client,
      source: () => byId(this.client.view().video === "webrtc" ? "video" : "canvas"),
      changed: () => this.client.inputChanged(),
      flash: (on) => (byId("flash").hidden = !on),
    });
    const source = {
      stats: () => this.stats(),
      csv: () => this.client.meter.csv(),
      test: () => this.latencyTest.run(),
    };
    this.hud = new Hud(source, (open) =>
      this.#prefer({ hud: open }),
    );
    this.minimap = new Minimap();
    byId("menu-button").addEventListener("click", () => this.#openMenu());
    byId("fullscreen-button").addEventListener("click", () => toggleFullscreen());
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
    if (!(await this.choice.take(files)) || this.menu.open) return;
    const { theme, seed } = this.client.session;
    if (this.inWorld) this.#restart(theme, seed, this.choice.now.value);
    else byId("play").focus({ preventScroll: true });
  }

  #timers() {
    this.ticker = new Worker(new URL("ticker.js", import.meta.url));
    this.ticker.onmessage = () => this.#tick();
    document.addEventListener("visibilitychange", () => {
      this.client.meter.forget(); // a hidden page shows nothing, which is not latency
      this.sticks.reset();
      this.#pace();
    });
    addEventListener("pagehide", () => {
      this.#store();
      this.#rememberVideo();
      this.client.pageHidden();
    });
  }

  #tick() {
    this.controls.poll();
    this.client.tick(!document.hidden);
    if (performance.now() - this.rendered.at > RENDER_MS) this.#render(false);
  }

  #pace() {
    const idle = this.state === "idle" || this.state === "error";
    const fast = this.state === "playing" && !document.hidden;
    this.ticker.postMessage(idle ? null : fast ? TICK_MS : SLOW_TICK_MS);
  }

  // -- entering and leaving a world ---------------------------------------------------------------

  async start() {
    const themes = this.preferences.themes;
    this.landing.show(themes, this.url.theme ?? this.preferences.theme, this.url.seed);
    const recalled = this.choice.recall(); // Play does not wait for it
    if (this.url.watch) return this.watch();
    if (this.url.autoplay) {
      await Promise.race([recalled, new Promise((done) => setTimeout(done, RECALL_MS))]);
      if (this.state !== "idle") return;
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
    this.played = this.choice.now;
    this.client.play({ theme, seed, promptFrames: this.played.value, resume });
  }

  /** Watch whoever plays. */
  watch() {
    this.client.play({ theme: null, seed: null, role: "spectator" });
  }

  #resumeStored() {
    this.play(this.stored.theme, this.stored.seed, this.stored.resume);
  }

  #restart(theme, seed, promptFrames = null) {
    this.#prefer({ theme });
    this.#dress(theme);
    this.playedBefore = this.played;
    this.minimap.trail.clear();
    if (promptFrames !== null) this.played = this.choice.now;
    this.client.restart(theme, seed, promptFrames);
    this.#address();
  }

  #welcomed({ world }) {
    this.minimap.begin(world);
    this.#prefer({ themes: world.themes });
    this.choice.offer(world.max_prompt_frames, this.choice.offered);
    showControls(world.action_schema);
    this.#address();
  }

  // -- rendering ----------------------------------------------------------------------------------

  #render(entered) {
    const view = this.client.view();
    const before = this.rendered.state;
    const now = performance.now();
    this.rendered = { at: now, state: view.state };
    const { dataset } = document.body;
    dataset.state = view.state;
    dataset.video = view.video;
    dataset.frame = String(
      view.lastFrame !== null || (dataset.frame === "true" && view.state === "reconnecting"),
    );
    this.status.update(view);
    this.hud.update(now);
    this.minimap.update();
    if (entered && before !== view.state) this.#entered(view, before);
  }

  #entered(view, before) {
    this.#pace();
    byId("landing").inert = view.state !== "idle";
    if (view.theme && view.state !== "idle") this.#dress(view.theme);
    if (view.state === "playing") this.#startedPlaying(before);
    else if (view.state !== "reconnecting") this.hud.panel.hidden = true;
    if (["idle", "error", "full", "queued"].includes(view.state)) {
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

  /** Show a theme's artwork, or the chosen prompt frame, behind the panels. */
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
    this.menu.show(this.client.view());
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
    const unusual = pad.mapping === "standard" ? "" : " with an unusual layout: check the sticks";
    toast(`${name} connected${unusual}`, "pad");
    this.#useInput("pad");
    if (this.state === "playing") this.#hint();
  }

  // -- URL and storage ----------------------------------------------------------------------------

  #prefer(changes) {
    Object.assign(this.preferences, changes);
    document.body.dataset.fill = String(this.preferences.fill);
    settings.savePreferences(this.preferences);
  }

  #address() {
    const { theme, seed } = this.client.session;
    const url = new URL(location.href);
    if (theme) url.searchParams.set("theme", theme);
    if (seed !== null) url.searchParams.set("seed", String(seed));
    history.replaceState(null, "", url);
  }

  #store() {
    if (!this.resume) return settings.saveSession(null);
    const { theme, seed } = this.client.session;
    const { counters } = this.client.controller;
    settings.saveSession({ resume: this.resume, theme, seed, at: Date.now(), counters });
  }

  /** Keep how fast video was, so that the next session takes the fastest way. */
  #rememberVideo() {
    const { client } = this;
    if (client.state !== "playing" || client.counts.shown < MEASURED_FRAMES) return;
    const { downlink, show } = client.meter.rolling().spans;
    const ms = downlink.p95 + show.p95;
    if (downlink.count > 0) this.choiceOfVideo.measured(client.view().video, ms, Date.now());
  }

  // -- statistics ---------------------------------------------------------------------------------

  stats() {
    const { canvas, video, client } = this;
    return profile(client, { dropped: canvas.dropped + video.dropped, damaged: canvas.broken });
  }
}

const page = new Page();
Object.defineProperty(window, "worldbridge", {
  value: Object.freeze({
    get state() {
      return page.state;
    },
    get session() {
      return Object.freeze(page.client.view());
    },
    stats: () => page.stats(),
    /** Press some keys and compare when pixels move with the latency that the page reports. */
    latencyTest: (presses) => page.latencyTest.run(presses),
  }),
});
page.start();
