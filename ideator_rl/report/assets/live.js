// A page about a run that goes on loads itself again.  The reader stays at the same place, with the same filter.
const LIVE = document.documentElement.dataset, KEPT = "report " + location.pathname;

function keepPlace() {
  const state = {
    y: scrollY, column: view.column, descending: view.descending, page: view.page,
    fields: [...document.querySelectorAll("#filter :is(input, select)")].map((input) => input.value),
    open: [...reportView.querySelectorAll("details")].map((part) => part.open),
  };
  try { sessionStorage.setItem(KEPT, JSON.stringify(state)); } catch (error) { /* storage is switched off */ }
}

async function restorePlace() {
  let state = null;
  try {
    state = JSON.parse(sessionStorage.getItem(KEPT));
    sessionStorage.removeItem(KEPT);
  } catch (error) { /* storage is switched off */ }
  if (!state) return;
  document.querySelectorAll("#filter :is(input, select)").forEach((input, i) => { input.value = state.fields[i] || ""; });
  view.column = state.column;
  view.descending = state.descending;
  markHeads();
  await arrange();
  view.page = Math.min(state.page, Math.max(0, Math.ceil(view.order.length / PAGE) - 1));
  showPage();
  const parts = [...reportView.querySelectorAll("details")];
  if (parts.length === state.open.length) parts.forEach((part, i) => { part.open = state.open[i]; });
  scrollTo(0, state.y);
}

// Whether a reload would disturb: the page is not looked at, something is being typed, or a text is selected.
function disturbs() {
  const element = document.activeElement;
  return document.hidden || Boolean(element && element.closest("#filter")) || !getSelection().isCollapsed;
}

async function hasNews() {
  if (LIVE.live === "reload") return true;
  const note = document.getElementById("live");
  try {
    const answer = await fetch("version", {cache: "no-store"});
    return answer.ok && await answer.text() !== LIVE.version;
  } catch (error) {
    note.textContent = "The server has ended: this page shows what it read last.";
    return null;
  }
}

async function look() {
  const news = disturbs() ? false : await hasNews();
  if (news === null) return;
  if (news) {
    keepPlace();
    location.reload();
  } else setTimeout(look, LIVE.seconds * 1000);
}

arrived.then(restorePlace).then(() => { if (LIVE.live) setTimeout(look, LIVE.seconds * 1000); });
