// A patch in two views: as it is, or the old lines beside the new ones.
const PAIR_WIDTH = 620;

// A unified diff with coloured lines.  A removed line may look like the head of a file: only "diff --git" ends a hunk.
function colouredPatch(text) {
  const block = codeBlock("patch", "Patch", "");
  let inHunk = false, kind = null, lines = [];
  const flush = () => { if (lines.length) block.append(html("span", {class: kind, text: lines.join("\n") + "\n"})); };
  for (const line of text.split("\n")) {
    inHunk = line.startsWith("@@") || (inHunk && !line.startsWith("diff --git "));
    const lineKind = line.startsWith("@@") ? "hunk" : !inHunk ? "file" : line[0] === "+" ? "add" : line[0] === "-" ? "del" : "same";
    if (lineKind !== kind) { flush(); lines = []; kind = lineKind; }
    lines.push(line);
  }
  flush();
  return block;
}

// Rows of the second view: [kind, old line, new line].  Removed lines stand beside the added ones that follow them.
function pairedLines(text) {
  const rows = [];
  let inHunk = false, removed = [], added = [];
  const flush = () => {
    for (let k = 0; k < Math.max(removed.length, added.length); k++) rows.push(["change", removed[k], added[k]]);
    removed = [], added = [];
  };
  for (const line of text.split("\n")) {
    const head = line.startsWith("@@");
    inHunk = head || (inHunk && !line.startsWith("diff --git "));
    if (inHunk && line[0] === "-") { if (added.length) flush(); removed.push(line.slice(1)); continue; }
    if (inHunk && line[0] === "+") { added.push(line.slice(1)); continue; }
    flush();
    if (head || !inHunk) { if (line) rows.push([head ? "hunk" : "file", line]); continue; }
    if (line[0] === " ") rows.push(["same", line.slice(1), line.slice(1)]);
  }
  flush();
  return rows;
}

function sideBySide(text) {
  const body = html("tbody", {});
  for (const [kind, before, after] of pairedLines(text)) {
    const row = html("tr", {});
    if (kind === "hunk" || kind === "file") row.append(html("td", {colspan: "2", class: kind, text: before}));
    else {
      const changed = kind === "change";
      row.append(html("td", {class: changed && before !== undefined ? "del" : null, text: before || ""}), html("td", {class: changed && after !== undefined ? "add" : null, text: after || ""}));
    }
    body.append(row);
  }
  const head = html("thead", {}, html("tr", {}, html("th", {scope: "col", text: "before"}), html("th", {scope: "col", text: "after"})));
  return html("div", {class: "scroll", tabindex: "0", role: "group", "aria-label": "Patch, side by side"}, html("table", {class: "sides"}, head, body));
}

// The patch, with a button for the other view where the screen has room for it.
function patchViews(text, width) {
  const place = html("div", {}, colouredPatch(text));
  if (width < PAIR_WIDTH || !/^@@/m.test(text)) return [place];
  const button = html("button", {type: "button", class: "small", "aria-pressed": "false", text: "Side by side"});
  button.addEventListener("click", () => {
    const pressed = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(pressed));
    place.replaceChildren(pressed ? sideBySide(text) : colouredPatch(text));
  });
  return [button, place];
}
