// The table of all experiments: sorted by its column heads, filtered by the form, one page at a time.
const PAGE = 50;
const MANY = DATA.runs.length > 1;
const COLUMNS = [
  ...(MANY ? [{name: "run", key: (i) => DATA.runs[R.run[i]].name, alignLeft: true, wideOnly: true}] : []),
  {name: "#", key: (i) => R.n[i], wideOnly: true},
  {name: "status", key: (i) => R.status[i], alignLeft: true},
  {name: metricName(), key: shownMetric, metric: true},
  {name: "step", key: (i) => R.steps[i].length ? R.steps[i][0] : null, wideOnly: true},
  {name: "idea", key: (i) => R.title[i].toLowerCase(), alignLeft: true},
  {name: "kind of change", key: (i) => R.cell[i] || null, alignLeft: true, wideOnly: true},
  {name: "seconds", key: (i) => busy(i), wideOnly: true},
];
const view = {order: [], column: -1, descending: false, page: 0, filterRun: 0};

function metricName() {
  const names = new Set(DATA.runs.map((run) => run.metric));
  return names.size === 1 ? [...names][0] : "metric";
}

// The mean over an idea's runs: the table shows it, sorts and filters by it.
function shownMetric(i) { return R.values[i].length ? mean(R.values[i]) : R.metric[i]; }

function busy(i) {
  const seconds = R.seconds[i];
  return "run" in seconds || "score" in seconds ? (seconds.run || 0) + (seconds.score || 0) + (seconds.confirm || 0) : null;
}

function columnHeads() {
  const row = document.querySelector("#rows thead tr");
  COLUMNS.forEach((column, index) => {
    const button = html("button", {type: "button", text: column.name});
    button.addEventListener("click", () => sortBy(index));
    const head = html("th", {scope: "col", "aria-sort": "none", class: (column.alignLeft ? "l " : "") + (column.wideOnly ? "wide-only" : "")}, button);
    row.append(head);
  });
}

// The first press sorts in ascending order, or a metric best first; the next reverses the order.
function sortBy(index) {
  const bestIsHigh = COLUMNS[index].metric && DATA.runs.length && DATA.runs[0].better === "max";
  view.descending = view.column === index ? !view.descending : Boolean(bestIsHigh);
  view.column = index;
  markHeads();
  arrange();
}

function markHeads() {
  document.querySelectorAll("#rows th").forEach((head, i) => {
    head.setAttribute("aria-sort", i !== view.column ? "none" : view.descending ? "descending" : "ascending");
  });
}

function compare(a, b) {
  if (a === null || b === null) return (a === null) - (b === null);
  const order = typeof a === "string" ? a.localeCompare(b) : a - b;
  return view.descending ? -order : order;
}

function field(id) {
  const input = document.getElementById(id);
  return input ? input.value.trim() : "";
}

function within(value, low, high) {
  if (low === "" && high === "") return true;
  const toNumber = (text) => Number(text.replace(",", "."));  // some keyboards have a comma for decimals
  return value !== null && (low === "" || value >= toNumber(low)) && (high === "" || value <= toNumber(high));
}

// Whether a row passes the filter; `texts` are the texts of all rows, null where no words are searched.
function passes(i, filter, texts) {
  const steps = R.steps[i].length ? R.steps[i] : [null];
  return (filter.run === "" || R.run[i] === Number(filter.run))
    && (filter.status === "" || (filter.status === "failures" ? isFailure(R.status[i]) : R.status[i] === Number(filter.status)))
    && (filter.cell === "" || R.cell[i].toLowerCase().includes(filter.cell))
    && within(shownMetric(i), filter.metric[0], filter.metric[1])
    && steps.some((step) => within(step, filter.step[0], filter.step[1]))
    && (texts === null || filter.words.every((word) => texts[i].includes(word) || R.key[i].startsWith(word)));
}

function isFailure(status) { return status > 0 && !["lost", "running"].includes(DATA.statuses[status]); }

