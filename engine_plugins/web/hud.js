// The latency display: a pill with the summary, and a panel with every latency span.

import { byId, copy, download, h, setText, toast } from "./dom.js";
import { SPAN_TEXT, SPANS } from "../js/latency.js";
import { describeTheme } from "./themes.js";

const REFRESH_MS = 500;
const HISTORY = 90; // points of the sparkline: 45 s

const ms = (value) => (value === null ? "–" : value.toFixed(value >= 99.95 ? 0 : 1));
const whole = (value) => (value === null ? "–" : Math.round(value).toString());

export class Hud {
  #history = [];
  #next = 0;

  /** `source`: stats() -> profile, csv() -> text, test() -> promise of a LatencyTest's result */
  constructor(source, toggled) {
    this.source = source;
    this.toggled = toggled;
    this.pill = byId("hud-pill");
    this.panel = byId("hud-panel");
    this.rows = new Map();
    this.#build();
    this.pill.addEventListener("click", () => this.toggle());
    byId("hud-close").addEventListener("click", () => this.toggle(false));
    byId("hud-copy").addEventListener("click", () => this.#copy());
    byId("hud-test").addEventListener("click", () => this.#test());
    byId("hud-csv").addEventListener("click", () =>
      download("worldbridge-latency.csv", "text/csv", source.csv()),
    );
  }

  #build() {
    for (const span of SPANS) {
      const segment = h("i", { class: `span-${span}` });
      const p50 = h("td");
      const p95 = h("td");
      byId("span-bar").append(segment);
      byId("span-rows").append(
        h(
          "tr",
          { title: SPAN_TEXT[span] },
          h("th", { scope: "row" }, h("i", { class: `span-${span}` }), span),
          p50,
          p95,
        ),
      );
      this.rows.set(span, { segment, p50, p95 });
    }
  }

  get open() {
    return !this.panel.hidden;
  }

  toggle(open = !this.open) {
    if (open === this.open) return;
    this.panel.hidden = !open;
    this.pill.setAttribute("aria-expanded", String(open));
    this.#next = 0;
    this.toggled(open);
  }

  async #copy() {
    const done = await copy(JSON.stringify(this.source.stats(), null, 2));
    toast(
      done
        ? "Profile copied as JSON"
        : "The browser did not allow copying. Download the CSV instead.",
      done ? "info" : "warn",
    );
  }

  async #test() {
    const button = byId("hud-test");
    button.disabled = true;
    const { presses, pixels_ms, reported_ms } = await this.source.test();
    button.disabled = false;
    button.blur(); // the keyboard steers again
    if (presses.length === 0) toast("Nothing moved. Play, stand still and try again.", "warn");
    else toast(`Pixels moved after ${ms(pixels_ms)} ms, reported: ${ms(reported_ms)} ms`);
  }

  update(now) {
    if (now < this.#next) return;
    this.#next = now + REFRESH_MS;
    const stats = this.source.stats();
    const { p50, p95 } = stats.input_to_photon_ms;
    const connected = stats.page.state === "playing";
    if (connected) {
      this.#history.push(p50);
      if (this.#history.length > HISTORY) this.#history.shift();
    }
    this.pill.dataset.state = stats.page.state;
    setText(byId("pill-fps"), connected ? whole(stats.frames_per_second) : "–");
    setText(byId("pill-p50"), connected ? whole(p50) : "–");
    setText(byId("pill-p95"), connected ? whole(p95) : "–");
    if (this.open) this.#details(stats);
  }

  #details(stats) {
    setText(byId("hud-p50"), ms(stats.input_to_photon_ms.p50));
    setText(byId("hud-p95"), ms(stats.input_to_photon_ms.p95));
    setText(byId("hud-p99"), ms(stats.input_to_photon_ms.p99));
    for (const [span, { segment, p50, p95 }] of this.rows) {
      const summary = stats.spans_ms[span];
      // Widths by the mean: means add up to the mean of the total, medians do not. An error of the
      // clock offset can make a short span slightly negative.
      segment.style.flexGrow = Math.max(0, summary.mean ?? 0);
      setText(p50, ms(summary.p50));
      setText(p95, ms(summary.p95));
    }
    this.#spark();
    this.#facts(stats);
  }

  #spark() {
    const known = this.#history.filter((value) => value !== null);
    const top = Math.max(40, ...known) * 1.15;
    const points = this.#history.map((value, i) => [
      (i / (HISTORY - 1)) * 300,
      48 - ((value ?? 0) / top) * 46,
    ]);
    const line = points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ");
    byId("spark-line").setAttribute("points", line);
    byId("spark-area").setAttribute(
      "points",
      points.length ? `0,50 ${line} ${points.at(-1)[0].toFixed(1)},50` : "",
    );
    setText(byId("spark-top"), `${Math.round(top)} ms`);
  }

  #facts(stats) {
    const { world, frames, inputs, clock, theme, seed } = stats.page;
    const [way, codec] = stats.transport.split("-");
    const name = way === "webrtc" ? "WebRTC" : "WebSocket";
    const path = [codec?.toUpperCase(), codec && "over", name].filter(Boolean).join(" ");
    const dropped = `dropped: ${frames.dropped_server} server, ${frames.dropped_page} page`;
    const facts = {
      frames: `${frames.shown} shown, ${dropped}`,
      transport: path,
      input: inputs.path === "datachannel" ? "WebRTC data channel" : "WebSocket",
      rtt:
        clock.rtt_ms === null ? "–" : `${ms(clock.rtt_ms)} ms, shortest ${ms(clock.min_rtt_ms)} ms`,
      world: world
        ? `${world.title} · ${theme ? describeTheme(theme).title : "–"} · seed ${seed ?? "–"}`
        : "–",
      size: world ? `${world.width} × ${world.height} at ${world.fps} fps` : "–",
    };
    for (const [name, text] of Object.entries(facts)) setText(byId(`fact-${name}`), text);
  }
}
