// The ledger with its filters, newest first, a page at a time. From Airflow's tab of a run, the only batch of the run opens.
import { batchLink, isNamed, logLink, offsetsOf, runLink, squareName, stateText } from "./batch_parts.js";
import { ask, h, keepListFresh, moment, number, table, tabHref, tabLink, write } from "./dom.js";

const EVERY_MS = 10_000;
const OFFSETS = 4; // of a batch, in the list
const FILTERS = [
  { name: "state", title: "State", choices: ["claimed", "drained", "published", "failed", "dry-run"] },
  { name: "kind", title: "Kind", choices: ["live", "replay", "redrive"] },
  { name: "dag_id", title: "DAG" },
  { name: "run_id", title: "Run" },
  { name: "lane", title: "Lane", type: "number" },
  { name: "topic", title: "Topic" },
  { name: "partition", title: "Partition", type: "number" },
  { name: "offset", title: "Offset", type: "number" },
  { name: "since", title: "Claimed since", type: "datetime-local" },
  { name: "until", title: "Claimed before", type: "datetime-local" },
];
const CURSOR = ["before_at", "before_id"];

// The field of a date is in the browser's zone; addresses and the server have UTC.
const toField = (filter, value) => {
  if (filter.type !== "datetime-local" || value === "") return value;
  const date = new Date(value);
  return Number.isNaN(date.getTime()) ? "" : new Date(date.getTime() - 60_000 * date.getTimezoneOffset()).toISOString().slice(0, 19);
};
const fromField = (filter, value) => (filter.type === "datetime-local" && value !== "" ? new Date(value).toISOString() : value);

function field(filter, value) {
  const id = `filter-${filter.name}`;
  const control = filter.choices
    ? h("select", { id, name: filter.name }, h("option", { value: "" }, "any"),
      filter.choices.map((choice) => h("option", { value: choice, selected: choice === value }, choice)))
    : h("input", { id, name: filter.name, type: filter.type ?? "text", min: filter.type === "number" ? "0" : null, step: filter.type === "datetime-local" ? "1" : null, value: toField(filter, value) });
  return h("div", {}, h("label", { for: id }, filter.title), control);
}

function form(parameters) {
  const filled = FILTERS.some((filter) => parameters.get(filter.name));
  const made = h("form", {
    class: "asked",
    onsubmit: (event) => {
      event.preventDefault();
      const given = new FormData(event.currentTarget);
      const wanted = Object.fromEntries(FILTERS.map((filter) => [filter.name, fromField(filter, given.get(filter.name).trim())]));
      window.location.hash = tabHref("batches", wanted);
    },
  }, FILTERS.map((filter) => field(filter, parameters.get(filter.name) ?? "")),
  h("div", { class: "buttons" }, h("button", { type: "submit" }, "Filter"), " ", tabLink("batches", {}, "All batches")));
  return h("details", { open: filled }, h("summary", {}, "Filters"), made);
}

function offsets(batch) {
  const all = offsetsOf(batch.ranges);
  if (all.length === 0) return "none";
  const more = all.length > OFFSETS ? ` and ${all.length - OFFSETS} more` : "";
  return `${batch.topic} ${all.slice(0, OFFSETS).join(", ")}${more}`;
}

function row({ label, batch }) {
  const marks = [batch.dry_run && batch.state !== "dry-run" ? "dry run" : null, batch.warnings ? `${batch.warnings} warnings` : null];
  return [
    batchLink(batch.batch_id, moment(batch.claimed_at)),
    stateText(batch.state),
    [batch.kind, ...marks.filter(Boolean)].join(", "),
    number(batch.lane),
    offsets(batch),
    number(batch.messages_read), number(batch.messages_partial), number(batch.messages_dead),
    runLink(batch),
    logLink(batch, label),
  ];
}

const COLUMNS = [
  "Claimed", "State", "Kind", { title: "Lane", number: true }, "Offsets", { title: "Messages", number: true }, { title: "Partial", number: true },
  { title: "Dead", number: true }, "Run", "Log",
];

// The batches that Airflow's tab of a run or of a task is about: the batch whose square it is, or those of the run.
async function choose(listed, parameters, signal) {
  const mapIndex = parameters.get("map_index");
  if (listed.length < 2 || !/^\d+$/.test(mapIndex ?? "")) return listed;
  const name = await squareName(parameters.get("dag_id"), parameters.get("run_id"), parameters.get("task_id"), mapIndex, signal);
  const own = listed.filter(({ label }) => isNamed(name, label));
  return own.length === 1 ? own : listed;
}

function make(root, parameters) {
  const filtered = FILTERS.some((filter) => parameters.get(filter.name));
  const empty = parameters.get("run_id")
    ? "This run has no batches: nothing waited, or it is of a DAG that has none."
    : filtered ? "No batch is like that." : "No batch was claimed yet: the first run of stacklens_enrichment that finds messages makes one.";
  const made = {
    list: table("Batches, newest first", COLUMNS, empty),
    said: h("p", { class: "quiet", id: "said", "aria-live": "polite" }, "Loading"),
    pages: h("nav", { "aria-label": "Pages of the ledger", id: "pages" }),
  };
  root.append(h("h2", {}, "Batches"), form(parameters), made.said, made.list.element, made.pages);
  return made;
}

function show(made, { batches, next, is_cut: isCut }, wanted) {
  made.list.fill(batches.map(row), isCut ? "None among the batches that were looked at." : undefined);
  write(made.said, isCut ? `The search has looked back to ${moment(next.before_at)} and has an end there.` : "");
  const isFirst = !CURSOR.some((name) => wanted[name]);
  const { before_at: _at, before_id: _id, ...filters } = wanted;
  made.pages.replaceChildren(...[
    isFirst ? null : tabLink("batches", filters, "Newest"),
    next ? tabLink("batches", { ...filters, ...next }, isCut ? "Look further back" : "Older") : null,
  ].filter(Boolean).flatMap((link) => [link, " "]));
}

export async function open(root, parameters, signal) {
  const names = [...FILTERS.map((filter) => filter.name), ...CURSOR];
  const wanted = Object.fromEntries(names.map((name) => [name, parameters.get(name) ?? ""]).filter(([, value]) => value !== ""));
  const made = make(root, parameters);
  const query = new URLSearchParams(wanted).toString();
  const look = async () => {
    const listed = await ask(`api/batches?${query}`, { signal });
    show(made, listed, wanted);
    return listed.batches;
  };
  const first = await look();
  if (parameters.get("from") === "airflow") {
    const own = await choose(first, parameters, signal);
    if (own.length === 1) {
      window.location.replace(tabHref("batch", { id: own[0].batch.batch_id }));
      return;
    }
  }
  if (wanted.before_at) return;
  await keepListFresh(look, made.said, EVERY_MS, signal);
}
