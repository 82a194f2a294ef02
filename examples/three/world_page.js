// What the pages of this example share: the world that the address names, its status line, the
// renderer and the keys.

import * as THREE from "three";
import { WorldTexture } from "./world_texture.js";

const forwarded = (code) => /^Key[WASD]$|^Arrow/.test(code);

/**
 * Open the world of the page's address (?server=&theme=&seed=&token=) and render with `camera`.
 * `note` returns what the status line says of a WorldSpec while the world plays. With `keys` false
 * they do not steer the world, nor does a gamepad: the page moves its camera by `held`, the set of
 * pressed keys.
 */
export function openWorld(camera, { depth = false, keys = true, note = () => "", ...options } = {}) {
  const query = new URLSearchParams(location.search);
  const status = document.getElementById("status");
  const world = new WorldTexture(query.get("server") ?? "http://127.0.0.1:8080", {
    token: query.get("token"),
    depth,
    gamepad: keys,
    changed: ({ state, detail, error, world: spec }) => {
      const text = error ? `${error.message}. ${error.remedy}` : detail;
      status.textContent = state === "playing" ? note(spec) : `${state}: ${text}`;
    },
  });
  const renderer = new THREE.WebGLRenderer(options);
  document.body.append(renderer.domElement);
  const resize = () => {
    renderer.setPixelRatio(devicePixelRatio);
    renderer.setSize(innerWidth, innerHeight);
    camera.aspect = innerWidth / innerHeight;
    camera.updateProjectionMatrix();
  };
  const held = new Set();
  addEventListener("keydown", (event) => {
    if (!forwarded(event.code) || event.repeat) return;
    event.preventDefault();
    held.add(event.code);
    if (keys) world.press(event.code);
  });
  addEventListener("keyup", ({ code }) => {
    held.delete(code);
    world.release(code);
  });
  addEventListener("blur", () => {
    held.clear();
    if (world.client.controller.releaseAll()) world.client.inputChanged();
  });
  addEventListener("pagehide", () => world.leave());
  addEventListener("resize", resize);
  resize();
  const seed = query.get("seed");
  world.play({ theme: query.get("theme"), seed: seed === null ? null : Number(seed) });
  return { world, renderer, held };
}
