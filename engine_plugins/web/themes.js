// Titles, descriptions and artwork of known themes. The server decides which themes exist.

import { sameTheme, themeKey } from "../js/session.js";

const artwork = (name) => new URL(`theme-${name}.svg`, import.meta.url).href;

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
];

const titled = (id) => {
  const words = id.replace(/[_-]+/g, " ").trim();
  return words.charAt(0).toUpperCase() + words.slice(1);
};

/** Describe a theme; one without artwork gets a generic image and a title made from its name. */
export function describeTheme(id) {
  const known = THEMES.find((theme) => sameTheme(theme.id, id));
  if (known) return { ...known, id, key: themeKey(id) };
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
  (ids?.length ? ids : THEMES.map((theme) => theme.id)).map(describeTheme);
