// Who an idea came from and what came of it, drawn: one line of nodes a generation, oldest on top.
const GENERATIONS = 4, WIDE = 104, HIGH = 74;

function generations(start, next) {
  const seen = new Set([start]), found = [];
  let now = [start];
  while (found.length < GENERATIONS) {
    const then = [];
    for (const i of now) for (const j of next(i)) if (!seen.has(j)) { seen.add(j); then.push(j); }
    if (!then.length) break;
    found.push(then);
    now = then;
  }
  return found;
}

// Of a wide generation the best are drawn, and how many were left out is said.
function fits(generation, most) {
  const better = (i) => R.metric[i] === null || R.status[i] !== 0 ? Infinity
    : DATA.runs[R.run[i]].better === "min" ? R.metric[i] : -R.metric[i];
  if (generation.length <= most) return {kept: generation, left: 0};
  const kept = [...generation].sort((a, b) => better(a) - better(b)).slice(0, most - 1);
  return {kept, left: generation.length - kept.length};
}

function family(i, width) {
  const above = generations(i, (j) => R.parents[j]).reverse();
  const below = generations(i, (j) => children.get(j) || []);
  if (!above.length && !below.length) return null;
  const most = Math.max(2, Math.floor(width / WIDE));
  const lines = [...above, [i], ...below].map((one) => fits(one, most));
  const places = new Map(), box = draw("svg", {width, height: lines.length * HIGH, viewBox: "0 0 " + width + " " + lines.length * HIGH, role: "group", "aria-label": "Lineage"});
  const edges = draw("g", {fill: "none", stroke: "var(--ink-soft)", "stroke-width": 1, opacity: 0.55});
  const nodes = draw("g", {});
  lines.forEach((line, level) => {
    const count = line.kept.length + (line.left ? 1 : 0), y = level * HIGH + 22;
    line.kept.forEach((j, at) => {
      const x = width * (at + 0.5) / count;
      places.set(j, [x, y]);
      nodes.append(node(j, x, y, j === i));
    });
    if (line.left) nodes.append(draw("text", {x: width * (count - 0.5) / count, y: y + 4, "text-anchor": "middle", "font-size": 12, fill: "var(--ink-soft)", text: "and " + line.left + " more"}));
  });
  for (const [j, [x, y]] of places) {
    for (const parent of R.parents[j]) {
      if (!places.has(parent)) continue;
      const [px, py] = places.get(parent);
      if (py < y) edges.append(draw("path", {d: "M" + px + " " + (py + 32) + "C" + px + " " + (y - 16) + " " + x + " " + (py + 46) + " " + x + " " + (y - 9)}));
    }
  }
  box.append(edges, nodes);
  return box;
}

function node(i, x, y, own) {
  const shown = "#" + R.n[i] + (R.metric[i] === null ? "" : " · " + number(R.metric[i]));
  const words = shown + ", " + DATA.statuses[R.status[i]];
  const dot = draw("circle", {cx: x, cy: y, r: own ? 9 : 6.5, fill: "var(--status-" + R.status[i] + ")", stroke: own ? "var(--ink)" : "none", "stroke-width": 2});
  const name = draw("text", {x, y: y + 20, "text-anchor": "middle", "font-size": 12, "font-weight": own ? 700 : 400, text: shown});
  if (own) { name.setAttribute("fill", "var(--ink)"); return draw("g", {}, dot, name); }
  return draw("a", {href: address(i), "aria-label": words}, draw("title", {text: words + ": " + R.title[i]}), dot, name);
}

// The runs of an idea beside those of the baseline, on one scale.
function strip(i, room) {
  const wide = Math.min(600, room);
  const run = DATA.runs[R.run[i]], values = R.values[i].length ? R.values[i] : [R.metric[i]];
  const all = [...values, ...run.baseline, ...run.best];
  const low = Math.min(...all), high = Math.max(...all), rim = (high - low) * 0.08 || Math.abs(high) * 0.05 || 1;
  const at = (value) => 12 + (wide - 24) * (value - low + rim) / (high - low + 2 * rim);
  const box = draw("svg", {viewBox: "0 0 " + wide + " 64", width: wide, role: "img", "aria-label": stripWords(run, values)});
  box.append(draw("line", {x1: 0, x2: wide, y1: 34, y2: 34, stroke: "var(--grid)", "stroke-width": 1}));
  if (run.baseline.length) {
    const [from, to] = [at(Math.min(...run.baseline)), at(Math.max(...run.baseline))];
    box.append(draw("rect", {x: from - 1, width: Math.max(2, to - from + 2), y: 20, height: 28, fill: "var(--baseline)", opacity: 0.3}));
    box.append(label(at(mean(run.baseline)), 60, "baseline " + number(mean(run.baseline)), "var(--baseline)", wide));
  }
  if (values.length > 1) {
    const middle = mean(values), spread = deviation(values);
    box.append(draw("line", {x1: at(middle - spread), x2: at(middle + spread), y1: 34, y2: 34, stroke: "var(--series-1)", "stroke-width": 3}));
    box.append(draw("line", {x1: at(middle), x2: at(middle), y1: 25, y2: 43, stroke: "var(--series-1)", "stroke-width": 3}));
  }
  for (const value of values) box.append(draw("circle", {cx: at(value), cy: 34, r: 5, fill: "var(--series-0)"}));
  box.append(label(at(mean(values)), 14, withError(values), "var(--ink)", wide));
  return box;
}

function label(x, y, text, fill, wide) {
  const anchor = x < 90 ? "start" : x > wide - 90 ? "end" : "middle";
  return draw("text", {x, y, "text-anchor": anchor, "font-size": 13, fill, text});
}

function stripWords(run, values) {
  const base = run.baseline.length ? "; the baseline " + withError(run.baseline) : "";
  return run.metric + " " + withError(values) + base + ".";
}
