// Preferences in the browser's storage, the running session in the tab's, and the page's URL.

const PREFERENCES = "worldbridge.preferences";
const VIDEO = "worldbridge.video";
const SESSION = "worldbridge.session";
const TAB = "worldbridge.tab";
const DEFAULTS = {
  sensitivity: 1,
  invertY: false,
  fill: false,
  hud: false,
  theme: null,
  themes: [],
};

// Storage may be full, forbidden or edited by hand. The page works without it.

function read(storage, key) {
  try {
    return JSON.parse(storage().getItem(key)) ?? {};
  } catch {
    return {};
  }
}

function write(storage, key, value) {
  try {
    if (value === null) storage().removeItem(key);
    else storage().setItem(key, JSON.stringify(value));
  } catch {
    // private browsing: nothing is stored
  }
}

const local = () => window.localStorage;
const TOKEN = "worldbridge.token";
const perTab = () => window.sessionStorage;

const sameKind = (value, example) =>
  example === null
    ? value === null || typeof value === "string"
    : Array.isArray(value) === Array.isArray(example) && typeof value === typeof example;

export function loadPreferences() {
  const stored = read(local, PREFERENCES);
  return Object.fromEntries(
    Object.entries(DEFAULTS).map(([key, value]) => [
      key,
      sameKind(stored[key], value) ? stored[key] : value,
    ]),
  );
}

export const savePreferences = (preferences) => write(local, PREFERENCES, preferences);

/** Return what is known of each way that video takes, see `VideoChoice`. */
export const loadVideo = () => read(local, VIDEO);

export const saveVideo = (known) => write(local, VIDEO, known);

/** Return {resume, theme, seed, at (ms since 1970), counters}, or {}. */
export const loadSession = () => read(perTab, SESSION);

export const saveSession = (session) => write(perTab, SESSION, session);

/** Return a name that this tab keeps when it is reloaded. */
export function tabName() {
  const { name = crypto.getRandomValues(new Uint32Array(2)).join("-") } = read(perTab, TAB);
  write(perTab, TAB, { name });
  return name;
}

const MAX_SEED = 2 ** 31 - 1;

/** Parse a seed from 0 to 2^31 - 1; null if the text is not one. */
export function parseSeed(text) {
  const trimmed = (text ?? "").trim();
  if (!/^\d{1,10}$/.test(trimmed)) return null;
  const seed = Number(trimmed);
  return seed <= MAX_SEED ? seed : null;
}

export const randomSeed = () => crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000;

/** Read the options in the page's URL; ignore what is not understood. */
export function readUrl(search) {
  const query = new URLSearchParams(search);
  const video = query.get("video");
  return {
    theme: query.get("theme"),
    seed: parseSeed(query.get("seed")),
    autoplay: query.get("autoplay") === "1",
    watch: query.get("watch") === "1",
    video: ["jpeg", "h264", "webrtc"].includes(video) ? video : "auto",
    hud: query.get("hud") === "1",
  };
}

/**
 * Take the token out of the page's address, `#token=...` or `?token=...`, and remember it for this
 * tab. An address stays in the history, in screenshots and in the logs of proxies.
 */
export function takeToken() {
  const url = new URL(location.href);
  const fragment = new URLSearchParams(url.hash.slice(1));
  const token = fragment.get("token") ?? url.searchParams.get("token");
  if (token === null) return read(perTab, TOKEN).token ?? null;
  saveToken(token);
  url.searchParams.delete("token");
  url.hash = "";
  history.replaceState(null, "", url);
  return token;
}

export const saveToken = (token) => write(perTab, TOKEN, { token });

/** Return a link to a world, without the token. */
export function shareUrl(base, theme, seed) {
  const url = new URL(base);
  url.search = new URLSearchParams({ theme, seed: String(seed) }).toString();
  url.hash = "";
  return url.href;
}
