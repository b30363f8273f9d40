// What all tabs are made of: elements, tables, texts of figures and times, links, and questions to the server.

// The zone that Airflow shows times in; the browser's where nobody has chosen one.
function zone() {
  const kept = window.localStorage.getItem("timezone");
  try {
    const name = kept?.startsWith('"') ? JSON.parse(kept) : kept;
    return new Intl.DateTimeFormat(undefined, { timeZone: name ?? undefined }).resolvedOptions().timeZone;
  } catch {
    return undefined;
  }
}

const integers = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 });
const percents = new Intl.NumberFormat(undefined, { style: "percent", maximumFractionDigits: 1 });
const days = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeZone: zone() });
const times = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium", timeZone: zone() });

// The zone by name; and a time, in milliseconds, as if that zone were UTC: what draws times without knowing zones is given it.
export const zoneName = new Intl.DateTimeFormat(undefined, { timeZone: zone() }).resolvedOptions().timeZone;
const clock = new Intl.DateTimeFormat("en-US", {
  timeZone: zoneName, hourCycle: "h23", year: "numeric", month: "numeric", day: "numeric", hour: "numeric", minute: "numeric", second: "numeric",
});
export function local(ms) {
  const { year, month, day: date, hour, minute, second } = Object.fromEntries(clock.formatToParts(ms).map(({ type, value }) => [type, Number(value)]));
  return Date.UTC(year, month - 1, date, hour, minute, second) + (ms % 1000);
}

const isMissing = (value) => value === null || value === undefined;
export const number = (value) => (isMissing(value) ? "" : integers.format(value));
export const share = (value) => (isMissing(value) ? "no messages" : percents.format(value));
export const seconds = (value) => (isMissing(value) ? "no messages" : `${value.toFixed(1)} s`);
export const day = (date) => days.format(date);
export const moment = (text) => (isMissing(text) ? "unknown" : times.format(new Date(text)));

// The time of a clock on the wall of that zone, as a field of type `datetime-local` has it.
export function instant(wall) {
  const asUtc = new Date(`${wall}Z`);
  const shown = new Date(`${asUtc.toLocaleString("sv-SE", { timeZone: zone() }).replace(" ", "T")}Z`);
  return new Date(2 * asUtc.getTime() - shown.getTime());
}

// An element: `h("a", { href: "#now", class: "quiet", onclick: (event) => … }, "text", otherElement)`.
export function h(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name.replace(/^on/, ""), value);
    else if (value !== false && !isMissing(value)) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => !isMissing(child)));
  return made;
}

// Writes a text only where it changes: nothing flickers, and a screen reader says nothing twice.
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Replaces an element's children only where what they show has changed, so that nothing loses its focus.
export function replace(element, shown, make) {
  const key = JSON.stringify(shown);
  if (element.dataset.shown === key) return;
  element.dataset.shown = key;
  element.replaceChildren(...shown.map(make));
}

// A table that can be filled again and again. Columns are texts, or `{ title, number: true }`; a cell is a text or an
// element. `empty` is said where there are no rows.
export function table(title, columns, empty) {
  const heads = columns.map((column) => (typeof column === "string" ? { title: column } : column));
  const kind = (place) => (heads[place].number ? "number" : null);
  const body = h("tbody");
  const whole = h("table", {},
    h("caption", { class: "unseen" }, title),
    h("thead", {}, h("tr", {}, heads.map((head, place) => (head.title ? h("th", { scope: "col", class: kind(place) }, head.title) : h("td"))))),
    body);
  const none = h("p", { class: "quiet" }, empty);
  const element = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": title }, whole, none);
  const row = (cells) => h("tr", {}, cells.map((cell, place) =>
    h(place ? "td" : "th", { class: kind(place), scope: place ? null : "row" }, typeof cell === "object" && cell?.make ? cell.make() : cell)));
  return {
    element,
    // Cells that are elements are given as `{ key, make }`, so that a row is only made anew when it changes.
    fill(rows, said = empty) {
      whole.hidden = rows.length === 0;
      none.hidden = rows.length > 0;
      write(none, said);
      replace(body, rows, row);
    },
  };
}

// Airflow shows this page in a sandboxed frame, which may not leave it: its own document follows the link. The path is
// relative to Airflow's base.
export function openInAirflow(path) {
  const { href } = new URL(`../${path}`, document.baseURI);
  if (window.parent === window) {
    window.location.assign(href);
    return;
  }
  const link = window.parent.document.createElement("a");
  link.href = href;
  window.parent.document.body.append(link);
  link.click();
  link.remove();
}

// A link into Airflow's UI; `path` is relative to its base, such as `dags/stacklens_repair`.
export const airflowLink = (path, text) => h("a", {
  href: `../${path}`,
  onclick: (event) => {
    if (window.parent === window) return;
    event.preventDefault();
    openInAirflow(path);
  },
}, text);

export function runPath(dagId, runId) {
  const dag = `dags/${encodeURIComponent(dagId)}`;
  return runId ? `${dag}/runs/${encodeURIComponent(runId)}` : dag;
}

export const dagApi = (dagId) => `../api/v2/dags/${encodeURIComponent(dagId)}`;
export const runApi = (dagId, runId) => `${dagApi(dagId)}/dagRuns/${encodeURIComponent(runId)}`;

// A link to a tab of this page: `tabLink("batches", { state: "failed" }, "failed ones")`.
export const tabHref = (tab, parameters = {}) => {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => !isMissing(value) && value !== "")).toString();
  return query ? `#${tab}?${query}` : `#${tab}`;
};
export const tabLink = (tab, parameters, text) => h("a", { href: tabHref(tab, parameters) }, text);

// JSON of this page (`api/now`) or of Airflow (`../api/v2/…`). Throws an `Error` that says in words what is wrong, with
// the answer's `status`.
export async function ask(path, { signal, ...how } = {}) {
  const answer = await fetch(path, { credentials: "same-origin", signal, ...how });
  if (answer.ok) return answer.json();
  const refused = (text) => Object.assign(new Error(text), { status: answer.status });
  if (answer.status === 401) throw refused("you are no longer logged in");
  if (answer.status === 403) throw refused("you may not see this");
  const { detail } = await answer.json().catch(() => ({}));
  const said = Array.isArray(detail) ? detail.map((one) => one.msg).join("; ") : detail;
  throw refused(typeof said === "string" ? said : `Airflow answers ${answer.status}`);
}

// Refreshes a tab every so many milliseconds while it is seen, and at once when it comes to be seen again, until it is left.
export async function keepFresh(refresh, everyMs, signal) {
  document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); }, { signal });
  for (;;) {
    await new Promise((wake) => setTimeout(wake, everyMs));
    if (signal.aborted) return;
    if (!document.hidden) await refresh();
  }
}

// Keeps a list fresh: where the server does not answer, it stays, and `said` says so.
export const keepListFresh = (look, said, everyMs, signal) => keepFresh(async () => {
  try {
    await look();
  } catch (failed) {
    if (!signal.aborted) write(said, `These are as of a while ago: ${failed.message}`);
  }
}, everyMs, signal);
