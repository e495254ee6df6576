// The table of all experiments: sorted by its heads, filtered by the form, a page at a time.
const PAGE = 50;
const MANY = DATA.runs.length > 1;
const COLUMNS = [
  ...(MANY ? [{name: "run", of: (i) => DATA.runs[R.run[i]].name, left: true, far: true}] : []),
  {name: "#", of: (i) => R.n[i], far: true},
  {name: "status", of: (i) => R.status[i], left: true},
  {name: metricName(), of: shownMetric, metric: true},
  {name: "step", of: (i) => R.steps[i].length ? R.steps[i][0] : null, far: true},
  {name: "idea", of: (i) => R.title[i].toLowerCase(), left: true},
  {name: "kind of change", of: (i) => R.cell[i] || null, left: true, far: true},
  {name: "seconds", of: (i) => busy(i), far: true},
];
const view = {order: [], column: -1, down: false, page: 0, asked: 0};

function metricName() {
  const names = new Set(DATA.runs.map((run) => run.metric));
  return names.size === 1 ? [...names][0] : "metric";
}

// The mean over an idea's runs; what is shown is also what is sorted and filtered by.
function shownMetric(i) { return R.values[i].length ? mean(R.values[i]) : R.metric[i]; }

function busy(i) {
  const seconds = R.seconds[i];
  return "run" in seconds || "score" in seconds ? (seconds.run || 0) + (seconds.score || 0) + (seconds.confirm || 0) : null;
}

function heads() {
  const row = document.querySelector("#rows thead tr");
  COLUMNS.forEach((column, place) => {
    const button = make("button", {type: "button", text: column.name});
    button.addEventListener("click", () => sortBy(place));
    const head = make("th", {scope: "col", "aria-sort": "none", class: (column.left ? "l " : "") + (column.far ? "far" : "")}, button);
    row.append(head);
  });
}

// The first press sorts upwards, or a metric best first; the next turns it round.
function sortBy(place) {
  const best = COLUMNS[place].metric && DATA.runs.length && DATA.runs[0].better === "max";
  view.down = view.column === place ? !view.down : Boolean(best);
  view.column = place;
  document.querySelectorAll("#rows th").forEach((head, at) => {
    head.setAttribute("aria-sort", at !== place ? "none" : view.down ? "descending" : "ascending");
  });
  arrange();
}

function compare(a, b) {
  if (a === null || b === null) return (a === null) - (b === null);
  const order = typeof a === "string" ? a.localeCompare(b) : a - b;
  return view.down ? -order : order;
}

function field(id) {
  const found = document.getElementById(id);
  return found ? found.value.trim() : "";
}

function within(value, low, high) {
  if (low === "" && high === "") return true;
  const asked = (text) => Number(text.replace(",", "."));  // some keyboards have no other mark for decimals
  return value !== null && (low === "" || value >= asked(low)) && (high === "" || value <= asked(high));
}

function passes(i, asked, words) {
  const steps = R.steps[i].length ? R.steps[i] : [null];
  return (asked.run === "" || R.run[i] === Number(asked.run))
    && (asked.status === "" || (asked.status === "failures" ? isFailure(R.status[i]) : R.status[i] === Number(asked.status)))
    && (asked.cell === "" || R.cell[i].toLowerCase().includes(asked.cell))
    && within(shownMetric(i), asked.metric[0], asked.metric[1])
    && steps.some((step) => within(step, asked.step[0], asked.step[1]))
    && (words === null || asked.words.every((word) => words[i].includes(word) || R.key[i].startsWith(word)));
}

function isFailure(status) { return status > 0 && !["lost", "running"].includes(DATA.statuses[status]); }

