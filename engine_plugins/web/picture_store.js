// Pictures that a player chose outlive a reload of the tab. They are too large for the session
// storage, so they lie in a database of the browser, under a name that the tab remembers.

const DATABASE = "worldbridge.pictures";
const CHOSEN = "chosen";
const PATIENCE_MS = 1000;
const KEPT = 8; // tabs: those that were closed never say so

const done = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

async function open() {
  const request = indexedDB.open(DATABASE, 1);
  request.onupgradeneeded = () =>
    request.result.createObjectStore(CHOSEN, { keyPath: "tab" }).createIndex("at", "at");
  return done(request);
}

/** The page works without storage, which may be full or forbidden: then nothing is remembered. */
async function remembered(mode, work) {
  try {
    const database = await open();
    try {
      return await work(database.transaction(CHOSEN, mode).objectStore(CHOSEN));
    } finally {
      database.close();
    }
  } catch {
    return null;
  }
}

async function forgetOldest(chosen) {
  const oldestFirst = await done(chosen.index("at").getAllKeys());
  for (const tab of oldestFirst.slice(0, -KEPT)) await done(chosen.delete(tab));
}

export class PictureStore {
  /** `tab`: a name that the tab keeps through reloads */
  constructor(tab) {
    this.tab = tab;
  }

  /** `files`: bytes of each picture, oldest first, or null to forget them. */
  save(files) {
    return remembered("readwrite", async (chosen) => {
      if (files === null) return done(chosen.delete(this.tab));
      await done(chosen.put({ tab: this.tab, files, at: Date.now() }));
      return forgetOldest(chosen);
    });
  }

  /** @returns {Promise<Uint8Array[] | null>} */
  async load() {
    const found = await Promise.race([
      remembered("readonly", (chosen) => done(chosen.get(this.tab))),
      new Promise((resolve) => setTimeout(resolve, PATIENCE_MS, null)), // it holds up the page
    ]);
    const files = found?.files;
    const sound = Array.isArray(files) && files.every((file) => file instanceof Uint8Array);
    return sound && files.length > 0 ? files : null;
  }
}
