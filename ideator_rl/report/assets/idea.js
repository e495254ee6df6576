// The page of one experiment, built when it is opened.
function paragraph(className, text) { return html("p", {class: className, text}); }

function codeBlock(className, label, text) {
  return html("pre", {class: className, tabindex: "0", role: "group", "aria-label": label, text});
}

function cutNote(cut, where) {
  return cut ? [paragraph("note", cut + " more characters" + where + " are in the records.")] : [];
}

function facts(i) {
  const list = html("dl", {class: "facts"});
  const add = (name, value) => { if (value !== "") list.append(html("dt", {text: name}), html("dd", {text: value})); };
  const seconds = Object.entries(R.seconds[i]).map(([phase, value]) => phase + " " + value.toFixed(2) + " s").join(" · ");
  if (MANY) add("run", DATA.runs[R.run[i]].name);
  add("proposed", R.steps[i].length ? "in step " + R.steps[i].join(", ") + (R.proposed[i] > 1 ? ", " + R.proposed[i] + " times in all" : "") : "");
  add("reward", R.reward[i] === null ? "" : number(R.reward[i]));
  add("seed", "seed " + R.seed[i] + ", replicate " + R.replicate[i] + (R.attempt[i] ? ", attempt " + (R.attempt[i] + 1) : ""));
  for (const [name, value] of Object.entries(R.secondary[i])) add(name, number(value));
  add("debug step", R.debugged[i] ? "it crashed, and the coder was given its traceback; what that led to is an experiment of its own" : "");
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
  return html("li", {}, html("a", {href: address(i), text: "Experiment " + R.n[i]}), " ", badge(R.status[i]), metric + " · " + R.title[i]);
}

function links(heading, rows) {
  if (!rows.length) return [];
  const list = html("ul", {class: "links"}, ...rows.slice(0, 30).map(linkTo));
  if (rows.length > 30) list.append(html("li", {class: "note", text: "and " + (rows.length - 30) + " more."}));
  return [html("h3", {text: heading}), list];
}

function rowsWithSameCode(i) {
  const rows = [];
  if (R.tree[i]) for (let j = 0; j < COUNT; j++) if (j !== i && R.tree[j] === R.tree[i]) rows.push(j);
  return rows;
}

// Back to the report, and to the neighbours in the order of the table.
function navigation(i) {
  const order = view.order.includes(i) ? view.order : R.n.map((_, row) => row), index = order.indexOf(i);
  const list = html("ul", {}, html("li", {}, html("a", {href: "#ideas", id: "back", text: "Back to the report"})));
  if (index > 0) list.append(html("li", {}, html("a", {href: address(order[index - 1]), rel: "prev", text: "Previous"})));
  if (index < order.length - 1) list.append(html("li", {}, html("a", {href: address(order[index + 1]), rel: "next", text: "Next"})));
  return html("nav", {"aria-label": "From one experiment to the next"}, list);
}

// The idea in its two sections, as the ideator wrote it.
function ideaText(idea, cut) {
  if (!idea) return [];
  const sections = /^\[Experiment\] ([\s\S]*?) \[Code Changes\] ([\s\S]*?)(?: \[End\])?$/.exec(idea);
  const elements = sections
    ? [html("h2", {text: "Idea"}), paragraph("quote", sections[1]), html("h3", {text: "Code changes"}), paragraph("quote", sections[2])]
    : [html("h2", {text: "Idea"}), paragraph("quote", idea)];
  return [...elements, ...cutNote(cut, "")];
}

// The patch to the baseline, and before it the one to the parent whose code the idea changes.
function patches(i, patch, toParent, cut, width) {
  const parents = R.code[i].map((row) => "experiment " + R.n[row]).join(" and ") || "the parent";
  return [
    ...(toParent ? [html("h2", {text: "Patch to the code of " + parents}), ...patchViews(toParent, width), ...cutNote(cut[7], "")] : []),
    ...(patch ? [html("h2", {text: toParent ? "Patch to the baseline" : "Patch"}), ...patchViews(patch, width), ...cutNote(cut[2], "")] : []),
  ];
}

// The whole text that asked for the idea, folded.
async function promptText(i) {
  if (R.prompt[i] === null) return [];
  const [text, cut] = (await allPrompts())[R.prompt[i]];
  return [html("details", {class: "prompt"}, html("summary", {text: "The prompt that asked for it"}), codeBlock("log", "Prompt", text), ...cutNote(cut, ""))];
}

async function ideaPage(i, width) {
  const head = [navigation(i), html("h1", {id: "idea-title", tabindex: "-1"}, "Experiment " + R.n[i] + " ", badge(R.status[i]))];
  let texts, cut;
  try {
    [texts, cut] = (await allTexts())[i];
  } catch (error) {
    return [...head, paragraph("caveat", "This browser cannot unpack the texts (DecompressionStream is missing). They are in the records."), facts(i)];
  }
  const [idea, thought, patch, log, kind, message, feedback, toParent, problem] = texts;
  const metric = R.metric[i] === null ? [] : [
    paragraph("", DATA.runs[R.run[i]].metric + " " + withError(R.values[i].length ? R.values[i] : [R.metric[i]])), html("div", {class: "strip"}, strip(i, width))];
  const drawing = family(i, width), lineage = drawing ? [html("h2", {text: "Lineage"}), html("div", {class: "family"}, drawing)] : [];
  return [
    ...head, ...metric,
    ...(kind || message ? [paragraph("error", kind + ": " + message), ...cutNote(cut[5], "")] : []),
    ...(feedback ? [html("h2", {text: "Feedback to ideators"}), paragraph("quote", feedback)] : []),
    ...ideaText(idea, cut[0]),
    ...(problem ? [paragraph("caveat", problem)] : []),
    ...patches(i, patch, toParent, cut, width),
    ...(await promptText(i)),
    ...(thought ? [html("h2", {text: "Thought"}), paragraph("quote", thought), ...cutNote(cut[1], "")] : []),
    ...lineage, ...links("Builds on the code of", R.code[i]), ...links("Parents", R.parents[i]), ...links("Children", children.get(i) || []),
    ...links("The same codebase", rowsWithSameCode(i)),
    ...(log ? [html("h2", {text: "End of the log"}), ...cutNote(cut[LOG], " before this"), codeBlock("log", "End of the log", log)] : []),
    html("h2", {text: "Record"}), facts(i),
  ];
}
