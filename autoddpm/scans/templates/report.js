"use strict";
document.documentElement.classList.add("live");

// One picture large, on all of the window; Escape or another click puts it back.
function enlarge(figure, large) {
  for (const other of document.querySelectorAll(".large")) setLarge(other, false);
  setLarge(figure, large);
}

function setLarge(figure, large) {
  figure.classList.toggle("large", large);
  const button = figure.querySelector(".enlarge");
  if (button) button.setAttribute("aria-pressed", String(large));
}

document.addEventListener("keydown", event => {
  if (event.key === "Escape") for (const figure of document.querySelectorAll(".large")) setLarge(figure, false);
});

for (const stack of document.querySelectorAll(".stack")) {
  const figure = stack.closest("figure");
  const toggle = () => enlarge(figure, !figure.classList.contains("large"));
  stack.tabIndex = 0;
  stack.setAttribute("role", "button");
  stack.addEventListener("click", toggle);
  stack.addEventListener("keydown", event => {
    if (event.key === "Enter") toggle();
  });
}

// The map and the pseudo-healthy image lie over the scan, each as opaque as its slider says.
for (const viewer of document.querySelectorAll(".viewer")) {
  const part = name => viewer.querySelector(name);
  const blink = part(".blink");
  let timer = 0, on = false;

  function show() {
    part(".pseudo").style.opacity = timer ? Number(on) : part(".pseudo-opacity").value / 100;
    part(".map").style.opacity = timer ? 0 : part(".map-opacity").value / 100;
  }

  blink.addEventListener("click", () => {
    if (timer) clearInterval(timer);
    timer = timer ? 0 : setInterval(() => { on = !on; show(); }, 700);
    on = Boolean(timer);
    blink.setAttribute("aria-pressed", String(on));
    show();
  });
  part(".enlarge").addEventListener("click", () => enlarge(viewer, !viewer.classList.contains("large")));
  for (const slider of viewer.querySelectorAll("input")) slider.addEventListener("input", show);
  window.addEventListener("beforeprint", () => { if (timer) blink.click(); });
  show();
}

// The table of scans: sorted by a click on a heading, filtered by words and by doubt.
for (const table of document.querySelectorAll("table.scans")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const words = document.querySelector(".words"), doubtful = document.querySelector(".doubtful");
  const rows = [...body.rows].map(row => ({
    row, name: row.cells[0].textContent.toLowerCase(), card: document.getElementById(row.dataset.card || ""),
  }));

  function filter() {
    const wanted = words.value.toLowerCase().split(/\s+/);
    let count = 0;
    for (const { row, name, card } of rows) {
      const hidden = !wanted.every(word => name.includes(word)) || doubtful.checked && !row.classList.contains("doubt");
      row.hidden = hidden;
      if (card) card.hidden = hidden;
      count += !hidden;
    }
    document.querySelector(".shown").textContent = `${count} of ${rows.length} shown`;
  }

  function value({ row, name }, column) {
    const text = row.cells[column].dataset.value;
    return text === undefined ? name : text === "" ? null : Number(text);
  }

  const byName = new Intl.Collator("en", { numeric: true }).compare;

  function sort(column) {
    const before = heads[column].getAttribute("aria-sort");
    const rising = before === "descending" || before === "none" && column === 0;  // names from A, numbers from the top
    for (const head of heads) head.setAttribute("aria-sort", "none");
    heads[column].setAttribute("aria-sort", rising ? "ascending" : "descending");
    const order = (a, b) => {
      const [x, y] = [value(a, column), value(b, column)];
      if (x === null || y === null) return (x === null) - (y === null);  // what is not known stands last
      const turn = typeof x === "string" ? byName(x, y) : x - y;
      return rising ? turn : -turn;
    };
    const sorted = document.createDocumentFragment();
    for (const { row } of [...rows].sort(order)) sorted.append(row);
    body.append(sorted);
  }

  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    head.setAttribute("aria-sort", column === 1 ? "descending" : "none");
    if (button) button.addEventListener("click", () => sort(column));
  });
  words.addEventListener("input", filter);
  doubtful.addEventListener("change", filter);
  filter();
}
