// DOM helpers.

export const byId = (id) => document.getElementById(id);

/** Create an element: h("p", {class: "hint", text: "Hello", onclick: f}, ...children). */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name === "text") element.textContent = value;
    else if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined)
      element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

const ICONS = new URL("icons.svg", import.meta.url).pathname;
const SVG = "http://www.w3.org/2000/svg";

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const use = document.createElementNS(SVG, "use");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `${ICONS}#${name}`);
  svg.append(use);
  return svg;
}

/** Set a text that changed. Setting an equal one makes screen readers repeat it. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Offer a text as a file. */
export function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

/** Copy a text to the clipboard. @returns {Promise<boolean>} whether the browser allowed it */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copySelection(text); // no clipboard API over plain http
  }
}

function copySelection(text) {
  const area = h("textarea", { class: "offscreen", "aria-hidden": "true" });
  area.value = text;
  (document.querySelector("dialog[open]") ?? document.body).append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
}

/** Show a message for a few seconds. `tone`: info, warn or pad. */
export function toast(text, tone = "info", seconds = 5) {
  const item = h(
    "div",
    { class: `toast ${tone}` },
    icon(tone === "warn" ? "warn" : tone === "pad" ? "pad" : "info"),
    h("span", { text }),
  );
  const stack = byId("toasts");
  stack.append(item);
  if (stack.showPopover) {
    // showing it again puts it above a dialog that has opened since
    if (stack.matches(":popover-open")) stack.hidePopover();
    stack.showPopover();
  }
  setTimeout(() => item.classList.add("gone"), seconds * 1000);
  setTimeout(() => item.remove(), seconds * 1000 + 400);
}
