// The page in Airflow's frame: it asks for the figures every few seconds and changes only the texts that have changed.
"use strict";

const EVERY_MS = 5_000;
const DAG = "stacklens_enrichment";
const numbers = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 });
const shares = new Intl.NumberFormat(undefined, { style: "percent", maximumFractionDigits: 1 });
const days = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });
const times = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

const byId = (id) => document.getElementById(id);
const share = (value) => (value === null ? "no messages" : shares.format(value));
const seconds = (value) => (value === null ? "no messages" : `${value.toFixed(1)} s`);
const moment = (text) => (text === null || text === undefined ? "unknown" : times.format(new Date(text)));

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Airflow shows this page in a sandboxed frame, which may not leave it: its own document follows the link.
function toAirflow(event) {
  if (window.parent === window) return;
  event.preventDefault();
  const link = window.parent.document.createElement("a");
  link.href = event.currentTarget.href;
  window.parent.document.body.append(link);
  link.click();
  link.remove();
}

function link(path, text) {
  const anchor = document.createElement("a");
  anchor.href = `../${path}`;
  anchor.textContent = text;
  anchor.addEventListener("click", toAirflow);
  return anchor;
}

function pathOf(dagId, runId) {
  const dag = `dags/${encodeURIComponent(dagId)}`;
  return runId ? `${dag}/runs/${encodeURIComponent(runId)}` : dag;
}

// Replaces an element's children where what they show has changed, so that nothing flickers or loses its focus.
function replace(element, shown, make) {
  const key = JSON.stringify(shown);
  if (element.dataset.shown === key) return;
  element.dataset.shown = key;
  element.replaceChildren(...shown.map(make));
}

function row(cells) {
  const made = document.createElement("tr");
  cells.forEach((text, place) => {
    const cell = document.createElement(place ? "td" : "th");
    if (!place) cell.scope = "row";
    if (place && /\d/.test(text) && !text.includes(":")) cell.className = "number";
    cell.textContent = text;
    made.append(cell);
  });
  return made;
}

function table(id, rows, empty) {
  byId(id).hidden = rows.length === 0;
  byId(`${id}-empty`).hidden = rows.length > 0;
  if (empty) write(byId(`${id}-empty`), empty);
  replace(byId(id).tBodies[0], rows, row);
}

function finding({ text, dag_id: dagId, run_id: runId }) {
  const item = document.createElement("li");
  item.append(text);
  if (dagId) item.append(" (", link(pathOf(dagId, runId), runId ? "its run" : dagId), ")");
  return item;
}

function figure([name, value, path]) {
  const made = document.createElement("div");
  const [term, text] = [document.createElement("dt"), document.createElement("dd")];
  term.textContent = name;
  text.append(path ? link(path, value) : value);
  made.append(term, text);
  return made;
}

function figuresOf({ recent, last }) {
  const shown = [
    ["Messages/s", numbers.format(recent.messages_per_second)],
    ["Fully enriched", share(recent.fully_enriched)],
    ["With an error or dead", share(recent.error_rate)],
    ["Dead letters", share(recent.dead_letter_rate)],
    ["Answered by caches", share(recent.hit_rate)],
    ["Published within, half of them", seconds(recent.freshness.p50)],
    ["Published within, 95 % of them", seconds(recent.freshness.p95)],
    ["Batches", numbers.format(recent.batches)],
  ];
  if (last === null) return [...shown, ["Last published", "nothing yet"]];
  const builds = Object.entries(last.source_builds).map(([name, build]) => [`Build of ${name}`, dated(build)]);
  return [...shown, ["Last published", moment(last.published_at), pathOf(last.dag_id, last.run_id)], ...builds];
}

// The build of a MaxMind database ends with the time at which it was made, in seconds since the epoch.
function dated(build) {
  const found = /^(.*)-(\d{9,10})$/.exec(build);
  return found ? `${found[1]}, ${days.format(new Date(1000 * Number(found[2])))}` : build;
}

function cacheRows(hitRates) {
  return Object.entries(hitRates).map(([name, tiers]) => [
    name, shares.format(tiers.memory), shares.format(tiers.postgres), shares.format(Math.max(0, 1 - tiers.all)),
  ]);
}

function show(verdict, now, paused) {
  const health = paused ? "down" : verdict.health;
  const findings = paused
    ? [{ text: `${DAG} is paused: nothing is enriched until somebody unpauses it`, dag_id: DAG, run_id: "" }, ...verdict.findings]
    : verdict.findings;
  byId("verdict").className = `verdict ${health}`;
  write(byId("health"), health);
  write(byId("summary"), paused ? `${DAG} is paused` : verdict.summary);
  byId("findings-section").hidden = findings.length === 0;
  replace(byId("findings"), findings, finding);
  if (now === null) return;
  write(byId("at"), `As of ${moment(now.at)}`);
  write(byId("minutes"), numbers.format(now.recent.minutes));
  replace(byId("figures"), figuresOf(now), figure);
  const waiting = now.backlog.filter((partition) => partition.waiting > 0);
  table(
    "lag",
    waiting.map((p) => [String(p.partition), numbers.format(p.waiting), moment(p.oldest_at)]),
    now.kafka_error ? "The brokers do not say." : `Nothing waits in ${now.backlog.length} partitions.`,
  );
  table("caches", cacheRows(now.recent.hit_rates));
  const errors = Object.entries(now.recent.errors_by_reason).sort((one, other) => other[1] - one[1]);
  table("errors", errors.map(([reason, count]) => [reason, numbers.format(count)]));
}

async function ask(path) {
  const answer = await fetch(path, { credentials: "same-origin" });
  if (!answer.ok) throw new Error(answer.status === 401 || answer.status === 403 ? "you may not see this, or are no longer logged in" : `Airflow answers ${answer.status}`);
  return answer.json();
}

async function refresh() {
  try {
    const [shown, dag] = await Promise.all([ask("api/now"), ask(`../api/v2/dags/${DAG}`)]);
    show(shown.verdict, shown.now, dag.is_paused);
  } catch (failed) {
    byId("verdict").className = "verdict";
    write(byId("health"), "unknown");
    write(byId("summary"), `the figures cannot be read: ${failed.message}`);
  }
}

async function watch() {
  if (!document.hidden) await refresh();
  setTimeout(watch, EVERY_MS);
}

// As Airflow is: its document has the class `dark`, also when the setting follows the system.
function follow() {
  const host = window.parent.document.documentElement;
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const apply = () => document.documentElement.classList.toggle("dark", window.parent === window ? system.matches : host.classList.contains("dark"));
  new MutationObserver(apply).observe(host, { attributes: true, attributeFilter: ["class"] });
  system.addEventListener("change", apply);
  apply();
}

follow();
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
watch();
