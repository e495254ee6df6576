// Only in a page about a run that goes on: it asks for news, or takes it that there are some, and loads itself again.
const LIVE = document.documentElement.dataset;

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

settled.then(() => setTimeout(look, LIVE.seconds * 1000));
