// The page of one experiment, made when it is opened.
function paragraph(name, text) { return make("p", {class: name, text}); }

function codeBlock(name, label, text) {
  return make("pre", {class: name, tabindex: "0", role: "group", "aria-label": label, text});
}

function cutNote(cut, where) {
  return cut ? [paragraph("note", cut + " more characters" + where + " are in the records.")] : [];
}

// A unified diff by the counts of its hunks, since a line that was taken away may look like a head.
function colouredPatch(text) {
  const block = codeBlock("patch", "Patch", "");
  let inside = false, kind = null, lines = [];
  const put = () => { if (lines.length) block.append(make("span", {class: kind, text: lines.join("\n") + "\n"})); };
  for (const line of text.split("\n")) {
    inside = line.startsWith("@@") || (inside && !line.startsWith("diff --git "));
    const now = line.startsWith("@@") ? "hunk" : !inside ? "file" : line[0] === "+" ? "add" : line[0] === "-" ? "del" : "same";
    if (now !== kind) { put(); lines = []; kind = now; }
    lines.push(line);
  }
  put();
  return block;
}

function facts(i) {
  const list = make("dl", {class: "facts"});
  const add = (name, value) => { if (value !== "") list.append(make("dt", {text: name}), make("dd", {text: value})); };
  const seconds = Object.entries(R.seconds[i]).map(([name, value]) => name + " " + value.toFixed(2) + " s").join(" · ");
  if (MANY) add("run", DATA.runs[R.run[i]].name);
  add("proposed", R.steps[i].length ? "in step " + R.steps[i].join(", ") + (R.proposed[i] > 1 ? ", " + R.proposed[i] + " times in all" : "") : "");
  add("reward", R.reward[i] === null ? "" : number(R.reward[i]));
  add("seed", "seed " + R.seed[i] + ", replicate " + R.replicate[i] + (R.attempt[i] ? ", attempt " + (R.attempt[i] + 1) : ""));
  add("seconds", seconds);
  add("coder", R.usd[i] ? R.usd[i].toFixed(4) + " USD" : "");
  add("by", R.by[i]);
  add("kind of change", R.cell[i]);
  add("lines", R.added[i] || R.removed[i] ? R.added[i] + " added, " + R.removed[i] + " taken away" : "");
  add("id", R.key[i]);
  return list;
}

function linkTo(i) {
  const metric = R.metric[i] === null ? "" : " " + number(R.metric[i]);
  return make("li", {}, make("a", {href: address(i), text: "Experiment " + R.n[i]}), " ", badge(R.status[i]), metric + " · " + R.title[i]);
}

function links(name, rows) {
  const shown = rows.slice(0, 30);
  const list = make("ul", {class: "links"}, ...shown.map(linkTo));
  if (rows.length > shown.length) list.append(make("li", {class: "note", text: "and " + (rows.length - shown.length) + " more."}));
  return rows.length ? [make("h3", {text: name}), list] : [];
}

function sameCode(i) {
  const found = [];
  if (R.tree[i]) for (let j = 0; j < COUNT; j++) if (j !== i && R.tree[j] === R.tree[i]) found.push(j);
  return found;
}

function ways(i) {
  const order = view.order.includes(i) ? view.order : R.n.map((_, at) => at), at = order.indexOf(i);
  const list = make("ul", {}, make("li", {}, make("a", {href: "#ideas", id: "back", text: "Back to the report"})));
  if (at > 0) list.append(make("li", {}, make("a", {href: address(order[at - 1]), rel: "prev", text: "Previous"})));
  if (at < order.length - 1) list.append(make("li", {}, make("a", {href: address(order[at + 1]), rel: "next", text: "Next"})));
  return make("nav", {"aria-label": "From one experiment to the next"}, list);
}

// Words in their sections, as the ideator wrote them.
function words(idea, cut) {
  if (!idea) return [];
  const parts = /^\[Experiment\] ([\s\S]*?) \[Code Changes\] ([\s\S]*?)(?: \[End\])?$/.exec(idea);
  const made = parts
    ? [make("h2", {text: "Idea"}), paragraph("said", parts[1]), make("h3", {text: "Code changes"}), paragraph("said", parts[2])]
    : [make("h2", {text: "Idea"}), paragraph("said", idea)];
  return [...made, ...cutNote(cut, "")];
}

async function ideaPage(i, width) {
  const head = [ways(i), make("h1", {id: "idea-title", tabindex: "-1"}, "Experiment " + R.n[i] + " ", badge(R.status[i]))];
  let texts, cut;
  try {
    [texts, cut] = await textsOf(i);
  } catch (error) {
    return [...head, paragraph("caveat", "This browser cannot unpack the texts (DecompressionStream is missing). They are in the records."), facts(i)];
  }
  const [idea, thought, patch, log, kind, message] = texts;
  const measured = R.metric[i] === null ? [] : [
    paragraph("", DATA.runs[R.run[i]].metric + " " + withError(R.values[i].length ? R.values[i] : [R.metric[i]])), make("div", {class: "strip"}, strip(i, width))];
  const drawn = family(i, width), relatives = drawn ? [make("h2", {text: "Lineage"}), make("div", {class: "family"}, drawn)] : [];
  return [
    ...head, ...measured,
    ...(kind || message ? [paragraph("error", kind + ": " + message), ...cutNote(cut[5], "")] : []),
    ...words(idea, cut[0]),
    ...(patch ? [make("h2", {text: "Patch"}), colouredPatch(patch), ...cutNote(cut[2], "")] : []),
    ...(thought ? [make("h2", {text: "Thought"}), paragraph("said", thought), ...cutNote(cut[1], "")] : []),
    ...relatives, ...links("Parents", R.parents[i]), ...links("Children", children.get(i) || []),
    ...links("The same codebase", sameCode(i)),
    ...(log ? [make("h2", {text: "End of the log"}), ...cutNote(cut[LOG], " before this"), codeBlock("log", "End of the log", log)] : []),
    make("h2", {text: "Record"}), facts(i),
  ];
}
