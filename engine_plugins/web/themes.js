// Titles, descriptions and artwork of known themes. The server decides which themes exist.

import { sameTheme, themeKey } from "../js/session.js";

const artwork = (name, kind = "webp") => new URL(`theme-${name}.${kind}`, import.meta.url).href;

const locality = (name, title, line) => ({
  id: `city/${name}`,
  title,
  line,
  art: artwork(name),
});

export const THEMES = [
  {
    id: "city",
    title: "City",
    line: "Shop fronts, pillars and zebra crossings",
    art: artwork("city"),
  },
  {
    id: "museum",
    title: "Museum",
    line: "Halls of paintings under skylights",
    art: artwork("museum"),
  },
  {
    id: "zoo",
    title: "Zoo",
    line: "Paths between hedges, lawns and flamingos",
    art: artwork("zoo"),
  },
  {
    id: "hospital",
    title: "Hospital",
    line: "Bright corridors and waiting rooms",
    art: artwork("hospital"),
  },
  {
    id: "amusement_park",
    title: "Amusement park",
    line: "Carousels, stalls and balloons",
    art: artwork("amusement_park"),
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
    art: artwork("other", "svg"),
  };
}

/** Describe the server's themes, or all known ones before it answered. */
export const describeThemes = (ids) =>
  (ids?.length ? ids : WITHOUT_SERVER).map(describeTheme);
