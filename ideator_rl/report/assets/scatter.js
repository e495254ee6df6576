// All experiments that the filter leaves, as dots: by their order and metric, or on the map of ideas.  A dot leads to its
// experiment and shows all ideas that it came from.
const PLOT_HEIGHT = 320, PLOT_LEFT = 62, PLOT_BOTTOM = 34, PLOT_TOP = 12, NEAR = 26;
const plot = {mode: "course", points: [], at: -1};

function element(id) { return document.getElementById(id); }

// The run whose ideas a map shows: each run has a map of its own.
function mapRun() { return field("f-run") === "" ? 0 : Number(field("f-run")); }

// The low and the high end of the metric: the middle nine tenths, and whatever must be seen.
function metricRange(rows, marks) {
  const values = rows.map(shownMetric).filter((value) => value !== null && isFinite(value)).sort((a, b) => a - b);
  if (!values.length && !marks.length) return null;
  const edge = Math.floor(values.length / 20), best = values.length ? [values[0], values[values.length - 1]] : [];
  const better = DATA.runs[0].better === "min" ? best.slice(0, 1) : best.slice(1);
  const inside = [...values.slice(edge, values.length - edge), ...better, ...marks];
  const low = Math.min(...inside), high = Math.max(...inside), margin = 0.06 * (high - low) || 0.05 * Math.abs(high) || 1;
  return [low - margin, high + margin];
}

// Horizontal lines of the baselines and of published results, as [label, value, colour].
function levels() {
  const runs = field("f-run") === "" ? DATA.runs : [DATA.runs[Number(field("f-run"))]], lines = new Map();
  for (const run of runs) {
    if (run.baseline.length) lines.set("baseline" + (runs.length > 1 ? " of " + run.name : ""), [mean(run.baseline), "var(--baseline)"]);
    run.references.forEach(([name, value], k) => lines.set(name, [value, "var(--series-" + (k + 2) % 8 + ")"]));
  }
  return [...lines].map(([name, [value, colour]]) => [name, value, colour]);
}

// Dots of all rows that have a place, with the axes that belong to them.
function coursePoints(width, axes) {
  const lines = levels(), range = metricRange(view.order, lines.map(([, value]) => value));
  const most = Math.max(1, ...R.n), bottom = PLOT_HEIGHT - PLOT_BOTTOM, failed = bottom - 9;
  const floor = bottom - 22;  // below it are experiments without a metric
  const toX = (n) => PLOT_LEFT + (width - PLOT_LEFT - 12) * (n - 0.5) / most;
  const toY = (value) => floor - (floor - PLOT_TOP) * Math.min(1, Math.max(0, (value - range[0]) / (range[1] - range[0])));
  if (range) {
    for (let k = 0; k <= 3; k++) {
      const value = range[0] + (range[1] - range[0]) * k / 3, y = toY(value);
      axes.append(svg("line", {x1: PLOT_LEFT, x2: width - 8, y1: y, y2: y, stroke: "var(--grid)"}),
        svg("text", {x: PLOT_LEFT - 6, y: y + 4, "text-anchor": "end", "font-size": 12, text: String(Number(value.toPrecision(4)))}));
    }
    for (const [name, value, colour] of lines) {
      axes.append(svg("line", {x1: PLOT_LEFT, x2: width - 8, y1: toY(value), y2: toY(value), stroke: colour, "stroke-width": 1.4, "stroke-dasharray": "5 3"}),
        svg("text", {x: width - 10, y: toY(value) - 4, "text-anchor": "end", "font-size": 12, style: "fill:" + colour, text: name + " " + number(value)}));
    }
  }
  const without = view.order.some((i) => shownMetric(i) === null);
  axes.append(svg("text", {x: PLOT_LEFT - 6, y: failed + 4, "text-anchor": "end", "font-size": 12, text: without ? "none" : ""}),
    svg("text", {x: (PLOT_LEFT + width) / 2, y: PLOT_HEIGHT - 8, "text-anchor": "middle", "font-size": 12, text: "experiment, in the order of proposal"}));
  return view.order.map((i) => {
    const value = shownMetric(i);
    return {i, x: toX(R.n[i]), y: value === null || !range ? failed : toY(value)};
  });
}

function mapPoints(width) {
  const side = Math.min(width - 24, PLOT_HEIGHT - 24), left = (width - side) / 2, run = mapRun();
  return view.order.filter((i) => R.run[i] === run && R.place[i]).map((i) => {
    const [x, y] = R.place[i];
    return {i, x: left + side * x / 999, y: 12 + side * (1 - y / 999)};
  });
}

// Thousands of elements would make a page slow: the dots of a status are one path of lines without a length.
function dotPaths(points) {
  const parts = new Map();
  for (const {i, x, y} of points) {
    if (!parts.has(R.status[i])) parts.set(R.status[i], []);
    parts.get(R.status[i]).push("M" + x.toFixed(1) + " " + y.toFixed(1) + "h0");
  }
  return [...parts].map(([status, path]) => svg("path", {d: path.join(""), stroke: "var(--status-" + status + ")", "stroke-width": points.length > 600 ? 4.5 : 7, "stroke-linecap": "round", opacity: 0.8, fill: "none"}));
}

