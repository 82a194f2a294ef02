// A scene with a screen that shows the world, and two objects of the scene's own.

import * as THREE from "three";
import { OrbitControls } from "three/addons/controls/OrbitControls.js";
import { openWorld } from "./world_page.js";

const SCREEN_HEIGHT = 2; // metres

const scene = new THREE.Scene();
scene.background = new THREE.Color(0x15181c);
const camera = new THREE.PerspectiveCamera(50, 1, 0.1, 100);
camera.position.set(1.2, 1.6, 3.6);
const { world, renderer } = openWorld(camera, { antialias: true });
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

globalThis.example = { world, screen, camera, scene, renderer, rendered: 0 };
renderer.setAnimationLoop(render);
