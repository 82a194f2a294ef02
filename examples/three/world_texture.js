// A world's newest frame as a three.js texture.

import * as THREE from "three";
import { Client, sessionUrl, TICK_MS } from "@worldbridge/client";

/**
 * Streams a session into `texture`. Call `update` once per rendered frame.
 *
 * `shown` counts frames, `header` is the FrameHeader of the one in the texture, `client` is the
 * library's Client.
 */
export class WorldTexture {
  shown = 0;
  header = null;
  #newest = null; // the newest message that is not decoded yet
  #decoding = false;
  #decoded = null; // {bitmap, header, received}, not in the texture yet
  #timer = null;

  /** @param {string} server address of the server, such as http://127.0.0.1:8080 */
  constructor(server, { token = null, changed = () => {} } = {}) {
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
    this.client = new Client(sessionUrl(server), handlers, { video: "jpeg", client: "three", token });
  }

  play(wanted = { theme: null, seed: null }) {
    this.client.play(wanted);
    this.#timer ??= setInterval(() => this.client.tick(!document.hidden), TICK_MS);
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

  /** Put the newest decoded frame into the texture. */
  update() {
    if (!this.#decoded) return;
    const { bitmap, header, received } = this.#decoded;
    this.#decoded = null;
    const before = this.texture.image;
    if (before && (before.width !== bitmap.width || before.height !== bitmap.height))
      this.texture.dispose(); // a texture keeps the size of its first image
    this.texture.image = bitmap;
    this.texture.needsUpdate = true;
    before?.close();
    this.shown += 1;
    this.header = header;
    this.client.imageShown(header, received, performance.now());
  }

  async #arrived(message, received) {
    this.#newest = { message, received };
    if (this.#decoding) return;
    this.#decoding = true;
    while (this.#newest) {
      const { message, received } = this.#newest;
      this.#newest = null;
      try {
        const options = { imageOrientation: "flipY" };
        const bitmap = await createImageBitmap(new Blob([message.image]), options);
        this.#decoded?.bitmap.close();
        this.#decoded = { bitmap, header: message.header, received };
      } catch (error) {
        console.error(`frame ${message.header.frame} is damaged: ${error.message}`);
      }
    }
    this.#decoding = false;
  }
}
