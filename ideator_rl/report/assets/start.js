// Which view is shown: the report, or the experiment that the address names.  The back button goes between them.
const reportView = document.getElementById("report-view"), ideaView = document.getElementById("idea-view");
const left = {y: 0, focus: null, title: document.title};
let turn = 0;

function named() {
  const found = /^#idea=(.*)$/s.exec(location.hash);
  if (!found) return -1;
  let key = found[1];
  try { key = decodeURIComponent(key); } catch (error) { /* an address typed by hand */ }
  return placeOf.has(key) ? placeOf.get(key) : -1;
}

async function route() {
  const i = named(), now = ++turn;
  if (i < 0) return showReport();
  if (!reportView.hidden) { left.y = scrollY; left.focus = document.activeElement; }
  const made = await ideaPage(i, Math.min(1000, document.getElementById("main").clientWidth - 26));
  if (now !== turn) return;
  ideaView.replaceChildren(...made);
  reportView.hidden = document.getElementById("top").hidden = true;
  ideaView.hidden = false;
  document.title = "Experiment " + R.n[i] + " · " + DATA.runs[R.run[i]].name;
  scrollTo(0, 0);
  document.getElementById("idea-title").focus({preventScroll: true});
}

function showReport() {
  if (!reportView.hidden) return;
  ideaView.hidden = true;
  reportView.hidden = document.getElementById("top").hidden = false;
  document.title = left.title;
  if (left.focus && left.focus.isConnected && left.focus !== document.body) {
    left.focus.focus({preventScroll: true});
    scrollTo(0, left.y);
  } else {
    const part = document.getElementById(location.hash.slice(1)) || reportView;
    part.scrollIntoView();
  }
}

startTable();
history.scrollRestoration = "manual";
addEventListener("hashchange", route);
route();
performance.mark("ready");
document.documentElement.dataset.ready = "yes";
