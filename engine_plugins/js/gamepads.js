// Which gamepad steers, and what its sticks and buttons mean. Idle pads, triggers that rest at -1
// and pads of which nobody knows the layout must not move a world by themselves.

const NEUTRAL = 0.2; // a stick nearer to its centre than this is at rest
const MOVED = 0.3; // a stick further from its centre than this was pushed by somebody
const PRESSED = -0.5; // of a trigger that rests at -1
// The layout of Linux and macOS for pads that the browser does not know: button -> standard button.
// Source: Documentation/input/gamepad.rst of Linux, drivers/input/joystick/xpad.c.
const RAW_BUTTONS = [0, 1, 2, 3, 4, 5, 8, 9, 16, 10, 11];
const RAW_TRIGGERS = [2, 5];
const RAW_AXES = 8; // the last two are the directional pad

/** One gamepad: its sticks and buttons in the standard layout, from readings in any layout. */
class Reader {
  #standard;
  #triggers = new Set();
  #held = new Set(); // axes that were deflected when the pad was found, until they come to rest
  #before = null;

  constructor({ mapping, axes }) {
    this.#standard = mapping === "standard";
    axes.forEach((value, axis) => {
      if (!this.#standard && axis >= 2 && value <= -0.95) this.#triggers.add(axis);
      else if (Math.abs(value) > MOVED) this.#held.add(axis);
    });
  }

  /** @returns {{axes: number[], buttons: number, moved: boolean}} */
  read({ axes, buttons }) {
    this.#findTriggers(axes);
    for (const axis of this.#held) if (Math.abs(axes[axis]) < NEUTRAL) this.#held.delete(axis);
    const used = axes.map((value, axis) => (this.#held.has(axis) ? 0 : value));
    const state = {
      axes: this.#sticks(used),
      buttons: this.#standard ? bitsOf(buttons.slice(0, 17)) : this.#rawButtons(used, buttons),
    };
    const before = this.#before ?? { axes: [0, 0, 0, 0], buttons: 0 };
    this.#before = state;
    const pushed = state.axes.some((v, i) => Math.abs(v) > MOVED && v !== before.axes[i]);
    return { ...state, moved: pushed || (state.buttons & ~before.buttons) !== 0 };
  }

  // A browser may report 0 for an axis until it moves for the first time.
  #findTriggers(axes) {
    if (this.#standard || this.#triggers.size > 0 || axes.length < 6) return;
    if (RAW_TRIGGERS.some((axis) => axes[axis] === -1)) this.#triggers = new Set(RAW_TRIGGERS);
  }

  #sticks(axes) {
    const sticks = axes.filter((_, axis) => !this.#triggers.has(axis));
    return [0, 1, 2, 3].map((axis) => sticks[axis] ?? 0);
  }

  #rawButtons(axes, buttons) {
    const raw = RAW_TRIGGERS.every((axis) => this.#triggers.has(axis)) && axes.length === RAW_AXES;
    if (!raw) return bitsOf(buttons.slice(0, 17));
    let bits = 0;
    RAW_BUTTONS.forEach((standard, i) => {
      if (buttons[i]?.pressed) bits |= 1 << standard;
    });
    RAW_TRIGGERS.forEach((axis, i) => {
      // exactly 0: it has not moved yet
      if (axes[axis] > PRESSED && axes[axis] !== 0) bits |= 1 << (6 + i);
    });
    const [across, down] = axes.slice(-2);
    return bits | bitsOf([down < -0.5, down > 0.5, across < -0.5, across > 0.5]) * (1 << 12);
  }
}

const bitsOf = (buttons) =>
  buttons.reduce((bits, button, i) => bits | ((button.pressed ?? button) ? 1 << i : 0), 0);

/** All gamepads of a browser. The one that was moved last steers, until it is unplugged. */
export class Gamepads {
  #pads;
  #readers = new Map(); // index -> {id, reader}
  #active = null;

  /** @param {() => Iterable<Gamepad | null>} [pads] such as `navigator.getGamepads` */
  constructor(pads = () => globalThis.navigator?.getGamepads?.() ?? []) {
    this.#pads = pads;
  }

  /**
   * Read all gamepads, which send no events for their sticks. Call this at every tick.
   * @returns {{pad: Gamepad | null, axes: number[], buttons: number}} the one that steers, with
   *   sticks and buttons as in the standard layout; at rest if there is none
   */
  poll() {
    const states = new Map(); // index -> {pad, axes, buttons, moved}
    for (const [index, pad] of [...this.#pads()].entries()) {
      if (!pad || pad.connected === false) this.#readers.delete(index);
      else states.set(index, { pad, ...this.#reader(index, pad).read(pad) });
    }
    const mover = [...states].find(([, { moved }]) => moved);
    if (mover && !states.get(this.#active)?.moved) this.#active = mover[0];
    const nothing = { pad: null, axes: [0, 0, 0, 0], buttons: 0 };
    const { pad, axes, buttons } = states.get(this.#active) ?? nothing;
    return { pad, axes, buttons };
  }

  #reader(index, pad) {
    let known = this.#readers.get(index);
    if (known?.id !== pad.id) {
      known = { id: pad.id, reader: new Reader(pad) };
      this.#readers.set(index, known);
    }
    return known.reader;
  }
}
