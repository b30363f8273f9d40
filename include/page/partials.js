// Messages that were published without a source: which batches, what was tried, and the repair.
import { batchLink } from "./batch_parts.js";
import { airflowLink, ask, h, keepListFresh, moment, number, runPath, table, tabLink, write } from "./dom.js";
import { mendButton } from "./trigger.js";

const EVERY_MS = 10_000;
const REPAIR = "stacklens_repair";
const REPLAY = "stacklens_replay";
const MEANING = {
  expected: "about to be published",
  open: "waits for its source",
  "given-up": "given up: the source failed at every attempt. Mend the source, then set the row to open again (docs/operate.md, stacklens_repair)",
  lost: "lost: messages left the log first. Replay the time, if the input is still there, and lengthen the topic's retention",
  unrepairable: "unrepairable: the topic refuses the corrections. Mend what the detail names, then set the row to open again (docs/operate.md)",
};
const isOpen = (state) => ["expected", "open"].includes(state);
const numbers = (...titles) => titles.map((title) => ({ title, number: true }));

const countRow = (one) => [
  one.source,
  { key: one.state, make: () => tabLink("partials", { state: one.state, source: one.source }, one.state) },
  number(one.batches), number(one.messages), moment(one.since), MEANING[one.state] ?? "",
  one.state === "open" ? mendButton(REPAIR, { source: one.source }, `Repair ${one.source}`)
    : one.state === "lost" ? { key: REPLAY, make: () => airflowLink(runPath(REPLAY), REPLAY) } : "",
];

const row = (one) => [
  batchLink(one.batch_id), one.source, one.down ? one.state : `${one.state}, for some keys`, number(one.messages), number(one.corrected), number(one.attempts),
  moment(one.since), isOpen(one.state) ? moment(one.next_attempt_at) : "none", one.detail ?? "",
  isOpen(one.state) ? mendButton(REPAIR, { batch_id: one.batch_id, source: one.source }, "Repair") : "",
];

export async function open(root, parameters, signal) {
  const names = ["state", "source", "before_at", "before_id", "before_source"];
  const wanted = Object.fromEntries(names.map((name) => [name, parameters.get(name) ?? ""]).filter(([, value]) => value !== ""));
  const counts = table("Partial messages by source and state", ["Source", "State", ...numbers("Batches", "Messages"), "Since", "What it means", "Repair"],
    "Every message that was published has what its sources know: nothing waits for a repair.");
  const list = table("Batches with partial messages, newest first",
    ["Batch", "Source", "State", ...numbers("Messages", "Corrected", "Attempts"), "Since", "Next attempt", "Detail", "Repair"], "None.");
  const said = h("p", { class: "quiet", id: "said", "aria-live": "polite" }, "Loading");
  const pages = h("nav", { "aria-label": "Pages of the list" });
  root.append(h("h2", {}, "Partial messages"), said, counts.element, h("h2", {}, "By batch"), list.element, pages);
  const look = async () => {
    const found = await ask(`api/partials?${new URLSearchParams(wanted)}`, { signal });
    const all = found.counts.reduce((sum, one) => sum + one.batches, 0);
    write(said, all >= found.counted ? `The counts are of the latest ${number(found.counted)} rows.` : "stacklens_repair tries what is due every five minutes by itself.");
    counts.fill(found.counts.map(countRow));
    list.fill(found.partials.map(row));
    const last = found.partials.at(-1);
    const { state, source } = wanted;
    pages.replaceChildren(...[
      state || source || wanted.before_at ? tabLink("partials", {}, "All, newest first") : null,
      found.has_more ? tabLink("partials", { state, source, before_at: last.since, before_id: last.batch_id, before_source: last.source }, "Older") : null,
    ].filter(Boolean).flatMap((link) => [link, " "]));
  };
  await look();
  await keepListFresh(look, said, EVERY_MS, signal);
}