// Filter, sort, show.  A later question overtakes one whose words are still being unpacked.
async function arrange() {
  const turn = ++view.asked;
  const asked = {
    run: field("f-run"), status: field("f-status"), cell: field("f-cell").toLowerCase(),
    step: [field("f-step0"), field("f-step1")], metric: [field("f-metric0"), field("f-metric1")],
    words: field("f-text").toLowerCase().split(/\s+/).filter(Boolean),
  };
  if (asked.words.length) document.getElementById("count").textContent = "Looking through all texts …";
  const words = asked.words.length ? await allWords() : null;
  if (turn !== view.asked) return;
  view.order = [];
  for (let i = 0; i < COUNT; i++) if (passes(i, asked, words)) view.order.push(i);
  if (view.column >= 0) {
    const of = COLUMNS[view.column].of, keys = new Map(view.order.map((i) => [i, of(i)]));
    view.order.sort((a, b) => compare(keys.get(a), keys.get(b)) || a - b);
  }
  view.page = 0;
  showPage();
}

function showPage() {
  const pages = Math.max(1, Math.ceil(view.order.length / PAGE));
  const shown = view.order.slice(view.page * PAGE, (view.page + 1) * PAGE);
  document.querySelector("#rows tbody").replaceChildren(...shown.map(tableRow));
  document.getElementById("count").textContent = COUNT === 0 ? "None yet."
    : view.order.length === COUNT ? COUNT + " experiments." : view.order.length + " of " + COUNT + " experiments.";
  document.getElementById("page").textContent = "Page " + (view.page + 1) + " of " + pages;
  document.getElementById("previous").disabled = view.page === 0;
  document.getElementById("next").disabled = view.page >= pages - 1;
  document.getElementById("pager").hidden = pages === 1;
}

function tableRow(i) {
  const row = make("tr", {"data-place": i});
  if (MANY) row.append(make("td", {class: "l far", text: DATA.runs[R.run[i]].name}));
  row.append(
    make("td", {class: "far", text: R.n[i]}),
    make("td", {class: "l"}, badge(R.status[i])),
    make("td", {text: number(shownMetric(i))}),
    make("td", {class: "far", text: R.steps[i].length ? R.steps[i].join(", ") : "–"}),
    make("td", {class: "w"}, make("a", {href: address(i), text: R.title[i]})),
    make("td", {class: "c far", text: R.cell[i].replaceAll(",", ", ") || "–"}),
    make("td", {class: "far", text: busy(i) === null ? "–" : busy(i).toFixed(1)}),
  );
  return row;
}

function options() {
  const counts = new Map(), cells = new Map();
  for (let i = 0; i < COUNT; i++) {
    counts.set(R.status[i], (counts.get(R.status[i]) || 0) + 1);
    if (R.cell[i]) cells.set(R.cell[i], (cells.get(R.cell[i]) || 0) + 1);
  }
  const status = document.getElementById("f-status");
  const failures = [...counts].reduce((sum, [one, count]) => sum + (isFailure(one) ? count : 0), 0);
  if (failures) status.append(make("option", {value: "failures", text: "all failures (" + failures + ")"}));
  for (const [one, count] of [...counts].sort((a, b) => a[0] - b[0])) {
    status.append(make("option", {value: one, text: DATA.statuses[one] + " (" + count + ")"}));
  }
  const run = document.getElementById("f-run");
  if (run) DATA.runs.forEach((one, place) => run.append(make("option", {value: place, text: one.name})));
  const common = [...cells].sort((a, b) => b[1] - a[1]).slice(0, 100);
  document.getElementById("cells").append(...common.map(([cell]) => make("option", {value: cell})));
}

function turnPage(by) {
  view.page += by;
  showPage();
  document.getElementById("rows").scrollIntoView();
}

function startTable() {
  heads();
  options();
  const form = document.getElementById("filter");
  let waiting = 0;
  form.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(arrange, 150);
  });
  form.addEventListener("reset", () => setTimeout(arrange));
  form.addEventListener("submit", (event) => { event.preventDefault(); arrange(); });
  document.getElementById("previous").addEventListener("click", () => turnPage(-1));
  document.getElementById("next").addEventListener("click", () => turnPage(1));
  form.hidden = document.getElementById("rows").hidden = false;
  arrange();
}
