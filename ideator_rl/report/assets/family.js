// The lineage of an idea as a drawing: one line of nodes for each generation, the oldest on top.
const MAX_GENERATIONS = 60, NODE_WIDTH = 104, LINE_HEIGHT = 74;

// Rows by generation, beginning with the parents (or children) of a row.
function generations(row, relatives) {
  const visited = new Set([row]), lines = [];
  let line = [row];
  while (lines.length < MAX_GENERATIONS) {
    const next = [];
    for (const i of line) for (const j of relatives(i)) if (!visited.has(j)) { visited.add(j); next.push(j); }
    if (!next.length) break;
    lines.push(next);
    line = next;
  }
  return lines;
}

// Of a wide generation the best are drawn, and the number of those left out.
function fitToWidth(generation, maxNodes) {
  if (generation.length <= maxNodes) return {rows: generation, hidden: 0};
  const cost = (i) => R.metric[i] === null || R.status[i] !== 0 ? Infinity
    : DATA.runs[R.run[i]].better === "min" ? R.metric[i] : -R.metric[i];
  const rows = [...generation].sort((a, b) => cost(a) - cost(b)).slice(0, maxNodes - 1);
  return {rows, hidden: generation.length - rows.length};
}

function family(row, width) {
  const above = generations(row, (i) => R.parents[i]).reverse();
  const below = generations(row, (i) => children.get(i) || []);
  if (!above.length && !below.length) return null;
  const maxNodes = Math.max(2, Math.floor(width / NODE_WIDTH));
  const lines = [...above, [row], ...below].map((generation) => fitToWidth(generation, maxNodes));
  const height = lines.length * LINE_HEIGHT;
  const drawing = svg("svg", {width, height, viewBox: "0 0 " + width + " " + height, role: "group", "aria-label": "Lineage"});
  const edges = svg("g", {fill: "none", stroke: "var(--ink-soft)", "stroke-width": 1, opacity: 0.55});
  const nodes = svg("g", {}), positions = new Map();
  lines.forEach((line, level) => {
    const count = line.rows.length + (line.hidden ? 1 : 0), y = level * LINE_HEIGHT + 22;
    line.rows.forEach((i, column) => {
      const x = width * (column + 0.5) / count;
      positions.set(i, [x, y]);
      nodes.append(node(i, x, y, i === row));
    });
    if (line.hidden) nodes.append(svg("text", {x: width * (count - 0.5) / count, y: y + 4, "text-anchor": "middle", "font-size": 12, fill: "var(--ink-soft)", text: "and " + line.hidden + " more"}));
  });
  for (const [i, [x, y]] of positions) {
    for (const parent of R.parents[i]) {
      if (!positions.has(parent)) continue;
      const [px, py] = positions.get(parent);
      if (py < y) edges.append(svg("path", {d: "M" + px + " " + (py + 32) + "C" + px + " " + (y - 16) + " " + x + " " + (py + 46) + " " + x + " " + (y - 9)}));
    }
  }
  drawing.append(edges, nodes);
  return drawing;
}

// An idea as a dot with its number and metric; a link, unless it is the idea of this page.
function node(i, x, y, own) {
  const name = "#" + R.n[i] + (R.metric[i] === null ? "" : " · " + number(R.metric[i]));
  const description = name + ", " + DATA.statuses[R.status[i]];
  const dot = svg("circle", {cx: x, cy: y, r: own ? 9 : 6.5, fill: "var(--status-" + R.status[i] + ")", stroke: own ? "var(--ink)" : "none", "stroke-width": 2});
  const caption = svg("text", {x, y: y + 20, "text-anchor": "middle", "font-size": 12, "font-weight": own ? 700 : 400, text: name});
  if (own) { caption.setAttribute("fill", "var(--ink)"); return svg("g", {}, dot, caption); }
  return svg("a", {href: address(i), "aria-label": description}, svg("title", {text: description + ": " + R.title[i]}), dot, caption);
}

// The runs of an idea and those of the baseline on one scale.
function strip(i, maxWidth) {
  const width = Math.min(600, maxWidth);
  const run = DATA.runs[R.run[i]], values = R.values[i].length ? R.values[i] : [R.metric[i]];
  const all = [...values, ...run.baseline, ...run.best];
  const low = Math.min(...all), high = Math.max(...all), margin = (high - low) * 0.08 || Math.abs(high) * 0.05 || 1;
  const toX = (value) => 12 + (width - 24) * (value - low + margin) / (high - low + 2 * margin);
  const baseline = run.baseline.length ? "; the baseline " + withError(run.baseline) : "";
  const description = run.metric + " " + withError(values) + baseline + ".";
  const drawing = svg("svg", {viewBox: "0 0 " + width + " 64", width, role: "img", "aria-label": description});
  drawing.append(svg("line", {x1: 0, x2: width, y1: 34, y2: 34, stroke: "var(--grid)", "stroke-width": 1}));
  if (run.baseline.length) {
    const [from, to] = [toX(Math.min(...run.baseline)), toX(Math.max(...run.baseline))];
    drawing.append(svg("rect", {x: from - 1, width: Math.max(2, to - from + 2), y: 20, height: 28, fill: "var(--baseline)", opacity: 0.3}));
    drawing.append(label(toX(mean(run.baseline)), 60, "baseline " + number(mean(run.baseline)), "var(--baseline)", width));
  }
  if (values.length > 1) {
    const center = mean(values), spread = deviation(values);
    drawing.append(svg("line", {x1: toX(center - spread), x2: toX(center + spread), y1: 34, y2: 34, stroke: "var(--series-1)", "stroke-width": 3}));
    drawing.append(svg("line", {x1: toX(center), x2: toX(center), y1: 25, y2: 43, stroke: "var(--series-1)", "stroke-width": 3}));
  }
  for (const value of values) drawing.append(svg("circle", {cx: toX(value), cy: 34, r: 5, fill: "var(--series-0)"}));
  drawing.append(label(toX(mean(values)), 14, withError(values), "var(--ink)", width));
  return drawing;
}

function label(x, y, text, fill, width) {
  const anchor = x < 90 ? "start" : x > width - 90 ? "end" : "middle";
  return svg("text", {x, y, "text-anchor": anchor, "font-size": 13, fill, text});
}
