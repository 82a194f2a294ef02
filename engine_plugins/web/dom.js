// The few DOM helpers that the parts of the page share.

export const byId = (id) => document.getElementById(id);

/** h("p", {class: "hint", text: "Hello"}, ...children); functions become listeners ("onclick"). */
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

const SVG = "http://www.w3.org/2000/svg";

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const use = document.createElementNS(SVG, "use");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `icons.svg#${name}`);
  svg.append(use);
  return svg;
}

/**
 * Writing the same text again would make screen readers repeat it and browsers lay out for nothing.
 */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

/** @returns whether the text is in the clipboard now */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyTheOldWay(text); // plain http has no clipboard API
  }
}

function copyTheOldWay(text) {
  const area = h("textarea", { class: "offscreen", "aria-hidden": "true" });
  area.value = text;
  (document.querySelector("dialog[open]") ?? document.body).append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
}

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
    // shown anew, it lies above a dialog that opened since
    if (stack.matches(":popover-open")) stack.hidePopover();
    stack.showPopover();
  }
  setTimeout(() => item.classList.add("gone"), seconds * 1000);
  setTimeout(() => item.remove(), seconds * 1000 + 400);
}
