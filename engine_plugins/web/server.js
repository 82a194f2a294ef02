// The server's state on the start screen: a line of text, its themes and its prompt frames.

import { byId, setText } from "./dom.js";

const POLL_MS = 4000;

/**
 * Describe the answer of /health, or null for no answer.
 * @returns {{tone: "good"|"warn"|"bad", text: string}}
 */
export function describeHealth(health) {
  if (health === null) return { tone: "bad", text: "The server does not answer" };
  const { ready, detail, progress, seats } = health;
  if (!ready) {
    const percent = typeof progress === "number" ? ` · ${Math.round(progress * 100)} %` : "";
    return { tone: "warn", text: `Getting ready${detail ? `: ${detail}` : ""}${percent}` };
  }
  if (!seats) return { tone: "good", text: "Ready" };
  const free = seats.total - seats.used;
  if (free <= 0) {
    const waiting = seats.waiting > 0 ? ` · ${seats.waiting} waiting` : "";
    const kept = seats.kept_s > 0 ? ` · one is kept for ${Math.ceil(seats.kept_s)} s` : "";
    const taken = seats.total === 1 ? "The seat is taken" : `All ${seats.total} seats are taken`;
    return { tone: "warn", text: `${taken}${waiting}${kept}` };
  }
  return {
    tone: "good",
    text: `Ready · ${free} of ${seats.total} ${seats.total === 1 ? "seat" : "seats"} free`,
  };
}

export class ServerInfo {
  #timer = null;
  #themes = "";

  /** `foundPromptFrames(limit, offered)`: the most a world takes, and how many the server has. */
  constructor(base, foundThemes, foundPromptFrames) {
    this.base = base;
    this.foundThemes = foundThemes;
    this.foundPromptFrames = foundPromptFrames;
  }

  /** Start or stop polling. */
  watch(on) {
    if (on === (this.#timer !== null)) return;
    clearInterval(this.#timer);
    this.#timer = on ? setInterval(() => this.#poll(), POLL_MS) : null;
    if (on) this.#poll();
  }

  async #poll() {
    if (document.hidden) return;
    const [health, worlds] = await Promise.all([this.#get("health"), this.#get("worlds")]);
    const { tone, text } = describeHealth(health);
    byId("server").dataset.tone = tone;
    byId("watch").hidden = !(health?.seats?.used > 0);
    setText(byId("server-text"), text);
    if (worlds?.[0])
      this.foundPromptFrames(worlds[0].max_prompt_frames ?? 0, health?.prompt_frames ?? 0);
    const themes = worlds?.[0]?.themes;
    if (!Array.isArray(themes) || themes.length === 0 || themes.join() === this.#themes) return;
    this.#themes = themes.join();
    this.foundThemes(themes.filter((theme) => typeof theme === "string"));
  }

  async #get(path) {
    try {
      const response = await fetch(new URL(path, this.base), { cache: "no-store" });
      return response.ok ? await response.json() : null;
    } catch {
      return null; // no network, no server or no JSON
    }
  }
}
