// The status card of every state but playing, and the notice of a stalled world.

import { byId, setText } from "./dom.js";
import { titleOf } from "./prompt_frames.js";
import { describeTheme } from "./themes.js";

const TITLES = {
  connecting: "Connecting",
  queued: "Waiting for a seat",
  loading: "Preparing your world",
  reconnecting: "Reconnecting",
  full: "The server is full",
  error: "Something went wrong",
};

const seconds = (value) => `${Math.floor(value)}\u00a0s`;
const sentence = (text) => {
  const trimmed = text.trim().replace(/\.$/, "");
  return trimmed === "" ? "" : `${trimmed.charAt(0).toUpperCase()}${trimmed.slice(1)}.`;
};

function detailOf(view) {
  if (view.state === "connecting") {
    return view.attempt > 0
      ? `${sentence(view.detail)} Attempt ${view.attempt + 1}.`
      : sentence(view.detail);
  }
  if (view.state === "queued") {
    const place =
      view.position === null ? "" : ` You are number ${view.position + 1} in the queue.`;
    const wait =
      view.expectedWait === null
        ? ""
        : ` About ${seconds(Math.max(1, Math.round(view.expectedWait)))} to go.`;
    return sentence(view.detail) + place + wait;
  }
  if (view.state === "full") {
    const seats = view.error?.got ? ` (${view.error.got})` : "";
    const wait = seconds(Math.ceil(view.retryIn ?? 0));
    return `${sentence(view.detail + seats)} Trying again in ${wait}.`;
  }
  if (view.state === "reconnecting" && view.attempt > 0) {
    const left = Math.ceil((view.kept ?? 0) - view.seconds);
    const kept = left > 0 ? ` Your seat is kept for ${seconds(left)} more.` : "";
    return `${sentence(view.detail)} Attempt ${view.attempt}.${kept}`;
  }
  return view.state === "loading"
    ? sentence(view.detail).replace(/\.$/, "")
    : sentence(view.detail);
}

export class StatusCard {
  #announced = "";

  /** `hooks`: retry(), leave(), authorize(token) */
  constructor(hooks) {
    this.root = byId("status");
    byId("status-retry").addEventListener("click", () => hooks.retry());
    byId("status-leave").addEventListener("click", () => hooks.leave());
    byId("token-form").addEventListener("submit", (event) => {
      event.preventDefault();
      hooks.authorize(byId("token").value.trim());
    });
  }

  update(view) {
    const { state } = view;
    const on = state in TITLES;
    this.root.hidden = !on;
    this.#stall(view);
    if (!on) return this.#announce(state === "playing" ? "Playing" : "");
    this.root.dataset.state = state;
    setText(
      byId("status-title"),
      state === "error" ? sentence(view.error.message).replace(/\.$/, "") : TITLES[state],
    );
    setText(byId("status-detail"), state === "error" ? "" : detailOf(view));
    setText(
      byId("status-theme"),
      [
        view.promptFrames > 0 && titleOf(view.promptFrames),
        view.theme && `${describeTheme(view.theme).title} · seed ${view.seed ?? "–"}`,
      ]
        .filter(Boolean)
        .join(" · "),
    );
    setText(
      byId("status-time"),
      state === "reconnecting" || (state !== "full" && state !== "error" && view.seconds > 3)
        ? seconds(view.seconds)
        : "",
    );
    this.#progress(view);
    byId("status-retry").hidden =
      !["error", "full", "reconnecting"].includes(state) ||
      (state === "reconnecting" && view.retryIn === null);
    this.#error(view);
    setText(
      byId("status-retry-text"),
      state === "error" ? "Try again" : state === "full" ? "Try now" : "Retry now",
    );
    // Without the countdown, which a screen reader would read every second.
    const words = state === "full" ? view.detail : byId("status-detail").textContent;
    this.#announce(`${byId("status-title").textContent}. ${words}`);
  }

  #progress({ state, progress, retryIn }) {
    const bar = byId("status-bar");
    bar.hidden = state === "error";
    const known = state === "loading" && progress !== null;
    const waiting = state === "full" && retryIn !== null;
    const value = known ? progress : waiting ? 1 - Math.min(1, retryIn / 5) : null;
    bar.classList.toggle("busy", value === null);
    if (value === null) bar.removeAttribute("aria-valuenow");
    else bar.setAttribute("aria-valuenow", Math.round(value * 100));
    bar.firstElementChild.style.width = value === null ? "" : `${(value * 100).toFixed(1)}%`;
    setText(byId("status-percent"), known ? `${Math.round(progress * 100)} %` : "");
  }

  #error({ state, error }) {
    const on = state === "error";
    byId("status-facts").hidden = !on;
    const locked = on && error.code === "unauthorized";
    byId("token-form").hidden = !locked;
    if (locked) byId("status-retry").hidden = true;
    if (!on) return;
    for (const name of ["expected", "got", "remedy", "path", "code"]) {
      const verbatim = name === "path" || name === "code";
      setText(byId(`error-${name}`), verbatim ? error[name] : sentence(error[name]));
      byId(`error-${name}`).parentElement.hidden = !error[name];
    }
  }

  /** Say why the world stands still. */
  #stall({ stalledFor }) {
    byId("stall").hidden = stalledFor === 0;
    if (stalledFor > 0)
      setText(
        byId("stall-text"),
        `No new frame for ${seconds(stalledFor)}. The connection is open; waiting for the world.`,
      );
  }

  #announce(text) {
    if (text === this.#announced) return;
    this.#announced = text;
    setText(byId("live"), text);
  }
}
