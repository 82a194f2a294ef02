// Titles, descriptions and artwork of known themes. The server decides which themes exist.

import { sameTheme, themeKey } from "../js/session.js";

const artwork = (name, kind = "svg") => new URL(`theme-${name}.${kind}`, import.meta.url).href;

const locality = (name, title, line) => ({
  id: `city/${name}`,
  title,
  line,
  art: artwork(name, "webp"),
});

export const THEMES = [
  {
    id: "city",
    title: "City",
    line: "Wet streets and lit windows after sunset",
    art: artwork("city"),
  },
  {
    id: "museum",
    title: "Museum",
    line: "Quiet halls, old frames, a polished floor",
    art: artwork("museum"),
  },
  {
    id: "zoo",
    title: "Zoo",
    line: "A path through the green in the early morning",
    art: artwork("zoo"),
  },
  {
    id: "hospital",
    title: "Hospital",
    line: "Long bright corridors on the night shift",
    art: artwork("hospital"),
  },
  {
    id: "amusement_park",
    title: "Amusement park",
    line: "Wheel, coaster and a thousand bulbs",
    art: artwork("park"),
  },
  locality("new_york", "New York", "Yellow cabs, brownstones and glass towers"),
  locality("paris", "Paris", "Stone facades, balconies and plane trees"),
  locality("tokyo", "Tokyo", "Signs above signs, and cherry trees in bloom"),
  locality("marrakesh", "Marrakesh", "Red walls, horseshoe arches and lanterns"),
];

// What the page offers before the server has answered: no localities, as not every world has them.
const WITHOUT_SERVER = THEMES.map((theme) => theme.id).filter((id) => !id.includes("/"));

const titled = (id) => {
  const words = id.replace(/[_-]+/g, " ").trim();
  return words.charAt(0).toUpperCase() + words.slice(1);
};

/** Describe a theme; one without artwork gets a generic image and a title made from its name. */
export function describeTheme(id) {
  const known = THEMES.find((theme) => sameTheme(theme.id, id));
  if (known) return { ...known, id, key: themeKey(id.split("/")[0]) };
  return {
    id,
    key: "other",
    title: titled(id),
    line: "A world on this server",
    art: artwork("other"),
  };
}

/** Describe the server's themes, or all known ones before it answered. */
export const describeThemes = (ids) =>
  (ids?.length ? ids : WITHOUT_SERVER).map(describeTheme);
