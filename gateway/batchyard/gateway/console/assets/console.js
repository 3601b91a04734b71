// Keeps a page live, its times readable and its rows in reach of the keyboard. Everything works without it but that.
"use strict";

const page = () => document.getElementById("page");
const live = document.getElementById("live");
const LINES_MAX = 5000;

// Times, in the reader's own zone.

const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
const UNITS = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];

function tellTimes(root = document) {
  for (const time of root.querySelectorAll("time[data-ms]")) {
    const at = new Date(Number(time.dataset.ms));
    const ago = (Date.now() - at) / 1000;
    const [unit, seconds] = UNITS.find(([, length]) => ago >= length) ?? UNITS.at(-1);
    time.textContent = ago < 30 * 86400 ? relative.format(-Math.floor(ago / seconds), unit) : at.toLocaleDateString();
    time.title = at.toLocaleString();
    time.dateTime = at.toISOString();
  }
}

// How long something still is, by the server's clock: counted here, so that nothing needs to be asked or told.

let skew = 0;

function noteSkew() {
  skew = Date.now() - Number(page().dataset.now);
  countDown();
}

function countDown() {
  for (const left of document.querySelectorAll("[data-until]")) {
    const seconds = Math.max(0, Math.round((Number(left.dataset.until) - Date.now() + skew) / 1000));
    const minutes = Math.floor(seconds / 60);
    left.textContent = minutes ? `${minutes} min ${seconds % 60} s` : `${seconds} s`;
  }
}

// Live: the server says that something has changed, and the page fetches itself anew.

let changes = null;
let refreshing = false;
let stale = false;

function follow() {
  // A page that nobody looks at has no stream: a browser opens no more than six to one server.
  const url = document.hidden ? null : page().dataset.live;
  if (url && changes?.url.endsWith(url) && changes.readyState !== EventSource.CLOSED) return;
  changes?.close();
  changes = null;
  live.textContent = "";
  live.classList.remove("on");
  if (!url) return;
  changes = new EventSource(url);
  changes.onopen = () => { live.textContent = "● live"; live.classList.add("on"); };
  changes.onerror = () => {
    live.textContent = "○ reconnecting";
    live.classList.remove("on");
    // After a refusal it does not ask again by itself.
    if (changes?.readyState === EventSource.CLOSED) setTimeout(follow, 5000);
  };
  changes.addEventListener("changed", refresh);
}

const mustStay = () => document.hidden || document.querySelector("dialog[open]") !== null || hasOlderRows();

async function fragment(url) {
  const answer = await fetch(url, { headers: { "X-Fragment": "page" } });
  if (!answer.ok && answer.status !== 404) throw new Error(`status ${answer.status}`);
  return answer.text();
}

async function refresh() {
  if (refreshing || mustStay()) {
    stale = true;
    return;
  }
  refreshing = true;
  stale = false;
  try {
    let text;
    try {
      text = await fragment(location.href);
    } catch {
      // The server is away, or has no time.
      stale = true;
      setTimeout(() => { if (stale) refresh(); }, 5000);
      return;
    }
    if (mustStay()) { stale = true; return; }
    const chosen = document.querySelector("tr.chosen")?.id;
    Idiomorph.morph(page(), text, {
      morphStyle: "outerHTML",
      ignoreActiveValue: true,
      callbacks: { beforeNodeMorphed: (old) => !(old.dataset?.morph === "keep" || old.id?.startsWith("log-")) },
    });
    if (chosen) document.getElementById(chosen)?.classList.add("chosen");
    tellTimes();
    noteSkew();
    follow();
    openLog();
  } finally {
    refreshing = false;
  }
  if (stale && !mustStay()) refresh();
}

document.addEventListener("visibilitychange", () => {
  follow();
  openLog();
  if (stale && !document.hidden) refresh();
});
document.addEventListener("close", () => { if (stale) refresh(); }, true);

// Rows without end.

const hasOlderRows = () => document.getElementById("jobs-rows")?.dataset.older === "yes";

async function showOlder(link) {
  if (link.dataset.loading) return;
  link.dataset.loading = "yes";
  let text;
  try {
    text = await fragment(link.href);
  } catch {
    delete link.dataset.loading;
    return;
  }
  const older = new DOMParser().parseFromString(text, "text/html");
  const rows = document.getElementById("jobs-rows");
  rows.append(...older.querySelectorAll("#jobs-rows > tr"));
  rows.dataset.older = "yes";
  const next = older.getElementById("more");
  if (next) { link.href = next.href; delete link.dataset.loading; } else { link.parentElement.remove(); }
  tellTimes();
}

const atTheEnd = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) showOlder(entry.target);
}, { rootMargin: "400px" });

