// A scene with a screen that shows the world, and two objects of the scene's own.

import * as THREE from "three";
import { OrbitControls } from "three/addons/controls/OrbitControls.js";
import { WorldTexture } from "./world_texture.js";

const SCREEN_HEIGHT = 2; // metres

const query = new URLSearchParams(location.search);
const status = document.getElementById("status");
const world = new WorldTexture(query.get("server") ?? "http://127.0.0.1:8080", {
  token: query.get("token"),
  changed: ({ state, detail, error }) => {
    const text = error ? `${error.message}. ${error.remedy}` : detail;
    status.textContent = state === "playing" ? "" : `${state}: ${text}`;
  },
});

const renderer = new THREE.WebGLRenderer({ antialias: true });
document.body.append(renderer.domElement);
const scene = new THREE.Scene();
scene.background = new THREE.Color(0x15181c);
const camera = new THREE.PerspectiveCamera(50, 1, 0.1, 100);
camera.position.set(1.2, 1.6, 3.6);
const controls = new OrbitControls(camera, renderer.domElement);
controls.target.set(0, 1.3, 0);

// The world brings its own light: the material has none and no tone mapping.
const screen = new THREE.Mesh(
  new THREE.PlaneGeometry(1, 1),
  new THREE.MeshBasicMaterial({ map: world.texture, toneMapped: false }),
);
screen.position.set(0, 1.3, 0);
const cube = new THREE.Mesh(
  new THREE.BoxGeometry(0.4, 0.4, 0.4),
  new THREE.MeshStandardMaterial({ color: 0xe8a13a }),
);
cube.position.set(1.9, 0.3, 0.8);
scene.add(screen, cube, new THREE.GridHelper(12, 24, 0x667788, 0x334455));
scene.add(new THREE.HemisphereLight(0xffffff, 0x334455, 2));

function resize() {
  renderer.setPixelRatio(devicePixelRatio);
  renderer.setSize(innerWidth, innerHeight);
  camera.aspect = innerWidth / innerHeight;
  camera.updateProjectionMatrix();
}

function render(now) {
  world.update();
  const { image } = world.texture;
  screen.visible = Boolean(image);
  if (image) screen.scale.set((SCREEN_HEIGHT * image.width) / image.height, SCREEN_HEIGHT, 1);
  cube.rotation.set(now / 1700, now / 1300, 0);
  controls.update();
  renderer.render(scene, camera);
  globalThis.example.rendered += 1;
}

const forwarded = (code) => /^Key[WASD]$|^Arrow/.test(code);
addEventListener("keydown", (event) => {
  if (!forwarded(event.code) || event.repeat) return;
  event.preventDefault();
  world.press(event.code);
});
addEventListener("keyup", ({ code }) => world.release(code));
addEventListener("blur", () => {
  if (world.client.controller.releaseAll()) world.client.inputChanged();
});
addEventListener("pagehide", () => world.leave());
addEventListener("resize", resize);

globalThis.example = { world, screen, camera, scene, renderer, rendered: 0 };
resize();
const seed = query.get("seed");
world.play({ theme: query.get("theme"), seed: seed === null ? null : Number(seed) });
renderer.setAnimationLoop(render);
