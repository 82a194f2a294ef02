// The menu over the running world: another theme or seed, restart, settings and the control help.

import { byId, copy, setText, toast } from "./dom.js";
import { SeedField, ThemeCards } from "./landing.js";

export class Menu {
  /**
   * `hooks`: apply(theme, seed), reset(), leave(), control(), preferences(changes), opened(), closed(), link()
   * -> url, promptFrames() -> their number
   */
  constructor(preferences, hooks) {
    this.dialog = byId("menu");
    this.hooks = hooks;
    this.cards = new ThemeCards(byId("menu-cards"), "menu-theme", () => {});
    this.seed = new SeedField(byId("menu-seed"), byId("menu-dice"));
    this.#actions();
    this.#preferences(preferences);
    this.dialog.addEventListener("close", () => hooks.closed());
    // the backdrop
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.close());
  }

  #actions() {
    const closing = (action) => () => {
      this.close();
      action();
    };
    byId("menu-close").addEventListener("click", () => this.close());
    byId("menu-resume").addEventListener("click", () => this.close());
    byId("menu-reset").addEventListener(
      "click",
      closing(() => this.hooks.reset()),
    );
    byId("menu-leave").addEventListener(
      "click",
      closing(() => this.hooks.leave()),
    );
    byId("menu-control").addEventListener(
      "click",
      closing(() => this.hooks.control()),
    );
    byId("menu-fullscreen").addEventListener("click", () => toggleFullscreen());
    byId("menu-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const [theme, seed] = [this.cards.value, this.seed.take()];
      this.close();
      this.hooks.apply(theme, seed);
    });
    byId("menu-share").addEventListener("click", async () => {
      const url = this.hooks.link();
      const without = this.hooks.promptFrames() > 0 ? ". It does not include your image" : "";
      toast(
        (await copy(url))
          ? `Link to this world copied${without}`
          : `The browser did not allow copying: ${url}${without}`,
      );
    });
  }

  #preferences(preferences) {
    const sensitivity = byId("sensitivity");
    const show = () =>
      setText(byId("sensitivity-value"), `${Number(sensitivity.value).toFixed(1)} ×`);
    sensitivity.value = preferences.sensitivity;
    show();
    sensitivity.addEventListener("input", () => {
      show();
      this.hooks.preferences({ sensitivity: Number(sensitivity.value) });
    });
    for (const [id, key] of [
      ["invert-y", "invertY"],
      ["fill", "fill"],
    ]) {
      const box = byId(id);
      box.checked = preferences[key];
      box.addEventListener("change", () => this.hooks.preferences({ [key]: box.checked }));
    }
  }

  get open() {
    return this.dialog.open;
  }

  show({ world, theme, seed, role, controlRequested }) {
    if (this.open) return;
    const watches = role === "spectator";
    byId("menu-reset").hidden = byId("menu-form").hidden = watches;
    byId("menu-control").hidden = !watches && !controlRequested;
    setText(byId("menu-control"), watches ? "Ask for the controls" : "Hand over the controls");
    this.cards.show(world?.themes, theme);
    this.seed.value = seed;
    this.dialog.showModal();
    if (!watches) this.cards.reveal();
    byId("menu-resume").focus();
    this.hooks.opened();
  }

  close() {
    if (this.open) this.dialog.close();
  }
}

export async function toggleFullscreen() {
  const root = document.documentElement;
  if (!root.requestFullscreen)
    return toast(
      "This browser has no fullscreen mode for pages. Add the page to the home screen instead.",
      "warn",
    );
  try {
    await (document.fullscreenElement
      ? document.exitFullscreen()
      : root.requestFullscreen({ navigationUI: "hide" }));
  } catch {
    toast("The browser did not allow fullscreen here.", "warn");
  }
}
