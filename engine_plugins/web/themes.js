// What the page knows about themes: title, one line, accent colour, artwork. The server decides
// which themes exist.

export const THEMES = [
  {
    id: "city",
    title: "City",
    line: "Wet streets and lit windows after sunset",
    art: "theme-city.svg",
  },
  {
    id: "museum",
    title: "Museum",
    line: "Quiet halls, old frames, a polished floor",
    art: "theme-museum.svg",
  },
  {
    id: "zoo",
    title: "Zoo",
    line: "A path through the green in the early morning",
    art: "theme-zoo.svg",
  },
  {
    id: "hospital",
    title: "Hospital",
    line: "Long bright corridors on the night shift",
    art: "theme-hospital.svg",
  },
  {
    id: "amusement_park",
    title: "Amusement park",
    line: "Wheel, coaster and a thousand bulbs",
    art: "theme-park.svg",
  },
];

const ALIASES = {
  amusementpark: "park",
  themepark: "park",
  amusement: "park",
  funfair: "park",
  park: "park",
};

/** "amusement_park", "Amusement park" and "park" are one theme. */
export function themeKey(id) {
  const letters = id.toLowerCase().replace(/[^a-z]/g, "");
  return ALIASES[letters] ?? letters;
}

export const sameTheme = (a, b) => themeKey(a) === themeKey(b);

const titled = (id) => {
  const words = id.replace(/[_-]+/g, " ").trim();
  return words.charAt(0).toUpperCase() + words.slice(1);
};

/**
 * A theme this page has no artwork for is still a theme: it gets its own name and a plain picture.
 */
export function describeTheme(id) {
  const known = THEMES.find((theme) => sameTheme(theme.id, id));
  if (known) return { ...known, id, key: themeKey(id) };
  return {
    id,
    key: "other",
    title: titled(id),
    line: "A world of this server",
    art: "theme-other.svg",
  };
}

export const describeThemes = (ids) =>
  (ids?.length ? ids : THEMES.map((theme) => theme.id)).map(describeTheme);
