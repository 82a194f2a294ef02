// A ball of the scene's own rolls from side to side in a world, and goes behind its walls.

import * as THREE from "three";
import { placeCamera, WorldBackdrop } from "./world_backdrop.js";
import { WorldTexture } from "./world_texture.js";

const RADIUS = 0.8; // metres
const REACH = 4; // metres to each side
const SECONDS = 6; // there and back
const DISTANCE = 11; // metres, from where the first frame was seen

const query = new URLSearchParams(location.search);
const status = document.getElementById("status");
const world = new WorldTexture(query.get("server") ?? "http://127.0.0.1:8080", {
  token: query.get("token"),
  depth: true,
  changed: ({ state, detail, error, world: spec }) => {
    const text = error ? `${error.message}. ${error.remedy}` : detail;
    const flat = spec && !spec.depth ? "This world sends no depth: the ball is never hidden." : "";
    status.textContent = state === "playing" ? flat : `${state}: ${text}`;
  },
});

const renderer = new THREE.WebGLRenderer({ antialias: false });
document.body.append(renderer.domElement);
const scene = new THREE.Scene();
const camera = new THREE.PerspectiveCamera(50, 1, 0.1, 300);
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

function resize() {
  renderer.setSize(innerWidth, innerHeight);
  camera.aspect = innerWidth / innerHeight;
  camera.updateProjectionMatrix();
}

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

const forwarded = (code) => /^Key[WASD]$|^Arrow/.test(code);
addEventListener("keydown", (event) => {
  if (!forwarded(event.code) || event.repeat) return;
  event.preventDefault();
  world.press(event.code);
});
addEventListener("keyup", ({ code }) => world.release(code));
addEventListener("pagehide", () => world.leave());
addEventListener("resize", resize);

resize();
const seed = query.get("seed");
world.play({ theme: query.get("theme"), seed: seed === null ? null : Number(seed) });
renderer.setAnimationLoop(render);
globalThis.example = { world, backdrop, ball, camera, scene, renderer, THREE };
