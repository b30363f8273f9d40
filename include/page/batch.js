// One batch: what the ledger knows of it, and its conservation check at the press of a button.
import { logLink, offsetsOf, runLink, stateText } from "./batch_parts.js";
import { clearButton } from "./dialog.js";
import { ask, h, moment, number, replace, table, tabLink, write } from "./dom.js";
import { mendButton } from "./trigger.js";

const EVERY_MS = 5_000;
const IS_OVER = ["published", "dry-run"];
const numbers = (...titles) => titles.map((title) => ({ title, number: true }));
const section = (title, ...parts) => h("section", {}, h("h2", {}, title), ...parts);
const mebibytes = (bytes) => (bytes === null ? "" : number(bytes / 1024 / 1024));
const inOrder = (counts) => Object.entries(counts).sort((one, other) => other[1] - one[1]);

const UNDER_WAY = "It is under way, or its run has ended: ";
// What becomes of a batch that is not published, and what somebody has to do about it (docs/operate.md).
const MENDING = {
  live: {
    open: `${UNDER_WAY}the next run goes on with these messages.`,
    failed: "Nothing of it was published, and its messages wait in the topic. Its task log says what is wrong. The next runs take the messages again, fewer at a "
      + "time, until the one at fault is alone and becomes a dead letter; the other partitions go on meanwhile. Nothing needs to be cleared.",
  },
  replay: {
    open: `${UNDER_WAY}clear it, and the window goes on from there.`,
    failed: "Nothing of it was published. Its task log says what is wrong: mend that, then clear its run, and the window goes on from there.",
  },
  redrive: {
    open: `${UNDER_WAY}clear it, or start another redrive.`,
    failed: "Nothing of it was published, and its dead letters are where they were. Its task log says what is wrong. Clear its run once that is mended, or start a "
      + "redrive of fewer, without the one at fault.",
  },
};

// In words, and with the button that does it.
function mendingOf({ job, kind }) {
  if (IS_OVER.includes(job.state) || job.dry_run || !MENDING[kind]) return [];
  const button = kind === "live" ? mendButton(job.dag_id, {}, `Start ${job.dag_id}`) : clearButton(job.dag_id, job.run_id);
  return [MENDING[kind][job.state === "failed" ? "failed" : "open"], " ", button];
}

function make(root, id) {
  const made = {
    label: h("h2", { id: "label" }, "Batch"),
    error: h("p", { class: "verdict down", id: "error", hidden: true }),
    mending: h("p", { id: "mending", hidden: true }),
    warnings: h("ul", { id: "warnings" }),
    said: h("p", { role: "status", class: "quiet", id: "said" }, "Loading"),
    figures: h("dl", { class: "figures", id: "figures" }),
    ranges: table("Offsets by partition", ["Partition", ...numbers("First", "Last", "Offsets")], "None."),
    stages: table("Stages", ["Stage", ...numbers("Messages", "Seconds", "Memory, MiB"), "Recorded"], "Nothing is recorded of its stages."),
    caches: table("Who answered", ["Enrichment", ...numbers("Messages", "Memory", "Table", "Source", "Stale", "Absent", "Failed")], "Nothing is recorded of look-ups."),
    errors: table("Errors by reason", ["Reason", ...numbers("Messages")], "No message had an error."),
    builds: table("Builds of the sources", ["Enrichment", "Build"], "None is recorded."),
    pending: table("Sources that it lacks", ["Source", "State", ...numbers("Messages", "Corrected", "Attempts"), "Next attempt", "Detail", "Repair"], "It lacks none."),
    passes: table("Publications", ["What", "Offsets of the output topic"], "Only batches that lack a source have their place recorded."),
    changes: table("Changes, newest first", ["When", "From", "To", "Columns", "By"], "None is recorded."),
    earlier: h("p", { class: "quiet", hidden: true }, "There are earlier changes: the table enrichment_audit_log has them."),
    check: h("div", { id: "check" }),
    checked: h("div", { role: "status", id: "checked" }),
  };
  made.warned = section("Warnings", made.warnings);
  root.append(
    made.label, h("p", { class: "quiet" }, id), tabLink("batches", {}, "All batches"), made.said, made.error, made.mending, made.warned, made.figures,
    section("Is each of its messages published once?", made.check, made.checked),
    section("Stages", made.stages.element), section("Who answered", made.caches.element), section("Errors by reason", made.errors.element),
    section("Offsets", made.ranges.element), section("Partial messages", made.pending.element, h("h3", {}, "Its place and its corrections"), made.passes.element),
    section("Builds of the sources", made.builds.element), section("Who changed what", made.changes.element, made.earlier),
  );
  return made;
}

const deadLink = (count) => ({ key: count, make: () => tabLink("dead-letters", {}, number(count)) });

function figuresOf({ job, kind, label }) {
  const replay = job.purpose.window ? [["Replay", job.purpose.window.replay_id]] : [];
  return [
    ["State", stateText(job.state)], ["Kind", job.dry_run ? `${kind}, dry run` : kind], ["Messages", number(job.messages_read)],
    ["Fully enriched", number(job.messages_enriched)], ["Partial", number(job.messages_partial)], ["Dead letters", job.messages_dead ? deadLink(job.messages_dead) : number(job.messages_dead)],
    ["Claimed", moment(job.claimed_at)], ["Published", job.published_at ? moment(job.published_at) : "not yet"], ["Tries", number(job.attempts)],
    ["Bytes", number(job.value_bytes)], ["Left waiting by its run", number(Object.values(job.lag).reduce((sum, one) => sum + one, 0))], ...replay,
    ["Run", runLink(job)], ["Task", logLink(job, label)],
  ];
}

