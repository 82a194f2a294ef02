// Prompt frames: images that the player chooses or drops, checked and scaled down before they are
// sent.

import { MAX_PROMPT_BYTES, MAX_PROMPT_FRAMES } from "../js/protocol.js";
import { byId, setText, toast } from "./dom.js";

const SERVER_IMAGE = "prompt-frame"; // URL of the server's own prompt frame
const TYPES = ["image/png", "image/jpeg", "image/webp"];
const MAX_BYTES = 2_000_000; // of one image; a larger one has more detail than a world uses
const MAX_PIXELS = 36_000_000; // of one image; above it the server has to scale as well
const MAX_SIDE = 2048; // pixels

const counted = (count) => (count === 1 ? "1 image" : `${count} images`);

/** Say what is wrong with these files for a world that takes `limit` images; null if nothing is. */
export function problemWith(files, limit) {
  if (files.length === 0) return "That contains no image.";
  if (limit === 0)
    return "This world is rendered, not generated, so it cannot start from an image.";
  if (files.length > limit)
    return `This world takes at most ${counted(limit)}, not ${files.length}.`;
  for (const { name, type, size } of files) {
    if (!TYPES.includes(type)) return `${name} is not a PNG, JPEG or WebP image.`;
    if (size === 0) return `${name} is empty.`;
  }
  return null;
}

/** Sort a clip's frames by name, 9 before 10. */
export const inOrder = (files) =>
  [...files].sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));

export const titleOf = (count) => (count === 1 ? "Your image" : `Your ${counted(count)}`);

/** Read an image, scaled down to `budget` bytes. @throws {Error} with a message for the player */
async function bytesOf(file, budget) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error(`${file.name} is damaged or not an image.`);
  }
  const { width, height } = bitmap;
  const fits = file.size <= budget && width * height <= MAX_PIXELS;
  try {
    if (fits) return new Uint8Array(await file.arrayBuffer());
    const scale = Math.min(1, MAX_SIDE / Math.max(width, height));
    const size = [Math.round(width * scale), Math.round(height * scale)];
    const canvas = new OffscreenCanvas(...size);
    // without alpha, transparent parts become black, as on the server
    const context = canvas.getContext("2d", { alpha: false });
    context.drawImage(bitmap, 0, 0, ...size);
    const small = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.92 });
    return new Uint8Array(await small.arrayBuffer());
  } finally {
    bitmap.close();
  }
}

/** @returns {Promise<Uint8Array[]>} @throws {Error} with a message for the player */
async function readAll(files) {
  const budget = Math.min(MAX_BYTES, MAX_PROMPT_BYTES / files.length);
  const found = [];
  for (const file of files) found.push(await bytesOf(file, budget));
  if (found.reduce((sum, { length }) => sum + length, 0) > MAX_PROMPT_BYTES)
    throw new Error("These images are too large to send together. Choose fewer.");
  return found;
}

// `value` is null (the server's default), empty (the theme's own start), or the images' bytes.
const NOTHING = Object.freeze({ value: null, url: null, count: 0, title: "" });
const THEME = Object.freeze({ ...NOTHING, value: [] });

/** Return the choice of the player's own images; the last one is its thumbnail. */
function ownChoice(value) {
  const count = value.length;
  return {
    value,
    url: URL.createObjectURL(new Blob([value.at(-1)])),
    count,
    title: titleOf(count),
  };
}

/** The prompt frames of the next world, shared by both controls and the drop area. */
export class PromptChoice {
  #now = NOTHING;
  #reading = 0;
  #offered = 0;

  /** `changed(choice)` is called after every change; `store`: a PromptStore. */
  constructor(changed, store = null) {
    this.changed = changed;
    this.store = store;
    this.limit = null; // unknown until the server has answered
  }

  get offered() {
    return this.#offered;
  }

