// The page of `dapt report`: tables that sort and filter, tabs, colors of classes, the gallery.

function makeSortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  heads.forEach((head, column) => head.addEventListener("click", () => {
    const value = (row) => {
      const cell = row.cells[column];
      return cell.dataset.value === undefined ? null : Number(cell.dataset.value);
    };
    const numeric = [...body.rows].some((row) => value(row) !== null);
    const up = head.getAttribute("aria-sort") === (numeric ? "descending" : "none");
    heads.forEach((each) => each.setAttribute("aria-sort", "none"));
    const descending = numeric ? !up : head.dataset.last === "ascending";
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    head.dataset.last = descending ? "descending" : "ascending";
    const compare = numeric
      ? (a, b) => (value(a) ?? -Infinity) - (value(b) ?? -Infinity)
      : (a, b) => a.cells[column].textContent.localeCompare(b.cells[column].textContent, "en", { numeric: true });
    const rows = [...body.rows].sort((a, b) => (descending ? -compare(a, b) : compare(a, b)));
    body.append(...rows);
  }));
  if (body.rows.length > 6) addFilter(table, body);
}

function addFilter(table, body) {
  const input = el("input", { type: "search", placeholder: "Filter rows", "aria-label": "Filter rows" });
  input.addEventListener("input", () => {
    const wanted = input.value.toLowerCase();
    for (const row of body.rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
  });
  table.parentElement.before(el("div", { className: "filter" }, input));
}

function makeTabs(tabs) {
  const panels = [...tabs.children];
  const buttons = panels.map((panel) => el("button", { onclick: () => show(panel) }, panel.dataset.tab));
  const show = (chosen) => panels.forEach((panel, i) => {
    panel.classList.toggle("off", panel !== chosen);
    buttons[i].setAttribute("aria-pressed", panel === chosen);
  });
  tabs.prepend(el("div", { className: "choice", role: "group", "aria-label": "Method" }, buttons));
  show(panels[0]);
}

const page = readPage();
document.querySelectorAll("table.sortable").forEach(makeSortable);
document.querySelectorAll(".tabs").forEach(makeTabs);
for (const mark of document.querySelectorAll("[data-class]")) {
  const color = page.classColors[Number(mark.dataset.class)];
  if (mark.tagName === "I") mark.style.background = color;
  else mark.style.stroke = color;
}
document.getElementById("theme").addEventListener("click", switchTheme);
const place = document.getElementById("cards");
if (place) new Gallery(place, page);
document.documentElement.dataset.ready = "yes";
