// One message, wherever it is shown: what it is in words, its parts, and what can be done with it.
import { ask, h, moment, number, tabHref, tabLink, table } from "./dom.js";

export const positionOf = ({ topic, partition, offset }) => `${topic}/${partition}/${offset}`;
const query = (parameters) => new URLSearchParams(parameters).toString();

export const readMessage = ({ topic, partition, offset }, signal) => ask(`api/message?${query({ topic, partition, offset })}`, { signal });

// What a message is, by what it says about itself.
export function kindOf({ role, told }) {
  if (role === "input") return "input";
  if (told.reason) return `dead letter: ${told.reason}`;
  if (!told.origin) return "not written by this pipeline";
  const parts = [told.revision > 1 ? `correction ${told.revision - 1}` : told.replay_id ? "replayed" : told.letter ? "enriched after a redrive" : "enriched"];
  if (told.errors?.length) parts.push(`without ${told.errors.join(", ")}`);
  if (told.stale?.length) parts.push(`stale: ${told.stale.join(", ")}`);
  return parts.join("; ");
}

// A message in a list: its parts are read when it is opened for the first time.
export function messageRow(row, signal) {
  const body = h("div", { "aria-live": "polite" });
  const details = h("details", { class: "message" },
    h("summary", {},
      row.timestamp ? timeOf(row.timestamp) : "no time", ` · partition ${row.partition}, offset ${row.offset}`,
      row.key === null ? "" : ` · key ${row.key}`, ` · ${number(row.size_bytes)} bytes`,
      row.role === "input" ? "" : ` · ${kindOf(row)}`,
      h("span", { class: "start" }, row.start || (row.size_bytes ? "" : "no value"))),
    body);
  details.addEventListener("toggle", async () => {
    if (!details.open || body.childElementCount) return;
    body.replaceChildren(h("p", { class: "quiet" }, "Reading"));
    try {
      const { detail, answers } = await readMessage(row, signal);
      body.replaceChildren(...showMessage(detail, answers));
    } catch (failed) {
      if (!signal.aborted) body.replaceChildren(h("p", { role: "alert" }, `It cannot be shown: ${failed.message}`));
    }
  });
  return details;
}

// Kafka's time of a message may be anything: what is no date is shown as it is.
export const timeOf = (text) => (Number.isNaN(Date.parse(text)) ? text : moment(text));

export function facts(pairs) {
  const known = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return h("dl", { class: "facts" }, known.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

const NOTES = { hex: "no text: its bytes as hexadecimal digits", text: "text", null: "null: a tombstone" };

// Bytes as they can be shown. A region that scrolls can be reached by keyboard.
export function bytes(title, shown) {
  const note = shown.form === "json" ? null : `${NOTES[shown.form]}${shown.is_cut ? ", only its beginning" : ""}`;
  return [
    h("h3", {}, title, note ? h("span", { class: "quiet" }, ` (${note})`) : null),
    shown.form === "null" ? null : h("pre", { tabindex: "0", role: "region", "aria-label": title }, shown.text),
  ];
}

export function showMessage(detail, answers = []) {
  const { row } = detail;
  const { told } = row;
  const headers = table("Headers", ["Header", "Value"], detail.headers ? "It has no headers." : "It has more headers than the Kafka client reads.");
  headers.fill((detail.headers ?? []).map(([name, value]) => [name, value.form === "null" ? "(null)" : value.form === "hex" ? `bytes ${value.text}` : value.text]));
  return [
    facts([
      ["Where", positionOf(row)], ["What", kindOf(row)], ["Kafka's time", row.timestamp ? timeOf(row.timestamp) : "none"],
      ["Why", told.detail], ["Stage", told.stage], ["Attempts", told.attempts || ""], ["Set aside", told.at && timeOf(told.at)],
      ["Batch", told.batch_id], ["Replay", told.replay_id], ["From the dead letter", told.letter && positionOf(told.letter)],
      ["Came from", told.origin && h("a", { href: tabHref("search", { by: "position", value: positionOf(told.origin) }) }, positionOf(told.origin))],
      ["Key", detail.key.form === "null" ? "none" : detail.key.form === "hex" ? `bytes ${detail.key.text}` : detail.key.text],
    ]),
    actions(detail),
    ...bytes("Value", detail.value),
    ...(detail.original ? bytes("The message that it holds", detail.original) : []),
    ...(answers.length ? [h("h3", {}, "What the sources said"), answersTable(answers).element] : []),
    h("h3", {}, "Headers"), headers.element,
    detail.more_headers ? h("p", { class: "quiet" }, `and ${number(detail.more_headers)} more`) : null,
  ].filter((part) => part !== null);
}

function actions(detail) {
  const said = h("span", { class: "quiet", role: "status" }, detail.no_line ? `It cannot be copied as a line: ${detail.no_line}.` : "");
  const copy = h("button", {
    type: "button", disabled: detail.line === null, "data-copy": "line",
    onclick: async () => { said.textContent = await copied(`${detail.line}\n`) ? "Copied: a line for make run INPUT=" : "The browser does not let this page copy."; },
  }, detail.original ? "Copy its message as a line" : "Copy as a line");
  const { topic, partition, offset } = detail.row;
  return h("p", { class: "buttons" }, copy,
    tabLink("preview", { topic, partition, offset }, "Preview"),
    tabLink("search", { by: "position", value: positionOf(detail.row) }, "What happened to it"), said);
}

// Without a safe connection browsers have only the older way.
async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = h("textarea", { class: "unseen", "aria-hidden": "true", tabindex: "-1" });
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

// `where(answer)` says from where an answer came, as far as that is known.
export function answersTable(answers, where = null) {
  const shown = table("What the sources said", ["Source", "Asked for", "Answer", ...(where ? ["From"] : []), "Added"], "No source was asked.");
  shown.fill(answers.map((answer) => [
    answer.source,
    answer.key === null ? `no ${answer.field}` : `${answer.field} ${answer.key}`,
    answer.is_stale ? `${answer.status}, past its expiry` : answer.status,
    ...(where ? [where(answer)] : []),
    Object.entries(answer.columns).filter(([, value]) => value !== null).map(([name, value]) => `${name}: ${plain(value)}`).join(", ") || "nothing",
  ]));
  return shown;
}

const plain = (value) => (typeof value === "string" ? value : JSON.stringify(value));
