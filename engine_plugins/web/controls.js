// Keyboard, mouse and gamepad of a browser as input of a Controller.

import { Gamepads } from "../js/gamepads.js";

const TYPING = "input, select, textarea, [contenteditable]";

/** Modifier keys by the property of an event that says whether one of them is down. */
const MODIFIERS = { shiftKey: "Shift", ctrlKey: "Control", altKey: "Alt", metaKey: "Meta" };

export class Controls {
  /**
   * `hooks`: active() -> bool, changed(), key(code) -> true if the page handled it,
   * unlocked(), gamepad(pad or null)
   */
  constructor(state, stage, preferences, hooks) {
    this.state = state;
    this.stage = stage;
    this.preferences = preferences;
    this.hooks = hooks;
    this.pads = new Gamepads();
    this.pad = null; // the one that steers
    this.#keyboard();
    this.#mouse();
    this.#gamepad();
  }

  #note(changed) {
    if (changed) this.hooks.changed();
  }

  releaseAll() {
    this.#note(this.state.releaseAll());
  }

  /**
   * Release modifiers that an event says are up. Their own release may never have come: the system
   * took it, or both keys of a kind were pressed.
   */
  #healModifiers(event) {
    for (const [property, name] of Object.entries(MODIFIERS)) {
      if (event[property] !== false) continue;
      for (const side of ["Left", "Right"])
        this.#note(this.state.release(name + side, performance.now()));
    }
  }

  #keyboard() {
    addEventListener("keydown", (event) => {
      if (event.isComposing || !event.code) return; // an input method or a virtual keyboard
      this.#healModifiers(event);
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.(TYPING)) return;
      if (!this.hooks.active()) return;
      if (!event.repeat && this.hooks.key(event.code)) return event.preventDefault();
      // A focused button keeps Tab, Enter and Space; all other keys control the world.
      if (
        event.code === "Tab" ||
        (event.target.closest?.("button, a, summary") && /^(Enter|Space)$/.test(event.code))
      )
        return;
      event.preventDefault();
      if (!event.repeat && event.code.length <= 24)
        this.#note(this.state.press(event.code, performance.now()));
    });
    addEventListener("keyup", (event) => {
      this.#note(this.state.release(event.code, performance.now()));
      this.#healModifiers(event);
      // macOS reports no release of keys that go up while Command is down
      if (event.key === "Meta") this.releaseAll();
    });
    addEventListener("blur", () => this.releaseAll());
    document.addEventListener("visibilitychange", () => document.hidden && this.releaseAll());
  }

  #mouse() {
    this.stage.addEventListener("click", (event) => {
      if (event.pointerType !== "touch" && this.hooks.active()) this.capture();
    });
    document.addEventListener("pointerlockchange", () => {
      if (this.captured) return;
      this.releaseAll();
      this.hooks.unlocked();
    });
    const moved = (event) => {
      if (!this.captured) return;
      const scale = this.preferences.sensitivity;
      const up = this.preferences.invertY ? -1 : 1;
      this.#note(this.state.movePointer(event.movementX * scale, event.movementY * scale * up));
    };
    // Raw events arrive at the mouse's rate, others once per display refresh.
    addEventListener("onpointerrawupdate" in window ? "pointerrawupdate" : "pointermove", moved);
  }

  get captured() {
    return document.pointerLockElement === this.stage;
  }

  async capture() {
    if (this.captured || !this.stage.requestPointerLock) return;
    try {
      await this.stage.requestPointerLock({ unadjustedMovement: true });
    } catch {
      try {
        await this.stage.requestPointerLock(); // without raw movement
      } catch {
        // rejected, for example right after Esc: the next click tries again
      }
    }
  }

  free() {
    if (this.captured) document.exitPointerLock();
  }

  #gamepad() {
    addEventListener("gamepadconnected", ({ gamepad }) => this.hooks.gamepad(gamepad));
    addEventListener("gamepaddisconnected", ({ gamepad }) => {
      if (gamepad.index === this.pad?.index) this.hooks.gamepad(null);
    });
  }

  /** Read the gamepads, which send no events for their sticks. Call this at every tick. */
  poll() {
    // A browser freezes what it reports to a page without focus.
    if (!this.hooks.active() || !document.hasFocus()) return;
    const { pad, axes, buttons } = this.pads.poll();
    this.pad = pad;
    if (this.preferences.invertY) axes[3] = -axes[3];
    this.#note(this.state.setPad("gamepad", axes, buttons));
  }
}
