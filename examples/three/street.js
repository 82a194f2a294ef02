// A grey room of the scene's own, whose door opens into a street that the world draws. W, A, S and D
// walk, the arrow keys turn.

import * as THREE from "three";
import { WorldBackdrop } from "./world_backdrop.js";
import { WorldGuide } from "./world_guide.js";
import { openWorld } from "./world_page.js";

const SPEED = 1.5; // metres per second
const TURN = 1.2; // radians per second
// The room's boxes: centre and size in metres. The door is in the wall ahead.
const BOXES = [
  [0, -0.05, -0.6, 5, 0.1, 5.8], // floor, and a step outside
  [0, 2.85, -0.5, 5, 0.1, 5],
  [-2.5, 1.4, -0.5, 0.1, 2.8, 5],
  [2.5, 1.4, -0.5, 0.1, 2.8, 5],
  [0, 1.4, 2, 5, 2.8, 0.1],
  [-1.65, 1.4, -3, 1.7, 2.8, 0.2], // beside the door and above it
  [1.65, 1.4, -3, 1.7, 2.8, 0.2],
  [0, 2.5, -3, 1.6, 0.6, 0.2],
  [-1.7, 0.4, -1.6, 0.8, 0.8, 0.8], // a table and a chest
  [1.9, 0.3, -2.2, 0.7, 0.6, 1.2],
];

const camera = new THREE.PerspectiveCamera(50, 1, 0.1, 300);
camera.position.set(0, 1.6, 1.4);
const { world, renderer, held } = openWorld(camera, {
  depth: true,
  keys: false,
  note: (spec) =>
    spec.conditionings.includes("observations")
      ? ""
      : "This world takes no views of the scene: the door shows whatever it draws.",
});
const scene = new THREE.Scene();
const grey = new THREE.MeshStandardMaterial({ color: 0x9e9e99 });
for (const [x, y, z, ...size] of BOXES) {
  const box = new THREE.Mesh(new THREE.BoxGeometry(...size), grey);
  box.position.set(x, y, z);
  scene.add(box);
}
const lamp = new THREE.PointLight(0xffffff, 12);
lamp.position.set(0.6, 2.4, 0.5);
const backdrop = new WorldBackdrop(world, { recede: 0.1 });
scene.add(backdrop, lamp, new THREE.HemisphereLight(0xffffff, 0x777777, 1));
const guide = new WorldGuide(world, scene, camera, { without: [backdrop], fresh: false });

let before = null;
const axis = (high, low) => held.has(high) - held.has(low);

function render(now) {
  const seconds = before === null ? 0 : (now - before) / 1000;
  before = now;
  camera.rotateY(TURN * seconds * axis("ArrowLeft", "ArrowRight"));
  camera.translateX(SPEED * seconds * axis("KeyD", "KeyA"));
  camera.translateZ(SPEED * seconds * axis("KeyS", "KeyW"));
  camera.updateMatrixWorld();
  world.follow(camera);
  world.update();
  backdrop.visible = Boolean(world.header);
  guide.update(renderer, now);
  renderer.render(scene, camera);
}

renderer.setAnimationLoop(render);
globalThis.example = { world, guide, backdrop, camera, scene, renderer, THREE };