const figure = ([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value?.make ? value.make() : value));

const cacheRow = ([name, counted]) => [
  name, number(counted.messages), number(counted.memory), number(counted.postgres), number(counted.misses), number(counted.stale), number(counted.absent), number(counted.failed),
];

function pendingRow(one) {
  const isOpen = ["expected", "open"].includes(one.state);
  return [
    one.source, one.down ? one.state : `${one.state}, for some keys`, number(one.messages), number(one.corrected), number(one.attempts),
    isOpen ? moment(one.next_attempt_at) : "none", one.detail ?? "",
    isOpen ? mendButton("stacklens_repair", { batch_id: one.batch_id, source: one.source }, `Repair ${one.source}`) : "",
  ];
}

const changeRow = (one) => [
  moment(one.changed_at), one.old_state ?? "", one.new_state ?? "deleted", one.changed_columns.join(", "), `${one.changed_by} (${one.application_name || "no name"})`,
];

function show(made, view) {
  const { job } = view;
  write(made.label, view.label);
  write(made.said, "");
  made.error.hidden = !job.error;
  write(made.error, job.error ?? "");
  const mending = mendingOf(view);
  made.mending.hidden = mending.length === 0;
  replace(made.mending, mending, (part) => part.make?.() ?? part);
  made.warned.hidden = job.warnings.length === 0;
  replace(made.warnings, job.warnings, (text) => h("li", {}, text));
  replace(made.figures, figuresOf(view), figure);
  made.ranges.fill(job.ranges.filter((one) => one.end > one.start).map((one) => [String(one.partition), String(one.start), String(one.end - 1), number(one.end - one.start)]));
  made.stages.fill(view.stages.map((one) => [one.stage, number(one.messages), one.seconds.toFixed(3), mebibytes(one.peak_rss_bytes), moment(one.recorded_at)]));
  made.caches.fill(Object.entries(job.cache_counts).map(cacheRow));
  made.errors.fill(inOrder(job.errors_by_reason).map(([reason, count]) => [reason, number(count)]), job.messages_read === null ? "It is not published yet." : undefined);
  made.builds.fill(Object.entries(job.source_builds));
  made.pending.fill(view.pending.map(pendingRow));
  made.passes.fill(view.publications.map((one) => [one.pass === 0 ? "the batch" : `corrections ${one.pass}`, offsetsOf(one.ranges).join(", ") || "none yet"]));
  made.changes.fill(view.changes.map(changeRow));
  made.earlier.hidden = !view.has_earlier_changes;
}

function sentences(found) {
  const outputs = `${number(found.analytics)} enriched messages (${number(found.partial)} partial) and ${number(found.dead)} dead letters`;
  const reach = found.saw_the_end ? "to their ends" : "until the last one was found; later ones were not";
  const more = [
    found.corrections ? `${number(found.corrections)} corrections.` : "", found.redriven ? `${number(found.redriven)} dead letters were sent in again.` : "",
  ];
  return [
    `${number(found.read)} messages in, ${outputs} out.`, ...more,
    `${number(found.outputs)} offsets of the output topics were looked through, ${reach}. It took ${found.seconds.toFixed(1)} s.`,
  ].filter(Boolean).join(" ");
}

function showCheck(made, found) {
  const looks = { holds: "healthy", broken: "down", undecided: "degraded" }[found.verdict];
  const text = found.verdict === "undecided" ? `${found.why}. \`make check\` has no limits.` : sentences(found);
  const defects = Object.entries(found.defects).flatMap(([defect, count]) => [
    h("li", {}, `${defect}: ${number(count)}`, h("ul", {}, found.examples[defect].map((example) => h("li", {}, example)))),
  ]);
  made.checked.replaceChildren(h("p", { class: `verdict ${looks}` }, h("strong", {}, found.verdict), " ", text), h("ul", {}, defects));
}

function offerCheck(made, view, id, signal) {
  if (view.unchecked) {
    made.check.replaceChildren(h("p", { class: "quiet" }, `It cannot be checked by itself: ${view.unchecked}.`));
    return;
  }
  if (made.check.querySelector("button")) return;
  const button = h("button", {
    type: "button",
    onclick: async () => {
      button.disabled = true;
      made.checked.replaceChildren(h("p", {}, "Reading its messages and their outputs."));
      try {
        showCheck(made, await ask(`api/batch/check?${new URLSearchParams({ id })}`, { signal }));
      } catch (failed) {
        if (!signal.aborted) made.checked.replaceChildren(h("p", { class: "verdict degraded" }, `It was not checked: ${failed.message}.`));
      } finally {
        button.disabled = false;
      }
    },
  }, "Check conservation");
  made.check.replaceChildren(button);
}

export async function open(root, parameters, signal) {
  const id = parameters.get("id") ?? "";
  const made = make(root, id);
  for (;;) {
    try {
      const view = await ask(`api/batch?${new URLSearchParams({ id })}`, { signal });
      show(made, view);
      offerCheck(made, view, id, signal);
      if (IS_OVER.includes(view.job.state) && !view.pending.some((one) => one.state === "open")) return;
    } catch (failed) {
      if (signal.aborted) return;
      write(made.said, `This cannot be shown: ${failed.message}`);
      if (failed.status === 404) return;
    }
    await new Promise((wake) => setTimeout(wake, EVERY_MS));
    if (signal.aborted) return;
  }
}
