// A player's devices as a sequence of controller states. It knows neither DOM nor clock: the caller
// reports key presses, pointer movement and stick positions, and samples when `SendClock` says so.

import { MAX_KEYS, STATES_PER_INPUT } from "./protocol.js";

export const SAMPLE_MS = 1000 / 60; // interval while nothing changes; a change is sent at once
export const MIN_GAP_MS = 6; // a 1000 Hz mouse must not send 1000 packets a second

const clamp = (value) => Math.max(-1, Math.min(1, value));
const stronger = (a, b) => (Math.abs(a) >= Math.abs(b) ? a : b);

export class Controller {
  #keys = new Map(); // code -> time of press
  #releases = new Map(); // code -> when a short tap ends
  #pointer = [0, 0]; // pixels moved since the session began, +x right, +y down
  #sources = new Map(); // name -> {axes, buttons}
  #history = [];
  #next = 0;

  /**
   * @param {object} [options]
   * @param {number} [options.sequence] sequence number of the first state
   * @param {[number, number]} [options.pointer] pointer totals to continue from
   * @param {number} [options.holdMs] shortest duration of a key press: one step of the world, so
   *   that no step misses a tap
   */
  constructor({ sequence = 0, pointer = [0, 0], holdMs = 0 } = {}) {
    this.#next = sequence;
    this.#pointer = [...pointer];
    this.holdMs = holdMs;
    this.camera = null; // {position, orientation, fov_y} of a client that moves the camera itself
  }

  /** Press a key. @returns {boolean} whether the state changed */
  press(code, now) {
    this.#releases.delete(code);
    if (this.#keys.has(code)) return false;
    if (this.#keys.size >= MAX_KEYS) return false;
    this.#keys.set(code, now);
    return true;
  }

  /** Release a key, or schedule its release. @returns {boolean} whether the state changed */
  release(code, now) {
    const pressed = this.#keys.get(code);
    if (pressed === undefined) return false;
    const end = pressed + this.holdMs;
    if (now >= end) return this.#keys.delete(code);
    this.#releases.set(code, end);
    return false;
  }

  /** Add pointer movement in pixels. Totals are sent, so a lost packet loses no movement. */
  movePointer(dx, dy) {
    if (dx === 0 && dy === 0) return false;
    this.#pointer[0] += dx;
    this.#pointer[1] += dy;
    return true;
  }

  /**
   * Set the sticks (-1..1) and button bits of one source, such as "gamepad" or "touch". On each
   * axis the source that is deflected furthest counts.
   */
  setPad(name, axes, buttons) {
    const before = this.#sources.get(name);
    const now = { axes: axes.map(clamp), buttons };
    this.#sources.set(name, now);
    return !(before?.buttons === buttons && before.axes.every((v, i) => v === now.axes[i]));
  }

  /** Release all keys, sticks and buttons. Pointer totals are kept. */
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

  /** Take the next controller state and remember it for `history`. */
  sample(now) {
    this.#endTaps(now);
    const axes = [0, 0, 0, 0];
    let buttons = 0;
    for (const pad of this.#sources.values()) {
      pad.axes.forEach((value, i) => {
        axes[i] = stronger(axes[i], value);
      });
      buttons |= pad.buttons;
    }
    const state = {
      sequence: this.#next,
      time: now,
      axes,
      buttons,
      keys: [...this.#keys.keys()],
      pointer: [...this.#pointer],
      camera: this.camera,
    };
    this.#next += 1;
    this.#history.unshift(state);
    this.#history.length = Math.min(this.#history.length, STATES_PER_INPUT);
    return state;
  }

  /** The last states, newest first: every input message carries them. */
  get history() {
    return [...this.#history];
  }

  /** Totals to continue from after a page reload. */
  get counters() {
    return { sequence: this.#next, pointer: [...this.#pointer] };
  }
}

/** Decide when the next state is due: right after a change, at 60 Hz otherwise. */
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
    // Counting from when it was due, not from now, keeps 60 Hz on average with a coarse timer.
    const late = regular && now - this.#next < SAMPLE_MS;
    this.#next = (late ? this.#next : now) + SAMPLE_MS;
    this.#last = now;
    this.#dirty = false;
    return true;
  }
}
