// Displays of the latest frame: a canvas for JPEG, a video element for WebRTC. Each reports when a
// frame was shown.

/**
 * Draw JPEG frames, or decoded ones, on a canvas.
 * `shown(header, received, at)`: `at` is the display's refresh.
 */
export class CanvasDisplay {
  #waiting = null;
  #busy = false;
  #painted = null; // since the last refresh
  #held = null; // newer than what is painted

  constructor(canvas, shown) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false, desynchronized: true });
    this.shown = shown;
    this.dropped = 0;
    this.broken = 0;
  }

  push(header, jpeg, received) {
    if (this.#waiting !== null) this.dropped += 1;
    this.#waiting = { header, jpeg, received };
    if (!this.#busy) this.#next();
  }

  async #next() {
    this.#busy = true;
    while (this.#waiting !== null) {
      const item = this.#waiting;
      this.#waiting = null;
      try {
        this.#draw(await createImageBitmap(new Blob([item.jpeg], { type: "image/jpeg" })), item);
      } catch {
        // a damaged frame is skipped; the next one does not depend on it
        this.broken += 1;
      }
    }
    this.#busy = false;
  }

  /** Draw a decoded VideoFrame at once, and close it. */
  show(videoFrame, header, received) {
    this.#draw(videoFrame, { header, received });
  }

  /**
   * Paint the first frame since the display's refresh at once, and of more only the newest, at the
   * next refresh: painting takes time that a slow machine does not have.
   */
  #draw(bitmap, { header, received }) {
    const item = { bitmap, header, received };
    if (this.#painted === null) {
      this.#paint(item);
      requestAnimationFrame(() => this.#refreshed());
      return;
    }
    this.dropped += 1; // the painted one or the held one is not shown
    this.#held?.bitmap.close();
    this.#held = item;
  }

  #paint(item) {
    const { bitmap } = item;
    this.#fit(bitmap.displayWidth ?? bitmap.width, bitmap.displayHeight ?? bitmap.height);
    this.context.drawImage(bitmap, 0, 0, this.canvas.width, this.canvas.height);
    bitmap.close();
    this.#painted = item;
  }

  /** Double the frame's size with a high-quality filter; the browser scales the rest fast. */
  #fit(frameWidth, frameHeight) {
    const [width, height] = [frameWidth * 2, frameHeight * 2];
    if (this.canvas.width === width && this.canvas.height === height) return;
    this.canvas.width = width;
    this.canvas.height = height;
    this.context.imageSmoothingEnabled = true;
    this.context.imageSmoothingQuality = "high";
  }

  #refreshed() {
    if (this.#held !== null) this.#paint(this.#held);
    const { header, received } = this.#painted;
    this.#painted = this.#held = null;
    this.shown(header, received, performance.now());
  }
}

/** Play a WebRTC track in a video element. `shown(rtpTimestamp, received, at)` */
export class VideoDisplay {
  #last = null;

  constructor(video, shown) {
    this.video = video;
    this.shown = shown;
    this.dropped = 0;
    video.muted = true;
    this.#listen();
  }

  attach(stream) {
    this.video.srcObject = stream;
    // muted video may play without a gesture; where it may not, the first click starts it
    this.video.play().catch(() => {});
  }

  detach() {
    this.video.srcObject = null;
    this.#last = null;
  }

  #listen() {
    if (!this.video.requestVideoFrameCallback) return;
    this.video.requestVideoFrameCallback((now, frame) => {
      this.#listen();
      if (this.#last !== null) this.dropped += Math.max(0, frame.presentedFrames - this.#last - 1);
      this.#last = frame.presentedFrames;
      // When the frame goes to the compositor. expectedDisplayTime adds the browser's estimate of
      // the next refresh, which cannot be verified here.
      const at = Math.max(now, performance.now());
      this.shown(frame.rtpTimestamp, frame.receiveTime ?? frame.presentationTime ?? at, at);
    });
  }
}
