"use strict";
// The page's data.  All of it was written by models and their programs: it reaches the page as text only.
const DATA = JSON.parse(document.getElementById("data").textContent);
const R = DATA.rows, COUNT = (R.n || []).length;
const LOG = 3;
const unpacked = new Map();
const children = new Map();
const placeOf = new Map();

for (let i = 0; i < COUNT; i++) {
  placeOf.set(R.run[i] + ":" + R.key[i], i);
  for (const parent of R.parents[i]) {
    if (!children.has(parent)) children.set(parent, []);
    children.get(parent).push(i);
  }
}

function address(i) { return "#idea=" + R.run[i] + ":" + encodeURIComponent(R.key[i]); }

function make(name, attributes, ...inside) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key === "text") made.textContent = value; else made.setAttribute(key, value);
  }
  made.append(...inside);
  return made;
}

function draw(name, attributes, ...inside) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key === "text") made.textContent = value; else made.setAttribute(key, value);
  }
  made.append(...inside);
  return made;
}

// Numbers as the rest of the page writes them.
function number(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  return value === 0 || (size >= 0.01 && size < 10000) ? value.toFixed(4) : String(Number(value.toPrecision(4)));
}

function mean(values) { return values.reduce((sum, one) => sum + one, 0) / values.length; }

function deviation(values) {
  const middle = mean(values);
  return Math.sqrt(values.reduce((sum, one) => sum + (one - middle) ** 2, 0) / (values.length - 1));
}

function withError(values) {
  if (values.length < 2) return number(values.length ? values[0] : null);
  return number(mean(values)) + " ± " + Number(deviation(values).toPrecision(2)) + " (" + values.length + " runs)";
}

function badge(status) {
  const made = make("span", {class: "badge", text: DATA.statuses[status]});
  made.style.setProperty("--c", "var(--status-" + status + ")");
  return made;
}

// The texts stand below this script, so that the table can be used while they still come in.
const arrived = document.readyState !== "loading" ? Promise.resolve()
  : new Promise((resolve) => addEventListener("DOMContentLoaded", resolve, {once: true}));

async function unpack(chunk) {
  await arrived;
  const letters = atob(document.getElementById("texts-" + chunk).textContent);
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

function chunkOf(i) {
  let low = 0, high = DATA.starts.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (DATA.starts[middle] <= i) low = middle; else high = middle - 1;
  }
  return low;
}

// Idea, thought, patch, log, kind and message of the error; and how many characters of each were cut.
async function textsOf(i) {
  const chunk = chunkOf(i);
  if (!unpacked.has(chunk)) {
    if (unpacked.size > 8) unpacked.delete(unpacked.keys().next().value);
    unpacked.set(chunk, unpack(chunk));
  }
  return (await unpacked.get(chunk))[i - DATA.starts[chunk]];
}

// Idea, error and patch of every experiment in small letters, unpacked when the first word is looked for.
let searchable = null;
function allWords() {
  searchable = searchable || (async () => {
    const words = [];
    for (let chunk = 0; chunk < DATA.starts.length; chunk++) {
      for (const [texts] of await unpack(chunk)) {
        words.push([texts[0], texts[4], texts[5], texts[2]].join("\n").toLowerCase());
      }
    }
    return words;
  })();
  return searchable;
}
