// Pictures of the player's own that a world begins with: chosen or dropped, looked at, and made
// small enough to send.

import { byId, setText, toast } from "./dom.js";

export const MOST = 9;
const TYPES = ["image/png", "image/jpeg", "image/webp"];
const MOST_BYTES = 7_000_000; // together; the server takes a message of 8 MiB
const LARGE_BYTES = 2_000_000; // of one: more is more than a world can see
const LARGE_SIDE = 2048;

/** What is wrong with these files for a world that takes `most` pictures, in words, or null. */
export function problemWith(files, most) {
  if (files.length === 0) return "There is no picture in that.";
  if (most === 0)
    return "This world is rendered, not generated, so it cannot begin with a picture.";
  if (files.length > most)
    return `This world begins with at most ${most === 1 ? "1 picture" : `${most} pictures`}; that were ${files.length}.`;
  for (const { name, type, size } of files) {
    if (!TYPES.includes(type)) return `${name} is not a PNG, JPEG or WebP picture.`;
    if (size === 0) return `${name} is empty.`;
  }
  return null;
}

/** Frames of one film, oldest first: by name, and 9 comes before 10. */
export const inOrder = (files) =>
  [...files].sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));

export const titleOf = (count) => (count === 1 ? "Your picture" : `Your ${count} pictures`);

/** @throws {Error} with a sentence for the player */
async function bytesOf(file, budget) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error(`${file.name} is damaged, or not a picture.`);
  }
  const { width, height } = bitmap;
  const fits = file.size <= budget;
  try {
    if (fits) return new Uint8Array(await file.arrayBuffer());
    const scale = Math.min(1, LARGE_SIDE / Math.max(width, height));
    const size = [Math.round(width * scale), Math.round(height * scale)];
    const canvas = new OffscreenCanvas(...size);
    const context = canvas.getContext("2d", { alpha: false }); // black, as the server has it
    context.drawImage(bitmap, 0, 0, ...size);
    const small = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.92 });
    return new Uint8Array(await small.arrayBuffer());
  } finally {
    bitmap.close();
  }
}

/** @returns {Promise<Uint8Array[]>} @throws {Error} with a sentence for the player */
async function readAll(files) {
  const budget = Math.min(LARGE_BYTES, MOST_BYTES / files.length);
  const found = [];
  for (const file of files) found.push(await bytesOf(file, budget));
  if (found.reduce((sum, { length }) => sum + length, 0) > MOST_BYTES)
    throw new Error("These pictures are too large to send together. Choose fewer.");
  return found;
}

/** `value` is null (as the server likes), empty (the theme's own beginning), or the files' bytes. */
const NOTHING = Object.freeze({ value: null, url: null, count: 0, title: "" });
const THEME = Object.freeze({ ...NOTHING, value: [] });

/** A player's own pictures; the newest one is shown. */
function ownChoice(value) {
  const count = value.length;
  return { value, url: URL.createObjectURL(new Blob([value.at(-1)])), count, title: titleOf(count) };
}

/** Which pictures the next world begins with. Both controls and the drop change this one choice. */
export class PictureChoice {
  #now = NOTHING;
  #reading = 0;
  #offered = 0;

  /** `changed(choice)` is called after every change; `store` outlives a reload (PictureStore). */
  constructor(changed, store = null) {
    this.changed = changed;
    this.store = store;
    this.most = null; // not known before the server said it
  }

  get offered() {
    return this.#offered;
  }

  get now() {
    if (this.#now !== NOTHING || this.#offered === 0) return this.#now;
    return { ...NOTHING, url: "picture", count: this.#offered, title: "This server's picture" };
  }

  /** @returns whether there is a new choice; if not, the player was told why */
  async take(list) {
    const files = inOrder(list);
    const reading = ++this.#reading;
    const problem = problemWith(files, this.most ?? MOST);
    try {
      if (problem !== null) throw new Error(problem);
      const value = await readAll(files);
      if (reading !== this.#reading) return false; // chosen anew in the meantime
      this.#set(ownChoice(value));
      return true;
    } catch (error) {
      toast(error.message, "warn", 7);
      return false;
    }
  }

  /** What was chosen before the tab was loaded anew, unless there is a choice already. */
  async recall() {
    const reading = this.#reading;
    const value = (await this.store?.load()) ?? null;
    const fits = value !== null && value.length <= (this.most ?? MOST);
    if (fits && reading === this.#reading && this.#now === NOTHING) this.#set(ownChoice(value));
  }

  /** Back to the themes. */
  clear() {
    this.#reading += 1;
    this.#set(this.#offered > 0 || this.#now !== NOTHING ? THEME : NOTHING);
  }

  /** What `now` was before. */
  restore(choice) {
    this.#set(choice);
  }

  /** What the world can take, and how many pictures the server begins with by itself. */
  offer(most, offered) {
    if (most === this.most && offered === this.#offered) return;
    this.most = most;
    this.#offered = Math.min(offered, most);
    this.changed(this.now);
  }

  #set(choice) {
    this.#now = choice.url === "picture" ? NOTHING : choice;
    this.store?.save(this.#now.value?.length ? this.#now.value : null);
    this.changed(this.now);
  }
}

/** A button to choose, or a thumbnail with a way back. */
export class PictureControl {
  constructor(root, choice) {
    this.root = root;
    this.find = (name) => root.querySelector(`.picture-${name}`);
    this.find("choose").addEventListener("click", () => byId("picture-file").click());
    this.find("chip").addEventListener("click", () => byId("picture-file").click());
    this.find("clear").addEventListener("click", () => {
      choice.clear();
      this.find("choose").focus();
    });
  }

  show({ url, count, title }, most) {
    this.root.hidden = !most;
    this.find("choose").hidden = count > 0;
    this.find("chosen").hidden = count === 0;
    if (count === 0) return this.find("thumb").removeAttribute("src");
    if (this.find("thumb").getAttribute("src") !== url) this.find("thumb").src = url;
    setText(this.find("title"), title);
  }
}

/** Files that are dragged over any part of the page. `hooks`: most(), dropped(files) */
export class DropArea {
  constructor(hooks) {
    this.root = byId("drop");
    const carriesFiles = ({ dataTransfer }) => dataTransfer?.types.includes("Files");
    const over = (event) => {
      if (!carriesFiles(event)) return;
      event.preventDefault();
      event.dataTransfer.dropEffect = hooks.most() > 0 ? "copy" : "none";
      this.#show(hooks.most());
    };
    addEventListener("dragenter", over);
    addEventListener("dragover", over);
    addEventListener("dragleave", (event) => event.relatedTarget === null && this.#hide());
    addEventListener("drop", (event) => {
      this.#hide();
      if (!carriesFiles(event)) return;
      event.preventDefault(); // else the browser leaves the page and shows the file
      hooks.dropped([...event.dataTransfer.files]);
    });
  }

  #show(most) {
    if (this.root.matches(":popover-open")) return;
    this.root.dataset.takes = String(most > 0);
    setText(byId("drop-title"), most > 0 ? "Drop to begin here" : "Not in this world");
    setText(
      byId("drop-line"),
      most > 1
        ? `The world goes on from your picture, or from up to ${most} frames of a film.`
        : most > 0
          ? "The world goes on from your picture."
          : "It is rendered, not generated, so it cannot begin with a picture.",
    );
    this.root.showPopover();
  }

  #hide() {
    if (this.root.matches(":popover-open")) this.root.hidePopover();
  }
}
