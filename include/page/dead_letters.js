// The newest dead letters by fingerprint, with samples, and their redrive.
import { ask, h, moment, number, tabLink, write } from "./dom.js";
import { mendButton } from "./trigger.js";

const REDRIVE = "stacklens_dlq_redrive";
const LIMITS = { records: "records", bytes: "bytes", time: "seconds" };

// A redrive takes times to the minute: the whole minutes from the first to the last.
const minute = (text, later = 0) => new Date(Math.floor(new Date(text).getTime() / 60_000 + later) * 60_000).toISOString().replace(".000", "");

function redrive(group) {
  const given = { reasons: [group.reason], since: minute(group.first), until: minute(group.last, 1), dry_run: true };
  return mendButton(REDRIVE, group.service ? { ...given, service: group.service } : given, "Redrive").make();
}

function sample(one) {
  const text = one.original === null ? "no value" : one.encoding === "base64" ? `base64: ${one.original}` : pretty(one.original);
  return h("figure", { class: "sample" },
    h("figcaption", {},
      `${one.partition}:${one.offset}, set aside ${moment(one.sent_at)}, attempt ${number(one.attempts)}${one.is_redriven ? ", sent in again since" : ""}. It came as `,
      tabLink("batches", { topic: one.source_topic, partition: one.source_partition, offset: one.source_offset }, `${one.source_topic} ${one.source_partition}:${one.source_offset}`),
      " in batch ", tabLink("batch", { id: one.batch_id }, one.batch_id), one.key === null ? "" : `, with the key ${one.key}`),
    one.detail ? h("p", {}, one.detail) : null,
    h("pre", { tabindex: "0", "aria-label": "The original message" }, text, one.is_cut ? "\n… cut here" : ""),
    one.headers.length ? h("dl", { class: "headers" }, one.headers.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value ?? "null")))) : null);
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text; // cut, or no JSON: that may be why it is here
  }
}

function group(one) {
  const left = one.letters - one.redriven;
  const counts = [
    `${number(one.letters)} dead letters`, one.redriven ? `${number(one.redriven)} of them sent in again` : null,
    one.ready ? `${number(one.ready)} ready to be sent in again` : null,
  ].filter(Boolean).join(", ");
  const times = one.first ? ` from ${moment(one.first)} to ${moment(one.last)}` : "";
  const title = [one.reason || "no dead letter of this pipeline", one.service ? ` of ${one.service}` : ""];
  return h("article", { class: "fingerprint", "data-reason": one.reason },
    h("h3", {}, title), h("p", {}, one.detail), h("p", { class: "quiet" }, `${counts}${times}${one.stage ? `, at ${one.stage}` : ""}.`),
    one.why.map((why) => h("p", { class: "quiet" }, `Not sent in again by default: ${why}.`)),
    left && one.reason ? redrive(one) : null,
    one.samples.length ? h("details", {}, h("summary", {}, one.samples.length > 1 ? "Some of them" : "One of them"), one.samples.map(sample)) : null);
}

export async function open(root, parameters, signal) {
  const said = h("p", { class: "quiet", id: "said", role: "status" }, "Reading the newest dead letters");
  const list = h("div", { id: "fingerprints" });
  const again = h("button", { type: "button", onclick: () => look() }, "Look again");
  root.append(h("h2", {}, "Dead letters"), said, h("p", {}, again), list);
  async function look() {
    again.disabled = true;
    try {
      const found = await ask("api/dead-letters", { signal });
      const whole = found.is_whole ? `All ${number(found.looked_at)} offsets` : `The newest ${number(found.looked_at)} of ${number(found.held)} offsets`;
      const limit = found.is_whole ? "" : ` (as many ${LIMITS[found.limit]} as are looked at here; a dry run of ${REDRIVE} counts all)`;
      const markers = found.knows_redriven ? "" : " Which of them were sent in again is known of the latest only.";
      const rest = found.ungrouped ? ` ${number(found.ungrouped)} more are of further kinds.` : "";
      write(said, found.held === 0 ? `${found.topic} is empty: every message could be processed.` : `${whole} of ${found.topic}${limit}.${markers}${rest}`);
      list.replaceChildren(...found.groups.map(group));
    } catch (failed) {
      if (signal.aborted) return;
      list.replaceChildren();
      write(said, failed.status === 403
        ? "Dead letters hold messages, and you may not see those: it takes the right to read the task logs of stacklens_enrichment."
        : `The dead letters cannot be read: ${failed.message}`);
    } finally {
      again.disabled = false;
    }
  }
  await look();
}
