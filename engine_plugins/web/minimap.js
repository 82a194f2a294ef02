// A small map of where the camera has been, for worlds that keep their places.

import { byId } from "./dom.js";

const STEP_M = 0.25; // between two points of the trail
const JUMP_M = 4; // farther than anyone walks in a frame: another world began
const NEAR_M = 1; // as near as this is the same place
const AWAY_M = 3; // what has to be walked before a place counts as one of earlier
const MOST = 4000; // points; the oldest go first
const LEAST_RADIUS_M = 4; // that the map shows

/** Return where a pose looks: 0 along -z, + to the left, in radians. */
export function headingOf([x, y, z, w]) {
  return Math.atan2(2 * (x * z + y * w), 1 - 2 * (x * x + y * y));
}

/** Where a camera has been. */
export class Trail {
  points = []; // {x, z, walked}
  here = null; // {x, z, heading}
  walked = 0; // metres

  clear() {
    this.points = [];
    this.here = null;
    this.walked = 0;
  }

  /** Add the pose of a frame. */
  add({ position, orientation }) {
    const [x, , z] = position;
    if (this.here && Math.hypot(x - this.here.x, z - this.here.z) > JUMP_M) this.clear();
    this.here = { x, z, heading: headingOf(orientation) };
    const last = this.points.at(-1);
    const step = last ? Math.hypot(x - last.x, z - last.z) : Infinity;
    if (step < STEP_M) return;
    this.walked += last ? step : 0;
    this.points.push({ x, z, walked: this.walked });
    if (this.points.length > MOST) this.points.shift();
  }

  /** Whether the camera is at a place that it left before. */
  get returned() {
    const { here } = this;
    return this.points.some(
      ({ x, z, walked }) =>
        this.walked - walked > AWAY_M && Math.hypot(x - here.x, z - here.z) < NEAR_M,
    );
  }

  /** Return the trail as seen from above, ahead is up: {points: [[x, y], ...], radius}, in metres. */
  seen() {
    const { x, z, heading } = this.here;
    const [sine, cosine] = [Math.sin(heading), Math.cos(heading)];
    const points = this.points.map((point) => {
      const [dx, dz] = [point.x - x, point.z - z];
      return [dx * cosine - dz * sine, dx * sine + dz * cosine];
    });
    const far = points.reduce((most, [px, py]) => Math.max(most, Math.hypot(px, py)), 0);
    return { points, radius: Math.max(LEAST_RADIUS_M, far) };
  }
}

/** Whether a world's frames say truly where they are seen from. */
export const keepsPlaces = ({ kind, conditionings }) =>
  kind === "procedural" || conditionings.includes("camera");

/** Draw the trail on the page. */
export class Minimap {
  trail = new Trail();

  constructor() {
    this.root = byId("minimap");
    this.canvas = this.root.querySelector("canvas");
    this.label = this.root.querySelector("figcaption");
    this.shown = false;
  }

  /** Begin with a world: show the map if its places are kept. */
  begin(world) {
    this.trail.clear();
    this.shown = keepsPlaces(world);
  }

  update() {
    const { trail, root } = this;
    root.hidden = !this.shown || trail.here === null;
    if (root.hidden) return;
    this.label.dataset.returned = String(trail.returned);
    this.#draw(trail.seen());
  }

  #draw({ points, radius }) {
    const { canvas } = this;
    const scale = Math.min(3, devicePixelRatio || 1);
    const side = Math.round(canvas.clientWidth * scale);
    if (canvas.width !== side) canvas.width = canvas.height = side;
    const context = canvas.getContext("2d");
    const metre = (side / 2 - 10 * scale) / radius;
    const accent = getComputedStyle(document.body).getPropertyValue("--accent");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, side, side);
    context.setTransform(1, 0, 0, 1, side / 2, side / 2);
    context.lineWidth = 2.5 * scale;
    context.lineJoin = context.lineCap = "round";
    context.strokeStyle = accent;
    context.globalAlpha = 0.75;
    context.beginPath();
    for (const [x, y] of points) context.lineTo(x * metre, y * metre);
    context.lineTo(0, 0);
    context.stroke();
    context.globalAlpha = 1;
    if (points.length > 0) {
      context.fillStyle = accent;
      context.beginPath();
      context.arc(points[0][0] * metre, points[0][1] * metre, 4 * scale, 0, 2 * Math.PI);
      context.fill();
    }
    context.fillStyle = "#fff";
    context.beginPath();
    for (const [x, y] of [[0, -8], [5.5, 6], [0, 3], [-5.5, 6]])
      context.lineTo(x * scale, y * scale);
    context.fill();
  }
}
