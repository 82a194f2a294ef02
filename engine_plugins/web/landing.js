// The start screen: choose a theme and a seed, press Play.

import { byId, h, icon, setText } from "./dom.js";
import { parseSeed, randomSeed } from "./settings.js";
import { sameTheme } from "../js/session.js";
import { describeTheme, describeThemes } from "./themes.js";

/** A radio group of theme cards, on the start screen and in the menu. */
export class ThemeCards {
  constructor(root, name, picked) {
    this.root = root;
    this.name = name;
    this.picked = picked;
    this.ids = "";
  }

  show(ids, selected) {
    const themes = describeThemes(ids);
    const key = themes.map((theme) => theme.id).join();
    if (key !== this.ids) {
      this.ids = key;
      this.root.replaceChildren(...themes.map((theme) => this.#card(theme)));
    }
    const wanted = themes.find((theme) => selected && sameTheme(theme.id, selected)) ?? themes[0];
    for (const input of this.root.querySelectorAll("input"))
      input.checked = input.value === wanted.id;
    return wanted.id;
  }

  #card({ id, key, title, art }) {
    const input = h("input", {
      type: "radio",
      name: this.name,
      value: id,
      onchange: () => this.picked(id),
    });
    const image = h("img", { src: art, alt: "", draggable: "false" });
    return h(
      "label",
      { class: "card", "data-theme": key },
      input,
      image,
      h("span", { class: "card-title", text: title }),
      h("span", { class: "card-mark" }, icon("check")),
    );
  }

  get value() {
    return this.root.querySelector("input:checked")?.value ?? null;
  }

  reveal() {
    this.root
      .querySelector("input:checked")
      ?.closest(".card")
      .scrollIntoView({ block: "nearest", inline: "center" });
  }
}

/** A number field with a dice button. An empty field means a random seed. */
export class SeedField {
  constructor(input, dice) {
    this.input = input;
    dice.addEventListener("click", () => {
      this.value = randomSeed();
      dice.classList.remove("rolled");
      void dice.offsetWidth; // restarts the animation
      dice.classList.add("rolled");
    });
    input.addEventListener("input", () => {
      input.value = input.value.replace(/\D/g, "").slice(0, 10);
      input.setAttribute(
        "aria-invalid",
        String(input.value !== "" && parseSeed(input.value) === null),
      );
    });
  }

  get value() {
    return parseSeed(this.input.value);
  }

  set value(seed) {
    this.input.value = seed === null ? "" : String(seed);
    this.input.setAttribute("aria-invalid", "false");
  }

  /** Return the seed; choose a random one if the field is empty or out of range. */
  take() {
    this.value = this.value ?? randomSeed();
    return this.value;
  }
}

export class Landing {
  /** `hooks`: play(theme, seed), watch(), resume(), picked(theme) */
  constructor(hooks) {
    this.hooks = hooks;
    this.root = byId("landing");
    this.prompt = null;
    this.cards = new ThemeCards(byId("cards"), "theme", (id) => this.#picked(id));
    this.seed = new SeedField(byId("seed"), byId("dice"));
    byId("start").addEventListener("submit", (event) => {
      event.preventDefault();
      hooks.play(this.cards.value, this.seed.take());
    });
    byId("continue").addEventListener("click", () => hooks.resume());
    byId("watch").addEventListener("click", () => hooks.watch());
  }

  show(themes, theme, seed) {
    this.seed.value = seed;
    this.#picked(this.cards.show(themes, theme));
    this.cards.reveal();
  }

  /** Offer to continue this tab's session; null hides the button. */
  offerResume(theme) {
    byId("continue").hidden = theme === null;
    if (theme !== null) setText(byId("continue-text"), `Continue in ${describeTheme(theme).title}`);
  }

  /** Show the chosen prompt frames in place of the theme's title. */
  showPrompt({ count, title }) {
    this.prompt = count > 0 ? title : null;
    if (this.cards.value !== null) this.#picked(this.cards.value);
  }

  #picked(id) {
    const theme = describeTheme(id);
    const { prompt } = this;
    setText(byId("hero-eyebrow"), prompt ? "Start anywhere" : "Choose a world");
    setText(byId("hero-title"), prompt ?? theme.title);
    setText(
      byId("hero-line"),
      prompt ? `The world continues from here, in the style of ${theme.title}` : theme.line,
    );
    this.hooks.picked(id);
  }
}
