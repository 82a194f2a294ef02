// Prompt frames that survive a reload of the tab. They are too large for the session storage and go
// into IndexedDB, under a name that the tab keeps.

const DATABASE = "worldbridge.prompt_frames";
const CHOSEN = "chosen";
const KEPT = 8; // tabs: a closed one does not remove its entry

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

/** Run a transaction; null if storage is full or forbidden. */
async function transact(mode, work) {
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

export class PromptStore {
  /** `tab`: a name that the tab keeps when it is reloaded */
  constructor(tab) {
    this.tab = tab;
  }

  /** Store the bytes of each image, oldest first; null deletes them. */
  save(files) {
    return transact("readwrite", async (chosen) => {
      if (files === null) return done(chosen.delete(this.tab));
      await done(chosen.put({ tab: this.tab, files, at: Date.now() }));
      return forgetOldest(chosen);
    });
  }

  /** Load the stored images. @returns {Promise<Uint8Array[] | null>} */
  async load() {
    const found = await transact("readonly", (chosen) => done(chosen.get(this.tab)));
    const files = found?.files;
    const valid = Array.isArray(files) && files.every((file) => file instanceof Uint8Array);
    return valid && files.length > 0 ? files : null;
  }
}
