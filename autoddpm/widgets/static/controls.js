// Parts of the page that a hand moves.

function make(tag, facts = {}, parent = null) {
  const element = Object.assign(document.createElement(tag), facts);
  if (parent) parent.append(element);
  return element;
}

function button(parent, text, act, title = "") {
  const made = make("button", {type: "button", textContent: text, title}, parent);
  made.addEventListener("click", act);
  return made;
}

// A slider with its name and its value; `form` writes the value, `moved` hears of every move.
class Slider {
  constructor(parent, name, {low, high, step = 1, value, form = v => v, moved}) {
    this.form = form;
    this.box = make("label", {className: "slider"}, parent);
    make("span", {textContent: name}, this.box);
    this.input = make("input", {type: "range", min: low, max: high, step, value}, this.box);
    this.input.setAttribute("aria-label", name);
    this.told = make("output", {}, this.box);
    this.input.addEventListener("input", () => { this.tell(); moved(this.value); });
    this.tell();
  }
  get value() { return Number(this.input.value); }
  set value(v) { this.input.value = v; this.tell(); }
  tell() { this.told.textContent = this.form(this.value); }
  range(low, high) { [this.input.min, this.input.max] = [low, high]; }
  shown(yes) { this.box.hidden = !yes; }
}

// A menu of [value, text] or, in groups, {group: [[value, text], ...]}.
class Menu {
  constructor(parent, name, moved) {
    this.box = make("label", {className: "menu"}, parent);
    make("span", {textContent: name}, this.box);
    this.input = make("select", {}, this.box);
    this.input.setAttribute("aria-label", name);
    this.input.addEventListener("change", () => moved(this.value));
  }
  fill(options) {
    const add = (list, parent) => list.forEach(([value, text]) => make("option", {value, textContent: text}, parent));
    this.input.replaceChildren();
    if (Array.isArray(options)) return add(options, this.input);
    for (const [label, list] of Object.entries(options)) if (list.length) add(list, make("optgroup", {label}, this.input));
  }
  get value() { return this.input.value; }
  set value(v) { this.input.value = v; }
  shown(yes) { this.box.hidden = !yes; }
}

// Buttons of which one is pressed.
class Choices {
  constructor(parent, name, options, moved) {
    this.box = make("div", {className: "choices"}, parent);
    this.box.setAttribute("role", "group");
    this.box.setAttribute("aria-label", name);
    this.buttons = options.map(([value, text, title]) => [value, button(this.box, text, () => { this.value = value; moved(value); }, title)]);
  }
  get value() { return this.chosen; }
  set value(v) { this.chosen = v; this.buttons.forEach(([value, b]) => b.setAttribute("aria-pressed", String(value === v))); }
}

function fold(parent, title, opened = () => {}) {
  const made = make("details", {}, parent);
  make("summary", {textContent: title}, made);
  made.addEventListener("toggle", () => made.open && opened());
  return make("div", {className: "folded"}, made);
}

async function copyText(text, root) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {  // not allowed here: by way of a selection
    const area = make("textarea", {value: text}, root);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

function saveBlob(blob, name) {
  const link = make("a", {href: URL.createObjectURL(blob), download: name}, document.body);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

// Threshold sliders run in ratios: 100 steps are a factor of ten.
const ratio = {up: v => Math.round(100 * Math.log10(Math.max(v, 1e-4))), down: k => Number((10 ** (k / 100)).toPrecision(3))};
