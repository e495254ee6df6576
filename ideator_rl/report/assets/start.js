// Which view is shown: the report, or the experiment in the address.  The back button goes between them.
const reportView = document.getElementById("report-view"), ideaView = document.getElementById("idea-view");
const leftAt = {y: 0, focus: null, title: document.title};  // where the reader left the report
let lastNavigation = 0;

// The row of the experiment in the address; -1 for the report.
function rowInAddress() {
  const match = /^#idea=(.*)$/s.exec(location.hash);
  if (!match) return -1;
  let key = match[1];
  try { key = decodeURIComponent(key); } catch (error) { /* an address typed by hand */ }
  return rowOfKey.has(key) ? rowOfKey.get(key) : -1;
}

async function navigate() {
  const i = rowInAddress(), navigation = ++lastNavigation;
  if (i < 0) return showReport();
  if (!reportView.hidden) { leftAt.y = scrollY; leftAt.focus = document.activeElement; }
  const elements = await ideaPage(i, Math.min(1000, document.getElementById("main").clientWidth - 26));
  if (navigation !== lastNavigation) return;  // the reader went on while the texts were being unpacked
  ideaView.replaceChildren(...elements);
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
  document.title = leftAt.title;
  if (leftAt.focus && leftAt.focus.isConnected && leftAt.focus !== document.body) {
    leftAt.focus.focus({preventScroll: true});
    scrollTo(0, leftAt.y);
  } else {
    const target = document.getElementById(location.hash.slice(1)) || reportView;
    target.scrollIntoView();
  }
  if (!plot.points.length) drawPlot();  // the reader came by the address of an experiment
}

startTable();
history.scrollRestoration = "manual";
addEventListener("hashchange", navigate);
const arrived = navigate();
performance.mark("ready");
document.documentElement.dataset.ready = "yes";
