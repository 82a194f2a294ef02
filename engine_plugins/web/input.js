// The state of all controls as one snapshot. No DOM: `controls.js` and `sticks.js` feed it,
// `main.js` sends it.

import { HISTORY, MAX_KEYS } from "./protocol.js";

export const SAMPLE_MS = 1000 / 60; // keepalive rate; changes go out at once
export const MIN_GAP_MS = 6; // a 1000 Hz mouse must not become 1000 packets a second

const clamp = (value) => Math.max(-1, Math.min(1, value));
const stronger = (a, b) => (Math.abs(a) >= Math.abs(b) ? a : b);

export class ControlState {
  #keys = new Map(); // code -> time of press
  #releases = new Map(); // code -> time at which a short tap ends
  #pointer = [0, 0]; // cumulative pixels since the session began, +x right, +y down
  #sources = new Map(); // name -> {axes, buttons}
  #history = [];
  #next = 0;

  /**
   * `holdMs`: a tap lasts at least this long, one step of the world, so that the step that samples
   * next sees it.
   */
  constructor({ seq = 0, pointer = [0, 0], holdMs = 0 } = {}) {
    this.#next = seq;
    this.#pointer = [...pointer];
    this.holdMs = holdMs;
  }

  press(code, now) {
    this.#releases.delete(code);
    if (this.#keys.has(code)) return false;
    if (this.#keys.size >= MAX_KEYS) return false;
    this.#keys.set(code, now);
    return true;
  }

  release(code, now) {
    const pressed = this.#keys.get(code);
    if (pressed === undefined) return false;
    const end = pressed + this.holdMs;
    if (now >= end) return this.#keys.delete(code);
    this.#releases.set(code, end);
    return false;
  }

  /** Relative movement in pixels. Whole counters are sent, so a lost packet loses no movement. */
  movePointer(dx, dy) {
    if (dx === 0 && dy === 0) return false;
    this.#pointer[0] += dx;
    this.#pointer[1] += dy;
    return true;
  }

  /**
   * Sticks and buttons of one source ("gamepad", "touch"); the stronger deflection wins on each
   * axis.
   */
  setPad(name, axes, buttons) {
    const before = this.#sources.get(name);
    const same = before && before.buttons === buttons && before.axes.every((v, i) => v === axes[i]);
    if (same) return false;
    this.#sources.set(name, { axes: axes.map(clamp), buttons });
    return true;
  }

  /**
   * Lets go of everything (focus lost, menu opened). The pointer counters stay: they are totals,
   * not a state.
   */
  releaseAll() {
    const held = this.#keys.size > 0 || this.#sources.size > 0;
    this.#keys.clear();
    this.#releases.clear();
    this.#sources.clear();
    return held;
  }

  #endTaps(now) {
    for (const [code, end] of this.#releases) {
      if (now < end) continue;
      this.#releases.delete(code);
      this.#keys.delete(code);
    }
  }

  snapshot(now) {
    this.#endTaps(now);
    const axes = [0, 0, 0, 0];
    let buttons = 0;
    for (const pad of this.#sources.values()) {
      pad.axes.forEach((value, i) => {
        axes[i] = stronger(axes[i], value);
      });
      buttons |= pad.buttons;
    }
    const snapshot = {
      seq: this.#next,
      time: now,
      axes,
      buttons,
      keys: [...this.#keys.keys()],
      pointer: [...this.#pointer],
      pose: null,
    };
    this.#next += 1;
    this.#history.unshift(snapshot);
    this.#history.length = Math.min(this.#history.length, HISTORY);
    return snapshot;
  }

  /** The last four snapshots, newest first: what every packet carries. */
  get history() {
    return [...this.#history];
  }

  /** What a reloaded page needs so that its counters do not run backwards. */
  get counters() {
    return { seq: this.#next, pointer: [...this.#pointer] };
  }
}

/**
 * Decides when a snapshot is due: at once after a change, but never denser than MIN_GAP_MS, and at
 * 60 Hz anyway.
 */
export class SendClock {
  #last = -Infinity;
  #next = -Infinity;
  #dirty = false;

  changed() {
    this.#dirty = true;
  }

  due(now) {
    const regular = now >= this.#next;
    if (!regular && !(this.#dirty && now - this.#last >= MIN_GAP_MS)) return false;
    // Counting from the moment it was due, not from now, keeps the average at 60 Hz whatever the
    // timer's grain.
    const late = regular && now - this.#next < SAMPLE_MS;
    this.#next = (late ? this.#next : now) + SAMPLE_MS;
    this.#last = now;
    this.#dirty = false;
    return true;
  }
}
