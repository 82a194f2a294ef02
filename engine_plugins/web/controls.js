// Keyboard, mouse and gamepad of a browser as input of a Controller.

const TYPING = "input, select, textarea, [contenteditable]";

/** Return the four stick axes and the button bits of a gamepad with the standard layout. */
export const readGamepad = (pad) => ({
  axes: [0, 1, 2, 3].map((i) => pad.axes[i] ?? 0),
  buttons: pad.buttons
    .slice(0, 17)
    .reduce((bits, button, i) => bits | (button.pressed ? 1 << i : 0), 0),
});

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
    this.padIndex = null;
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

  #keyboard() {
    addEventListener("keydown", (event) => {
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
    addEventListener("keyup", (event) =>
      this.#note(this.state.release(event.code, performance.now())),
    );
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
    addEventListener("gamepadconnected", ({ gamepad }) => {
      this.padIndex = gamepad.index;
      this.hooks.gamepad(gamepad);
    });
    addEventListener("gamepaddisconnected", ({ gamepad }) => {
      if (gamepad.index !== this.padIndex) return;
      this.padIndex = null;
      this.#note(this.state.setPad("gamepad", [0, 0, 0, 0], 0));
      this.hooks.gamepad(null);
    });
  }

  /** Read the gamepad, which sends no events for its sticks. Call this at every tick. */
  poll() {
    if (this.padIndex === null || !this.hooks.active()) return;
    const pad = navigator.getGamepads()[this.padIndex];
    if (!pad) return;
    const { axes, buttons } = readGamepad(pad);
    if (this.preferences.invertY) axes[3] = -axes[3];
    this.#note(this.state.setPad("gamepad", axes, buttons));
  }
}
