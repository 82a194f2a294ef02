// The first screen: pick a theme and a seed, press Play.

import { byId, h, icon, setText } from "./dom.js";
import { parseSeed, randomSeed } from "./settings.js";
import { describeTheme, describeThemes, sameTheme } from "./themes.js";

/** A row of cards behaving as one radio group, for the first screen and the menu. */
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
    const picture = h("img", { src: art, alt: "", draggable: "false" });
    return h(
      "label",
      { class: "card", "data-theme": key },
      input,
      picture,
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

/** A number field with a dice button. Empty means: roll one. */
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

  /** The seed, rolled and shown when the field is empty or out of range. */
  take() {
    this.value = this.value ?? randomSeed();
    return this.value;
  }
}

export class Landing {
  /** `hooks`: play(theme, seed), resume(), picked(theme) */
  constructor(hooks) {
    this.hooks = hooks;
    this.root = byId("landing");
    this.picture = null;
    this.cards = new ThemeCards(byId("cards"), "theme", (id) => this.#picked(id));
    this.seed = new SeedField(byId("seed"), byId("dice"));
    byId("start").addEventListener("submit", (event) => {
      event.preventDefault();
      hooks.play(this.cards.value, this.seed.take());
    });
    byId("continue").addEventListener("click", () => hooks.resume());
  }

  show(themes, theme, seed) {
    this.seed.value = seed;
    this.#picked(this.cards.show(themes, theme));
    this.cards.reveal();
  }

  /** A session of this tab that can still be entered. */
  offerResume(theme) {
    byId("continue").hidden = theme === null;
    if (theme !== null) setText(byId("continue-text"), `Continue in ${describeTheme(theme).title}`);
  }

  /** The pictures that the world begins with instead of its theme, if there are some. */
  showPicture({ count, title }) {
    this.picture = count > 0 ? title : null;
    if (this.cards.value !== null) this.#picked(this.cards.value);
  }

  #picked(id) {
    const theme = describeTheme(id);
    const { picture } = this;
    setText(byId("hero-eyebrow"), picture ? "Begin anywhere" : "Choose a world");
    setText(byId("hero-title"), picture ?? theme.title);
    setText(byId("hero-line"), picture ? `Goes on from here, in the style of ${theme.title}` : theme.line);
    this.hooks.picked(id);
  }
}
