// A world's newest frame as a three.js texture.

import * as THREE from "three";
import { Client, Gamepads, sessionUrl, TICK_MS } from "@worldbridge/client";

const DECODED_AT_ONCE = 3; // a browser takes longer for one than it has between two
const SENT = 4096; // poses of the camera that are remembered until a frame answers them

const matrixOf = ({ position, orientation }) =>
  new THREE.Matrix4().compose(
    new THREE.Vector3().fromArray(position),
    new THREE.Quaternion().fromArray(orientation),
    new THREE.Vector3(1, 1, 1),
  );

/**
 * Streams a session into `texture`. Call `update` once per rendered frame.
 *
 * `depth`, with the option `depth`, is a texture of two bytes per pixel, a little-endian number of
 * `depthScale` metres along the camera's axis, and 0 where it is unknown; its first row is the upper
 * one. It is null while the frames come without.
 *
 * `seenFrom` is where the frame is seen from, a Matrix4; in the scene's coordinates, if the world
 * follows the camera that `follow` is given. `shown` counts frames, `header` is the FrameHeader of
 * the one in the texture, `client` is the library's Client.
 */
export class WorldTexture {
  shown = 0;
  depth = null;
  depthScale = 0;
  header = null;
  seenFrom = new THREE.Matrix4();
  #sent = new Map(); // poses of the scene's camera by the sequence of their states
  #camera = null; // the scene's, if the world follows it
  #placed = false; // `toWorld` is known
  #toWorld = new THREE.Matrix4(); // from the scene's coordinates to the world's
  #newest = null; // the newest message that is not decoded yet
  #decoding = 0; // images that are being decoded
  #arrivals = 0;
  #latest = 0; // which arrival was decoded last
  #decoded = null; // {bitmap, message, received}, not in the texture yet
  #timer = null;
  #pads;

  /** @param {string} server address of the server, such as http://127.0.0.1:8080 */
  constructor(server, options = {}) {
    const { token = null, depth = false, gamepad = true, changed = () => {} } = options;
    // A bitmap is flipped when it is decoded: WebGL cannot flip it during the upload.
    this.texture = new THREE.Texture();
    this.texture.flipY = false;
    this.texture.colorSpace = THREE.SRGBColorSpace;
    this.texture.generateMipmaps = false;
    this.texture.minFilter = THREE.LinearFilter;
    const handlers = {
      changed: () => changed(this.client.view()),
      frame: (message, received) => this.#arrived(message, received),
    };
    const wanted = { video: "jpeg", client: "three", token, depth };
    this.client = new Client(sessionUrl(server), handlers, wanted);
    this.#pads = gamepad ? new Gamepads() : null;
  }

  play(wanted = { theme: null, seed: null }) {
    this.client.play(wanted);
    this.#timer ??= setInterval(() => this.#tick(), TICK_MS);
  }

  /**
   * Send the scene's camera, for worlds that follow it; call it once per rendered frame. A world takes
   * the first one as the place where its player stands, so it should look level.
   */
  follow(camera) {
    const { controller, session } = this.client;
    if (!session.welcome?.world.conditionings.includes("camera")) return;
    this.#camera = camera;
    const [position, orientation] = [camera.position.toArray(), camera.quaternion.toArray()];
    controller.camera = { position, orientation, fov_y: camera.fov };
  }

  leave() {
    clearInterval(this.#timer);
    this.#timer = null;
    this.client.leave();
  }

  press(code) {
    if (this.client.controller.press(code, performance.now())) this.client.inputChanged();
  }

  release(code) {
    if (this.client.controller.release(code, performance.now())) this.client.inputChanged();
  }

  #tick() {
    const pad = this.#pads?.poll();
    if (pad && this.client.controller.setPad("gamepad", pad.axes, pad.buttons))
      this.client.inputChanged();
    this.client.tick(!document.hidden);
    for (const { sequence, camera } of this.client.controller.history) {
      if (camera) this.#sent.set(sequence, camera);
      this.#sent.delete(sequence - SENT);
    }
  }

  /** Put the newest decoded frame into the texture. */
  update() {
    if (!this.#decoded) return;
    const { bitmap, message, received } = this.#decoded;
    const { header } = message;
    this.#decoded = null;
    const before = this.texture.image;
    if (before && (before.width !== bitmap.width || before.height !== bitmap.height))
      this.texture.dispose(); // a texture keeps the size of its first image
    this.texture.image = bitmap;
    this.texture.needsUpdate = true;
    before?.close();
    this.#updateDepth(message, bitmap);
    this.shown += 1;
    this.header = header;
    const inWorld = matrixOf(header.camera);
    const answered = this.#sent.get(header.input_sequence);
    if (answered) this.#toWorld.multiplyMatrices(inWorld, matrixOf(answered).invert());
    this.#placed ||= Boolean(answered);
    if (this.#camera && !this.#placed) this.seenFrom.copy(this.#camera.matrixWorld);
    else this.seenFrom.copy(this.#toWorld).invert().multiply(inWorld);
    this.client.imageShown(header, received, performance.now());
  }

  #updateDepth({ depth, depth_scale: scale }, { width, height }) {
    if (!depth || depth.length !== 2 * width * height) {
      this.depth?.dispose();
      this.depth = null;
      return;
    }
    this.depthScale = scale;
    if (this.depth?.image.width !== width || this.depth.image.height !== height) {
      this.depth?.dispose();
      this.depth = new THREE.DataTexture(depth, width, height, THREE.RGFormat);
    }
    this.depth.image.data = depth;
    this.depth.needsUpdate = true;
  }

  async #arrived(message, received) {
    this.#newest = { message, received, order: ++this.#arrivals };
    if (this.#decoding === DECODED_AT_ONCE) return;
    this.#decoding += 1;
    while (this.#newest) {
      const { message, received, order } = this.#newest;
      this.#newest = null;
      try {
        const options = { imageOrientation: "flipY" };
        const bitmap = await createImageBitmap(new Blob([message.image]), options);
        if (order < this.#latest) {
          bitmap.close(); // a newer one was faster
          continue;
        }
        this.#latest = order;
        this.#decoded?.bitmap.close();
        this.#decoded = { bitmap, message, received };
      } catch (error) {
        console.error(`frame ${message.header.frame} is damaged: ${error.message}`);
      }
    }
    this.#decoding -= 1;
  }
}
