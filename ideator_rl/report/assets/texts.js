"use strict";
// The page's data.  All of it was written by models and their programs: it reaches the page as text only.
const DATA = JSON.parse(document.getElementById("data").textContent);
const R = DATA.rows, COUNT = (R.n || []).length;  // columns of the table, and the number of its rows
const LOG = 3;
const children = new Map();  // row -> rows of its children
const rowOfKey = new Map();

for (let i = 0; i < COUNT; i++) {
  rowOfKey.set(R.run[i] + ":" + R.key[i], i);
  for (const parent of R.parents[i]) {
    if (!children.has(parent)) children.set(parent, []);
    children.get(parent).push(i);
  }
}

// The same form as `address` in page.py.
function address(i) { return "#idea=" + R.run[i] + ":" + encodeURIComponent(R.key[i]); }

// An element; the attribute "text" is its text, and nothing is ever parsed as markup.
function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null) continue;
    if (name === "text") element.textContent = value; else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function html(name, attributes, ...children) { return fill(document.createElement(name), attributes, children); }

function svg(name, attributes, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

// Numbers in the format of text.py.
function number(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  return value === 0 || (size >= 0.01 && size < 10000) ? value.toFixed(4) : String(Number(value.toPrecision(4)));
}

function mean(values) { return values.reduce((sum, value) => sum + value, 0) / values.length; }

function deviation(values) {
  const center = mean(values);
  return Math.sqrt(values.reduce((sum, value) => sum + (value - center) ** 2, 0) / (values.length - 1));
}

function withError(values) {
  if (values.length < 2) return number(values.length ? values[0] : null);
  return number(mean(values)) + " ± " + Number(deviation(values).toPrecision(2)) + " (" + values.length + " runs)";
}

function badge(status) {
  const element = html("span", {class: "badge", text: DATA.statuses[status]});
  element.style.setProperty("--c", "var(--status-" + status + ")");
  return element;
}

// The texts come after this script in the file, so that the table can be used while they are still being read.
const documentRead = document.readyState !== "loading" ? Promise.resolve()
  : new Promise((resolve) => addEventListener("DOMContentLoaded", resolve, {once: true}));

// Of every row: [idea, thought, patch, log, kind and message of the error, feedback], and how many characters of each were cut.
// Unpacked once, when the first text is needed.
let unpackedTexts = null;
function allTexts() {
  unpackedTexts = unpackedTexts || unpack("texts");
  return unpackedTexts;
}

// The prompts that asked for ideas, each with the number of its cut characters.
let unpackedPrompts = null;
function allPrompts() {
  unpackedPrompts = unpackedPrompts || unpack("prompts");
  return unpackedPrompts;
}

async function unpack(element) {
  await documentRead;
  const base64 = atob(document.getElementById(element).textContent);
  const bytes = new Uint8Array(base64.length);
  for (let i = 0; i < base64.length; i++) bytes[i] = base64.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

// Idea, error and patch of every experiment in small letters, for the search by words.
let lowerCaseTexts = null;
function searchTexts() {
  lowerCaseTexts = lowerCaseTexts || allTexts().then((rows) => rows.map(([texts]) => {
    const [idea, , patch, , kind, message] = texts;
    return [idea, kind, message, patch].join("\n").toLowerCase();
  }));
  return lowerCaseTexts;
}