  get now() {
    if (this.#now !== NOTHING || this.#offered === 0) return this.#now;
    return { ...NOTHING, url: SERVER_IMAGE, count: this.#offered, title: "This server's image" };
  }

  /** Choose files. @returns {Promise<boolean>} false if they cannot be used; a toast says why */
  async take(list) {
    const files = inOrder(list);
    const reading = ++this.#reading;
    const problem = problemWith(files, this.limit ?? MAX_PROMPT_FRAMES);
    try {
      if (problem !== null) throw new Error(problem);
      const value = await readAll(files);
      if (reading !== this.#reading) return false; // another choice was made in the meantime
      this.#set(ownChoice(value));
      return true;
    } catch (error) {
      toast(error.message, "warn", 7);
      return false;
    }
  }

  /** Restore the choice from before a reload, unless there is a new one. */
  async recall() {
    const reading = this.#reading;
    const value = (await this.store?.load()) ?? null;
    const fits = value !== null && value.length <= (this.limit ?? MAX_PROMPT_FRAMES);
    if (fits && reading === this.#reading && this.#now === NOTHING) this.#set(ownChoice(value));
  }

  /** Start from the theme again. */
  clear() {
    this.#reading += 1;
    this.#set(this.#offered > 0 || this.#now !== NOTHING ? THEME : NOTHING);
  }

  /** Return to an earlier value of `now`. */
  restore(choice) {
    this.#set(choice);
  }

  /** Set how many images the world takes, and how many the server has of its own. */
  offer(limit, offered) {
    if (limit === this.limit && offered === this.#offered) return;
    this.limit = limit;
    this.#offered = Math.min(offered, limit);
    this.changed(this.now);
  }

  #set(choice) {
    this.#now = choice.url === SERVER_IMAGE ? NOTHING : choice;
    this.store?.save(this.#now.value?.length ? this.#now.value : null);
    this.changed(this.now);
  }
}

/** A button to choose images, or their thumbnail with a button to clear them. */
export class PromptControl {
  constructor(root, choice) {
    this.root = root;
    root.append(byId("prompt-template").content.cloneNode(true));
    this.find = (name) => root.querySelector(`.prompt-${name}`);
    this.find("choose").addEventListener("click", () => byId("prompt-file").click());
    this.find("chip").addEventListener("click", () => byId("prompt-file").click());
    this.find("clear").addEventListener("click", () => {
      choice.clear();
      this.find("choose").focus();
    });
  }

  show({ url, count, title }, limit) {
    this.root.hidden = !limit;
    this.find("choose").hidden = count > 0;
    this.find("chosen").hidden = count === 0;
    if (count === 0) return this.find("thumb").removeAttribute("src");
    if (this.find("thumb").getAttribute("src") !== url) this.find("thumb").src = url;
    setText(this.find("title"), title);
  }
}

/** Take files that are dropped anywhere on the page. `hooks`: limit(), dropped(files) */
export class DropArea {
  constructor(hooks) {
    this.root = byId("drop");
    const carriesFiles = ({ dataTransfer }) => dataTransfer?.types.includes("Files");
    const over = (event) => {
      if (!carriesFiles(event)) return;
      event.preventDefault();
      event.dataTransfer.dropEffect = hooks.limit() > 0 ? "copy" : "none";
      this.#show(hooks.limit());
    };
    addEventListener("dragenter", over);
    addEventListener("dragover", over);
    addEventListener("dragleave", (event) => event.relatedTarget === null && this.#hide());
    addEventListener("drop", (event) => {
      this.#hide();
      if (!carriesFiles(event)) return;
      event.preventDefault(); // otherwise the browser opens the file
      hooks.dropped([...event.dataTransfer.files]);
    });
  }

  #show(limit) {
    if (this.root.matches(":popover-open")) return;
    this.root.dataset.takes = String(limit > 0);
    setText(byId("drop-title"), limit > 0 ? "Drop to start here" : "Not in this world");
    setText(
      byId("drop-line"),
      limit > 1
        ? `The world continues from your image, or from up to ${limit} frames of a clip.`
        : limit > 0
          ? "The world continues from your image."
          : "It is rendered, not generated, so it cannot start from an image.",
    );
    this.root.showPopover();
  }

  #hide() {
    if (this.root.matches(":popover-open")) this.root.hidePopover();
  }
}
