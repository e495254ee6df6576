// A page about a run that goes on loads itself again.  The reader stays at the same place, with the same filter.
const KEPT = "report " + location.pathname;

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

const settled = arrived.then(restorePlace);
