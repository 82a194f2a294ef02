// What the scene's camera sees, colour and depth, for a world that draws what the scene leaves open.

import * as THREE from "three";
import { poseOf } from "./world_backdrop.js";

const REACH = 130; // metres: what is farther counts as the sky
const DEPTH_SCALE = 0.002; // metres per step of the depth
const MAX_PIXELS = 384 * 640; // of the protocol

const vertexShader = `
varying vec2 place;

void main() {
  place = position.xy + 0.5;
  gl_Position = vec4(position.xy * 2.0, 0.0, 1.0);
}
`;

// The colour as it is shown, or the depth's two bytes; the upper row first.
const fragmentShader = `
uniform sampler2D colour;
uniform sampler2D sceneDepth;
uniform mat4 unprojection;
uniform float far;
uniform bool asDepth;
varying vec2 place;

void main() {
  vec2 at = vec2(place.x, 1.0 - place.y);
  if (!asDepth) {
    gl_FragColor = sRGBTransferOETF(texture(colour, at));
    return;
  }
  vec4 point = unprojection * vec4(vec3(at, texture(sceneDepth, at).r) * 2.0 - 1.0, 1.0);
  float metres = -point.z / point.w;
  float steps = metres < 0.99 * far ? clamp(round(metres / ${DEPTH_SCALE}), 1.0, 65535.0) : 0.0;
  float high = floor(steps / 256.0);
  gl_FragColor = vec4((steps - 256.0 * high) / 255.0, high / 255.0, 0.0, 1.0);
}
`;

/**
 * Sends views of a scene to a world whose conditionings name `observations`. Call `update` once per
 * rendered frame: a view is sent when the camera has moved by `step` (metres or radians), at most
 * every `interval` ms. With `fresh` the world forgets at the first view what it drew before.
 * The objects in `without`, such as a WorldBackdrop, are left out. `sent` counts views.
 */
export class WorldGuide {
  sent = 0;
  #last = null; // {position, quaternion, at} of the newest view

  constructor(world, scene, camera, options = {}) {
    const { without = [], fresh = true, interval = 500, step = 0.1 } = options;
    Object.assign(this, { world, scene, camera, without, fresh, interval, step });
    this.eye = new THREE.PerspectiveCamera();
    const uniforms = {};
    for (const name of ["colour", "sceneDepth", "unprojection", "far", "asDepth"])
      uniforms[name] = { value: null };
    this.material = new THREE.ShaderMaterial({ uniforms, vertexShader, fragmentShader });
    this.quad = new THREE.Mesh(new THREE.PlaneGeometry(1, 1), this.material);
    this.quad.frustumCulled = false;
  }

  /** Whether the world takes views. */
  get taken() {
    return Boolean(this.world.client.view().world?.conditionings.includes("observations"));
  }

  update(renderer, now) {
    if (this.world.client.state !== "playing") {
      if (this.world.client.state !== "reconnecting") this.#last = null;
      return;
    }
    const { position, quaternion } = this.camera;
    const moved =
      !this.#last ||
      position.distanceTo(this.#last.position) > this.step ||
      quaternion.angleTo(this.#last.quaternion) > this.step;
    if (!moved || !this.taken || (this.#last && now - this.#last.at < this.interval)) return;
    const fresh = this.fresh && !this.#last;
    this.#last = { position: position.clone(), quaternion: quaternion.clone(), at: now };
    this.world.client.observe({ ...this.view(renderer), fresh });
    this.sent += 1;
  }

  /** Render the scene; return it as the client's `observe` takes it. */
  view(renderer) {
    const { world, eye, camera } = this;
    const shown = world.client.view().world;
    const scale = Math.min(1, Math.sqrt(MAX_PIXELS / (shown.width * shown.height)));
    const [width, height] = [shown.width, shown.height].map((side) => Math.floor(side * scale));
    eye.copy(camera);
    eye.aspect = width / height; // another shape would be squeezed into the world's
    eye.far = Math.min(camera.far, REACH);
    eye.updateProjectionMatrix();
    const target = new THREE.WebGLRenderTarget(width, height, {
      type: THREE.HalfFloatType,
      depthTexture: new THREE.DepthTexture(width, height, THREE.FloatType),
    });
    const bytes = new THREE.WebGLRenderTarget(width, height);
    const { uniforms } = this.material;
    uniforms.colour.value = target.texture;
    uniforms.sceneDepth.value = target.depthTexture;
    uniforms.unprojection.value = eye.projectionMatrixInverse;
    uniforms.far.value = eye.far;
    const hidden = this.without.filter((object) => object.visible);
    for (const object of hidden) object.visible = false;
    renderer.setRenderTarget(target);
    renderer.render(this.scene, eye);
    for (const object of hidden) object.visible = true;
    const channels = [3, 2].map((count) => {
      uniforms.asDepth.value = count === 2;
      renderer.setRenderTarget(bytes);
      renderer.render(this.quad, eye);
      const rgba = new Uint8Array(4 * width * height);
      renderer.readRenderTargetPixels(bytes, 0, 0, width, height, rgba);
      const taken = new Uint8Array(count * width * height);
      for (let from = 0, to = 0; from < rgba.length; from += 4)
        for (let i = 0; i < count; i += 1) taken[to++] = rgba[from + i];
      return taken;
    });
    renderer.setRenderTarget(null);
    target.depthTexture.dispose();
    target.dispose();
    bytes.dispose();
    const [rgb, depth] = channels;
    return { camera: poseOf(eye), width, height, rgb, depth, depthScale: DEPTH_SCALE };
  }
}