function drawPlot() {
  element("plot").hidden = COUNT === 0;
  const area = element("plot-area"), width = area.clientWidth;
  if (!width) return;  // nothing to draw, or the page of an experiment is shown
  const axes = svg("g", {fill: "var(--ink-soft)"}), mark = svg("g", {id: "plot-mark"});
  plot.points = plot.mode === "map" ? mapPoints(width) : coursePoints(width, axes);
  const drawing = svg("svg", {width, height: PLOT_HEIGHT, viewBox: "0 0 " + width + " " + PLOT_HEIGHT, "aria-hidden": "true"}, axes, ...dotPaths(plot.points), mark);
  area.replaceChildren(drawing);
  const run = DATA.runs[mapRun()];
  element("plot-title").textContent = plot.mode === "map" ? "Map of the ideas" + (MANY ? ", " + run.name : "") : "Every experiment: " + metricName();
  element("plot-remark").textContent = plot.mode === "map"
    ? "Each dot is an idea. The descriptions of near ones are alike, by " + run.map.embedder + ", on the first two principal components, which hold " + Math.round(100 * run.map.share) + " % of the variance: what lies together here may differ in the rest. Directions mean nothing."
    : "The colour is the status. Dashed: the baseline, and published results. Below: no metric. Outliers are at the edge. The filter below holds here too.";
  const used = [...new Set(plot.points.map(({i}) => R.status[i]))].sort();
  element("plot-legend").replaceChildren(...used.map((status) => html("li", {}, badge(status))));
  for (const mode of ["course", "map"]) element("plot-" + mode).setAttribute("aria-pressed", String(plot.mode === mode));
  showDot(-1);
}

// All ideas that an idea came from, over any number of generations, as [parent, child].
function ancestry(row) {
  const edges = [], visited = new Set([row]), pending = [row];
  while (pending.length) {
    const child = pending.pop();
    for (const parent of R.parents[child]) {
      edges.push([parent, child]);
      if (!visited.has(parent)) { visited.add(parent); pending.push(parent); }
    }
  }
  return edges;
}

// Mark a dot (its place in `plot.points`, -1 for none), its ancestors, and say what it is.
function showDot(index) {
  const mark = element("plot-mark"), line = element("plot-at");
  plot.at = index;
  if (index < 0) {
    mark.replaceChildren();
    line.textContent = "Point at a dot, or use the arrow keys; press it, or Enter, for its experiment.";
    return;
  }
  const {i, x, y} = plot.points[index], places = new Map(plot.points.map((point) => [point.i, point])), edges = ancestry(i);
  const lines = edges.filter((edge) => edge.every((row) => places.has(row))).map(([parent, child]) => {
    const from = places.get(parent), to = places.get(child);
    return svg("line", {x1: from.x, y1: from.y, x2: to.x, y2: to.y, stroke: "var(--series-1)", "stroke-width": 1.6});
  });
  mark.replaceChildren(...lines, svg("circle", {cx: x, cy: y, r: 7, fill: "none", stroke: "var(--ink)", "stroke-width": 2}));
  const ancestors = new Set(edges.map(([parent]) => parent)).size;
  const metric = shownMetric(i) === null ? "" : ", " + metricName() + " " + number(shownMetric(i));
  line.replaceChildren(html("a", {href: address(i), text: "Experiment " + R.n[i]}), ", " + DATA.statuses[R.status[i]] + metric
    + (ancestors ? ", ideas that it came from: " + ancestors : "") + ": " + R.title[i]);
}

function nearestDot(event) {
  const box = element("plot-area").getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
  let best = -1, least = NEAR ** 2;
  plot.points.forEach((point, index) => {
    const distance = (point.x - x) ** 2 + (point.y - y) ** 2;
    if (distance < least) { least = distance; best = index; }
  });
  return best;
}

function openDot() { if (plot.at >= 0) location.hash = address(plot.points[plot.at].i); }

function startPlot() {
  const area = element("plot-area");
  area.addEventListener("pointermove", (event) => {
    const index = nearestDot(event);
    if (index >= 0 && index !== plot.at) showDot(index);
  });
  area.addEventListener("click", (event) => { const index = nearestDot(event); if (index >= 0) { showDot(index); openDot(); } });
  area.addEventListener("keydown", (event) => {
    const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
    if (event.key === "Enter") openDot();
    if (!step || !plot.points.length) return;
    event.preventDefault();
    showDot((plot.at + step + plot.points.length) % plot.points.length);
  });
  for (const mode of ["course", "map"]) {
    element("plot-" + mode).addEventListener("click", () => { plot.mode = mode; drawPlot(); });
  }
  let timer = 0;
  addEventListener("resize", () => { clearTimeout(timer); timer = setTimeout(drawPlot, 150); });
}
