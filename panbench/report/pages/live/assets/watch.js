// A run while it is written: how far it is, PQ so far, and its newest errors, asked for again and again.

const { api, report, seconds } = data.live;
let now = data.now, tag = null, lost = false;

const said = document.getElementById("said");
const meter = document.getElementById("meter");
const counts = document.getElementById("counts");
const table = document.getElementById("scores");
const notes = document.getElementById("notes");
const tiles = document.getElementById("tiles");
const faults = document.getElementById("faults");
const whole_report = document.getElementById("whole-report");

const interval = (low, high, digits = 1) => (low === null ? "–" : `[${percent(low, digits)}, ${percent(high, digits)}]`);

/** A time as people say it: "40 s", "12 min", "3.5 h". */
function duration(value) {
  if (value < 90) return `${Math.max(0, Math.round(value))} s`;
  return value < 5400 ? `${Math.round(value / 60)} min` : `${short(value / 3600)} h`;
}

function sayCounts() {
  const of = now.expected ? ` of ${whole(now.expected)}` : "";
  const left = now.rate && now.expected ? `, about ${duration((now.expected - now.images) / now.rate)} left` : "";
  const rate = now.rate ? `${short(now.rate)} images a second${left}` : null;
  const last = now.last === null ? null : `the newest were written ${duration(Date.now() / 1000 - now.last)} ago`;
  counts.textContent = [`${whole(now.images)}${of} ${of || now.images !== 1 ? "images" : "image"}`, rate, last].filter(Boolean).join(" · ");
  meter.hidden = !now.expected;
  meter.max = now.expected ?? 1;
  meter.value = now.images;
}

function sayState() {
  const stopped = now.state === "stopped";
  document.documentElement.dataset.state = now.state;
  said.className = stopped || lost ? "warning" : "note";
  said.replaceChildren(lost ? "The server does not answer; asking again." : now.said,
    ...(stopped && now.command && !lost ? [" To evaluate the other images, in the folder where the run was started: ", command(now.command)] : []));
}

function sayScores() {
  table.replaceChildren(now.scores.length
    ? tableOf("Scores so far", ["Categories", "PQ so far", "95 % interval", "SQ", "RQ"], now.scores.map(([name, PQ, low, high, SQ, RQ]) =>
      [name, el("strong", {}, percent(PQ)), interval(low, high), percent(SQ), percent(RQ)]))
    : el("p", { class: "note" }, "No image is scored yet."));
  notes.replaceChildren(...now.notes.map((sentence) => el("p", { class: "note" }, sentence)));
  whole_report.hidden = !now.report;
}

/** The newest errors: as on the wall, or in words where the image cannot be read. A click opens the report there. */
function sayErrors() {
  const open = ({ image }) => { location.href = `${report}#${new URLSearchParams({ image })}`; };
  const inWords = (error) => el("li", {}, el("button", { type: "button", class: "tile", onclick: () => open(error) },
    el("span", { class: "words" }, el("strong", {}, errorName(error)), ` ${wins(error.gain)} · image ${error.name ?? error.image}`)));
  tiles.replaceChildren(...now.errors.map((error) => (error.photo ? errorTile(error, open) : inWords(error))));
  faults.replaceChildren(...now.faults.map((sentence) => el("p", { class: "note" }, sentence)));
  document.getElementById("new-errors").hidden = !now.errors.length;
}

function show() {
  if (now.state === "done") return location.replace(now.report);
  sayState();
  sayCounts();
  sayScores();
  sayErrors();
}

/** Asks how far the run is; where nothing is new, the server answers without a word (304). */
async function ask() {
  if (document.hidden) return;
  try {
    const answer = await fetch(api, { headers: tag ? { "If-None-Match": tag } : {}, cache: "no-store" });
    const before = lost;
    lost = !answer.ok && answer.status !== 304;
    if (answer.ok) {
      const images = now.images, state = now.state;
      [tag, now] = [answer.headers.get("ETag"), await answer.json()];
      show();
      if (now.state === "done") return; // the report is on its way
      if (now.state !== state) announce(now.said ?? "");
      else if (now.images !== images) announce(`${whole(now.images)} images`);
      return;
    }
    if (before !== lost) sayState();
  } catch {
    lost = true;
    sayState();
  }
  sayCounts();
}

document.getElementById("crop-key").append(kindLegend());
rove(tiles);
show();
(async () => {
  while (now.state !== "done") {
    await new Promise((go) => setTimeout(go, 1000 * seconds));
    await ask();
  }
})();
document.addEventListener("visibilitychange", ask);
document.documentElement.dataset.ready = "";
