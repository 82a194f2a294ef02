// Two virtual sticks for touch screens: the left one walks, the right one looks.

const RADIUS = 46; // pixels from the centre to full deflection

class Stick {
  #pointer = null;
  #origin = [0, 0];

  constructor(zone, moved) {
    this.zone = zone;
    this.base = zone.querySelector(".stick");
    this.knob = zone.querySelector(".knob");
    this.moved = moved;
    this.axes = [0, 0];
    zone.addEventListener("pointerdown", (event) => this.#begin(event));
    zone.addEventListener("pointermove", (event) => this.#move(event));
    for (const type of ["pointerup", "pointercancel", "lostpointercapture"]) {
      zone.addEventListener(type, (event) => event.pointerId === this.#pointer && this.reset());
    }
  }

  #begin(event) {
    if (this.#pointer !== null) return;
    event.preventDefault();
    this.#pointer = event.pointerId;
    this.zone.setPointerCapture(event.pointerId);
    const box = this.base.getBoundingClientRect();
    const centre = [box.x + box.width / 2, box.y + box.height / 2];
    const near = Math.hypot(event.clientX - centre[0], event.clientY - centre[1]) < box.width / 2;
    // a touch beside the stick moves the centre to it
    this.#origin = near ? centre : [event.clientX, event.clientY];
    this.zone.classList.add("held");
    this.#move(event);
  }

  #move(event) {
    if (event.pointerId !== this.#pointer) return;
    const dx = event.clientX - this.#origin[0];
    const dy = event.clientY - this.#origin[1];
    const far = Math.max(1, Math.hypot(dx, dy) / RADIUS);
    this.#set(dx / RADIUS / far, dy / RADIUS / far);
  }

  reset() {
    this.#pointer = null;
    this.zone.classList.remove("held");
    this.#set(0, 0);
  }

  #set(x, y) {
    this.axes = [x, y];
    this.knob.style.transform = `translate(${x * RADIUS}px, ${y * RADIUS}px)`;
    this.moved();
  }
}

export class Sticks {
  constructor(root, state, preferences, changed) {
    const moved = () => {
      const [lookX, lookY] = right.axes;
      const axes = [...left.axes, lookX, preferences.invertY ? -lookY : lookY];
      if (state.setPad("touch", axes, 0)) changed();
    };
    const left = new Stick(root.querySelector("[data-stick=move]"), () => moved());
    const right = new Stick(root.querySelector("[data-stick=look]"), () => moved());
    this.reset = () => [left, right].forEach((stick) => stick.reset());
  }
}
