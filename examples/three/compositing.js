// A ball of the scene's own rolls from side to side in a world, and goes behind its walls.

import * as THREE from "three";
import { placeCamera, WorldBackdrop } from "./world_backdrop.js";
import { openWorld } from "./world_page.js";

const RADIUS = 0.8; // metres
const REACH = 4; // metres to each side
const SECONDS = 6; // there and back
const DISTANCE = 11; // metres, from where the first frame was seen

const scene = new THREE.Scene();
const camera = new THREE.PerspectiveCamera(50, 1, 0.1, 300);
const { world, renderer } = openWorld(camera, {
  depth: true,
  note: (spec) => (spec.depth ? "" : "This world sends no depth: the ball is never hidden."),
});
const backdrop = new WorldBackdrop(world);
const ball = new THREE.Mesh(
  new THREE.SphereGeometry(RADIUS, 48, 24),
  new THREE.MeshStandardMaterial({ color: 0xf2501a }),
);
const sun = new THREE.DirectionalLight(0xffffff, 2);
sun.position.set(-1, 2, -1);
backdrop.visible = ball.visible = false;
scene.add(backdrop, ball, sun, new THREE.HemisphereLight(0xffffff, 0x777777, 1.5));

let way = null; // the middle of the ball's way, lying across the first view

function render(now) {
  world.update();
  if (world.header) {
    // the world does not follow the scene's camera: the camera follows the world
    placeCamera(camera, world.header.camera);
    way ??= camera.matrixWorld.clone();
    const side = -REACH * Math.sin((now / 1000 / SECONDS) * 2 * Math.PI);
    ball.position.set(side, 0, -DISTANCE).applyMatrix4(way).setY(RADIUS);
    backdrop.visible = ball.visible = true;
  }
  renderer.render(scene, camera);
}

renderer.setAnimationLoop(render);
globalThis.example = { world, backdrop, ball, camera, scene, renderer, THREE };