// Questions before anything is done.

document.addEventListener("click", (event) => {
  const target = event.target;
  const opener = target.closest("[data-dialog]");
  if (opener) document.getElementById(opener.dataset.dialog).showModal();
  if (target.closest("[data-close]")) target.closest("dialog").close();
  if (target.closest("#more")) { event.preventDefault(); showOlder(target.closest("#more")); }
  const grid = target.closest("#children");
  if (grid) {
    const box = grid.getBoundingClientRect();
    const columns = Number(grid.dataset.columns);
    const cell = box.width / columns;
    const index = Math.floor((event.clientY - box.top) / cell) * columns + Math.floor((event.clientX - box.left) / cell);
    if (index < Number(grid.dataset.size)) location.href = `/jobs/${grid.dataset.job}:${index}`;
  }
});

document.addEventListener("submit", (event) => {
  const parent = event.target.dataset.child;
  if (parent) { event.preventDefault(); location.href = `/jobs/${parent}:${event.target.elements.index.value}`; }
});

// The keyboard.

let afterG = 0;

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, textarea, select")) return;
  if (document.querySelector("dialog[open]")) return;
  if (Date.now() - afterG < 1500) {
    const link = document.querySelector(`nav [data-key="${CSS.escape(event.key)}"]`);
    afterG = 0;
    if (link) { location.href = link.href; return; }
  }
  switch (event.key) {
    case "/": event.preventDefault(); document.querySelector(".find input").focus(); break;
    case "g": afterG = Date.now(); break;
    case "j": choose(1); break;
    case "k": choose(-1); break;
    case "Enter": if (document.activeElement === document.body) document.querySelector("tr.chosen .row")?.click(); break;
    case "?": document.getElementById("keys").showModal(); break;
  }
});

function choose(step) {
  const rows = [...document.querySelectorAll(".rows tbody tr")];
  const before = rows.findIndex((row) => row.classList.contains("chosen"));
  const row = rows[Math.min(Math.max(before + step, 0), rows.length - 1)];
  if (!row) return;
  rows[before]?.classList.remove("chosen");
  row.classList.add("chosen");
  row.scrollIntoView({ block: "nearest" });
}

// The log.

let log = { stream: null, source: null, lines: 0, after: "", over: false };

function openLog() {
  const choice = document.getElementById("log-stream");
  if (!choice) return;
  const shown = document.getElementById("log");
  if (choice.value !== log.stream) {
    log.source?.close();
    shown.replaceChildren();
    log = { stream: choice.value, source: null, lines: 0, after: "", over: false };
    tellLog("reading");
  }
  if (document.hidden) {
    log.source?.close();
    log.source = null;
  }
  if (document.hidden || log.over || log.source) return;
  const where = new URLSearchParams({ stream: log.stream, after: log.after });
  const source = log.source = new EventSource(`/live/log?${where}`);
  const finish = (state) => { source.close(); log.over = true; tellLog(state); };
  source.addEventListener("lines", (event) => {
    log.after = event.lastEventId;
    addLines(shown, JSON.parse(event.data));
  });
  source.addEventListener("end", () => finish("complete"));
  source.addEventListener("refused", (event) => finish(JSON.parse(event.data)));
}

function tellLog(state) {
  const hidden = log.lines > LINES_MAX ? `, the last ${LINES_MAX} are shown` : "";
  document.getElementById("log-state").textContent = `${log.lines} lines, ${state}${hidden}`;
}

function addLines(shown, lines) {
  const wanted = document.getElementById("log-search").value.toLowerCase();
  const added = lines.slice(-LINES_MAX).map(([ms, text]) => {
    const line = document.createElement("div");
    const time = document.createElement("time");
    time.textContent = new Date(ms).toISOString().slice(11, 23);
    line.append(time, text);
    line.hidden = wanted !== "" && !text.toLowerCase().includes(wanted);
    return line;
  });
  shown.append(...added);
  log.lines += lines.length;
  while (shown.childElementCount > LINES_MAX) shown.firstElementChild.remove();
  if (document.getElementById("log-follow").checked) shown.scrollTop = shown.scrollHeight;
  tellLog("reading");
}

document.addEventListener("input", (event) => {
  if (event.target.id === "log-search") {
    const wanted = event.target.value.toLowerCase();
    for (const line of document.getElementById("log").children) {
      line.hidden = wanted !== "" && !line.lastChild.textContent.toLowerCase().includes(wanted);
    }
  }
  if (event.target.id === "log-stream") openLog();
});

tellTimes();
setInterval(tellTimes, 10000);
noteSkew();
setInterval(countDown, 1000);
follow();
openLog();
const more = document.getElementById("more");
if (more) atTheEnd.observe(more);