// Filter, sort, show.  A later filter replaces one whose texts are still being unpacked.
async function arrange() {
  const filterRun = ++view.filterRun;
  const filter = {
    run: field("f-run"), status: field("f-status"), cell: field("f-cell").toLowerCase(),
    step: [field("f-step0"), field("f-step1")], metric: [field("f-metric0"), field("f-metric1")],
    words: field("f-text").toLowerCase().split(/\s+/).filter(Boolean),
  };
  if (filter.words.length) document.getElementById("count").textContent = "Looking through all texts …";
  const texts = filter.words.length ? await searchTexts() : null;
  if (filterRun !== view.filterRun) return;
  view.order = [];
  for (let i = 0; i < COUNT; i++) if (passes(i, filter, texts)) view.order.push(i);
  if (view.column >= 0) {
    const key = COLUMNS[view.column].key, keys = new Map(view.order.map((i) => [i, key(i)]));
    view.order.sort((a, b) => compare(keys.get(a), keys.get(b)) || a - b);
  }
  view.page = 0;
  showPage();
  drawPlot();
}

function showPage() {
  const pages = Math.max(1, Math.ceil(view.order.length / PAGE));
  const rows = view.order.slice(view.page * PAGE, (view.page + 1) * PAGE);
  document.querySelector("#rows tbody").replaceChildren(...rows.map(tableRow));
  document.getElementById("count").textContent = COUNT === 0 ? "None yet."
    : view.order.length === COUNT ? COUNT + " experiments." : view.order.length + " of " + COUNT + " experiments.";
  document.getElementById("page").textContent = "Page " + (view.page + 1) + " of " + pages;
  document.getElementById("previous").disabled = view.page === 0;
  document.getElementById("next").disabled = view.page >= pages - 1;
  document.getElementById("pager").hidden = pages === 1;
}

function tableRow(i) {
  const row = html("tr", {"data-row": i});
  if (MANY) row.append(html("td", {class: "l wide-only", text: DATA.runs[R.run[i]].name}));
  row.append(
    html("td", {class: "wide-only", text: R.n[i]}),
    html("td", {class: "l"}, badge(R.status[i])),
    html("td", {text: number(shownMetric(i))}),
    html("td", {class: "wide-only", text: R.steps[i].length ? R.steps[i].join(", ") : "–"}),
    html("td", {class: "w"}, html("a", {href: address(i), text: R.title[i]})),
    html("td", {class: "c wide-only", text: R.cell[i].replaceAll(",", ", ") || "–"}),
    html("td", {class: "wide-only", text: busy(i) === null ? "–" : busy(i).toFixed(1)}),
  );
  return row;
}

function filterOptions() {
  const counts = new Map(), cells = new Map();
  for (let i = 0; i < COUNT; i++) {
    counts.set(R.status[i], (counts.get(R.status[i]) || 0) + 1);
    if (R.cell[i]) cells.set(R.cell[i], (cells.get(R.cell[i]) || 0) + 1);
  }
  const status = document.getElementById("f-status");
  const failures = [...counts].reduce((sum, [code, count]) => sum + (isFailure(code) ? count : 0), 0);
  if (failures) status.append(html("option", {value: "failures", text: "all failures (" + failures + ")"}));
  for (const [code, count] of [...counts].sort((a, b) => a[0] - b[0])) {
    status.append(html("option", {value: code, text: DATA.statuses[code] + " (" + count + ")"}));
  }
  const run = document.getElementById("f-run");
  if (run) DATA.runs.forEach(({name}, index) => run.append(html("option", {value: index, text: name})));
  const common = [...cells].sort((a, b) => b[1] - a[1]).slice(0, 100);
  document.getElementById("cells").append(...common.map(([cell]) => html("option", {value: cell})));
}

function turnPage(by) {
  view.page += by;
  showPage();
  document.getElementById("rows").scrollIntoView();
}

function startTable() {
  startPlot();
  columnHeads();
  filterOptions();
  const form = document.getElementById("filter");
  let timer = 0;  // typing filters once, when it pauses
  form.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(arrange, 150);
  });
  form.addEventListener("reset", () => setTimeout(arrange));
  form.addEventListener("submit", (event) => { event.preventDefault(); arrange(); });
  document.getElementById("previous").addEventListener("click", () => turnPage(-1));
  document.getElementById("next").addEventListener("click", () => turnPage(1));
  form.hidden = document.getElementById("rows").hidden = false;
  arrange();
}
