// What today's settings would make of a message. Nothing is published or kept.
import { ask, h, number, table, write } from "./dom.js";
import { bytes, facts, positionOf } from "./message.js";

const MOST_BYTES = 1_000_000;

async function tried(value, position, signal) {
  const where = position ? `?${new URLSearchParams(position)}` : "";
  return ask(`api/preview${where}`, {
    method: "POST", headers: { "Content-Type": "application/octet-stream" }, body: position ? "" : value, signal,
  });
}

function condition({ text, value, holds }) {
  return h("li", {}, `${text}: ${holds ? "holds" : "does not hold"}, it is ${value === null ? "null" : JSON.stringify(value)}`);
}

function rulesTable(why) {
  const shown = table("Risk rules", ["Rule", "Fires", { title: "Weight", number: true }, "Because"], "There are no rules.");
  const sorted = [...why.rules].sort((one, other) => other.has_fired - one.has_fired);
  shown.fill(sorted.map((rule) => [
    rule.name, rule.has_fired ? "yes" : "no", String(rule.weight),
    { rule: rule.name, conditions: rule.conditions, make: () => h("ul", {}, rule.conditions.map(condition)) },
  ]));
  return shown.element;
}

function madeOf({ sources = [], errors = [], stale = [] }) {
  const parts = [sources.length ? `with ${sources.join(", ")}` : "without any source"];
  if (errors.length) parts.push(`errors: ${errors.join(", ")}`);
  if (stale.length) parts.push(`past their expiry: ${stale.join(", ")}`);
  return parts.join("; ");
}

function shown({ given, outcome, answers, notes }) {
  const { told } = outcome.row;
  const isDead = told.reason !== undefined && told.reason !== "";
  const sources = table("What the sources say", ["Source", "Asked for", "Answer", "From", "Adds"], "No source is asked: it is refused before.");
  sources.fill(answers.map((answer) => [
    answer.source, answer.key === null ? `no ${answer.field}` : `${answer.field} ${answer.key}`,
    `${answer.status}${answer.is_stale ? ", past its expiry" : ""}${answer.detail ? ` (${answer.detail})` : ""}`, answer.came_from,
    Object.entries(answer.columns).filter(([, value]) => value !== null).map(([name, value]) => `${name}: ${typeof value === "string" ? value : JSON.stringify(value)}`).join(", ") || "nothing",
  ]));
  const explained = answers.filter(({ why }) => why !== null);
  return [
    h("h2", {}, "What it would become"),
    h("p", { class: `verdict ${isDead ? "down" : told.errors?.length ? "degraded" : "healthy"}`, id: "outcome" },
      h("strong", {}, isDead ? "dead letter" : told.errors?.length ? "partial" : "enriched"), " ", isDead ? `${told.reason}: ${told.detail}` : madeOf(told)),
    ...notes.map((note) => h("p", {}, `Here a batch may differ: ${note}.`)),
    given.row.key === null && given.row.timestamp === null ? null : facts([["Taken from", positionOf(given.row)], ["Key", given.row.key]]),
    ...bytes(isDead ? "The dead letter" : "The enriched message", outcome.value),
    h("h2", {}, "What the sources say"), sources.element,
    ...explained.flatMap(({ name, why }) => [h("h2", {}, `Rules of ${name}`), h("p", { class: "quiet" }, why.note), rulesTable(why)]),
  ].flat().filter((part) => part !== null);
}

export async function open(root, parameters, signal) {
  const text = h("textarea", { id: "pasted", name: "message", spellcheck: "false", "aria-describedby": "limit" });
  const said = h("p", { role: "status", id: "tried" });
  const result = h("div", { id: "preview" });
  const button = h("button", { type: "submit" }, "Preview");
  root.append(
    h("h2", {}, "Preview of a message"),
    h("form", { onsubmit: (event) => { event.preventDefault(); go(null); } },
      h("label", { for: "pasted" }, "A message, as it would come in: usually JSON"), text,
      h("p", { class: "quiet", id: "limit" }, "Nothing is published, cached or counted. Caches are read, sources are asked, each for seconds at most."),
      h("p", { class: "buttons" }, button)),
    said, result,
  );

  async function go(position) {
    const size = new TextEncoder().encode(text.value).length;
    if (!position && size > MOST_BYTES) return write(said, `It has ${number(size)} bytes; ${number(MOST_BYTES)} at most are tried out here.`);
    button.disabled = true;
    write(said, "Asking the sources");
    try {
      const found = await tried(text.value, position, signal);
      if (position && found.given.line !== null) text.value = found.given.line;
      if (position && found.given.line === null) write(said, `This is a preview of ${positionOf(position)} itself; it cannot be edited: ${found.given.no_line}.`);
      else write(said, position ? `Taken from ${positionOf(found.given.row)}. Change it and try again, if you like: key and headers are left out then.` : "");
      result.replaceChildren(...shown(found));
    } catch (failed) {
      if (signal.aborted) return undefined;
      result.replaceChildren();
      write(said, `It cannot be tried out: ${failed.message}`);
    } finally {
      button.disabled = false;
    }
    return undefined;
  }

  const [topic, partition, offset] = ["topic", "partition", "offset"].map((name) => parameters.get(name));
  if (topic && partition !== null && offset !== null) await go({ topic, partition, offset });
}
