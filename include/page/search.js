// What happened to a message: its topics are searched step by step, newest first, as long as somebody wants; what is
// found is put together by the input message that it came from.
import { airflowLink, ask, h, instant, moment, number, runPath, table, tabHref, write } from "./dom.js";
import { answersTable, facts, kindOf, messageRow, positionOf, readMessage, timeOf } from "./message.js";
import { redriveOf } from "./redrives.js";

const PRESS_MS = 20_000; // of searching for a press of a button
const MOST_FOUND = 300;
const WAIT_MS = 1_500;
const POSITION = "position";

const query = (parameters) => {
  const made = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) for (const one of [value].flat()) made.append(name, one);
  return made.toString();
};

function readPosition(text) {
  const found = /^(.+)\/(\d{1,10})\/(\d{1,18})$/.exec(text);
  if (!found) throw new Error("a position is topic/partition/offset, such as stacklens-enriched/0/17");
  return { topic: found[1], partition: Number(found[2]), offset: found[3] };
}

const originOf = (row) => (row.role === "input" ? row : row.told.origin ?? null);

// One story: an input message and all that was found of it.
class Story {
  constructor(origin, signal) {
    this.origin = origin;
    this.rows = new Map();
    this.signal = signal;
    this.shown = 0;
    this.body = h("div", {});
    this.summary = h("summary", {});
    this.element = h("details", { class: "message story" }, this.summary, this.body);
    this.element.addEventListener("toggle", () => this.show());
  }

  add(row) {
    this.rows.set(positionOf(row), row);
    const kinds = [...this.rows.values()].sort(order).map(kindOf);
    const start = [...this.rows.values()][0].start;
    this.summary.replaceChildren(`${positionOf(this.origin)} · ${kinds.join(" · ")}`, h("span", { class: "start" }, start));
  }

  async show() {
    if (!this.element.open || this.shown === this.rows.size) return;
    this.shown = this.rows.size;
    if (!this.body.childElementCount) this.body.replaceChildren(h("p", { class: "quiet" }, "Reading"));
    const parts = [];
    try {
      const rows = [...this.rows.values()].sort(order).slice(0, 20);
      const details = [];
      for (const row of rows) details.push(await readMessage(row, this.signal));
      if (!this.rows.has(positionOf(this.origin))) {
        try {
          details.unshift(await readMessage(this.origin, this.signal));
        } catch (failed) {
          if (this.signal.aborted) return;
          parts.push(h("p", {}, `The input message cannot be shown: ${failed.message}.`));
        }
      }
      parts.push(...compared(details));
      for (const { detail: { row } } of details.filter(({ detail }) => detail.row.role === "dead letters" && detail.row.told.reason)) {
        parts.push(await redriveOf(row, rows, this.signal));
      }
      parts.push(...await this.batches(details));
      parts.push(h("h3", {}, "Its messages"), ...details.map(({ detail }) => messageRow(detail.row, this.signal)));
      if (!rows.some((row) => row.role !== "input")) {
        parts.push(h("p", {}, "What became of it was not found so far: ",
          h("a", { href: tabHref("search", { by: POSITION, value: positionOf(this.origin) }) }, "look for just that"), "."));
      }
      this.body.replaceChildren(...parts);
    } catch (failed) {
      if (!this.signal.aborted) this.body.replaceChildren(...parts, h("p", { role: "alert" }, `It cannot be shown: ${failed.message}`));
    }
  }

  async batches(details) {
    const ids = [...new Set(details.map(({ detail }) => detail.row.told.batch_id).filter(Boolean))].slice(0, 20);
    const { topic, partition, offset } = this.origin;
    let fates;
    try {
      ({ batches: fates } = await ask(`api/fates?${query({ topic, partition, offset, batch_id: ids })}`, { signal: this.signal }));
    } catch (failed) {
      if (this.signal.aborted) throw failed;
      return [h("p", { role: "alert" }, `Its batches cannot be shown: ${failed.message}`)];
    }
    const shown = table("Batches", ["Batch", "For", "State", "Claimed", "Published", "Error or warning"], "The ledger has no batch of it: it waits for the next run, or is older than the ledger.");
    shown.fill(fates.map((fate) => [
      { batch: fate.batch_id, make: () => airflowLink(runPath(fate.dag_id, fate.run_id), fate.batch_id) },
      fate.quarantined ? `${fate.kind}, quarantined` : fate.kind, fate.attempts > 1 ? `${fate.state}, try ${fate.attempts}` : fate.state,
      moment(fate.claimed_at), fate.published_at ? moment(fate.published_at) : "not", [fate.error, ...fate.warnings].filter(Boolean).join("; "),
    ]));
    const latest = details.filter(({ answers }) => answers.length).at(-1);
    const made = latest && fates.find((fate) => fate.batch_id === latest.detail.row.told.batch_id);
    // A correction names the batch that it corrects, whose caches it did not ask.
    const answers = latest ? [h("h3", {}, "What the sources said"),
      answersTable(latest.answers, (answer) => from(answer, latest.detail.row.told.revision > 1 ? null : made)).element] : [];
    return [h("h3", {}, "Batches"), shown.element, ...answers];
  }
}

const TIERS = { memory: "the task's memory", postgres: "the cache table", misses: "the source" };

// A message does not say which tier answered: its batch has counts of them all, which may leave one only.
function from(answer, batch) {
  if (answer.status === "not asked") return "nowhere";
  const counts = batch?.answered[answer.name];
  if (answer.is_stale) return "an expired entry: the source had failed";
  if (!counts) return "not known";
  const tiers = Object.keys(TIERS).filter((tier) => counts[tier] > 0);
  if (tiers.length === 1) return TIERS[tiers[0]];
  return tiers.length ? `one of (by its batch's messages): ${tiers.map((tier) => `${TIERS[tier]} ${number(counts[tier])}`).join(", ")}` : "not known";
}

const rank = (row) => [row.role === "input" ? 0 : row.role.startsWith("replay") || row.role.endsWith("replays") ? 2 : 1, row.told.attempts ?? 0, row.told.revision ?? 1, row.offset];

function order(one, other) {
  const [left, right] = [rank(one), rank(other)];
  const place = left.findIndex((value, at) => value !== right[at]);
  return place < 0 ? 0 : left[place] - right[place];
}

// Before and after, side by side: a column for each version, and what differs from the one before is marked.
function compared(details) {
  const versions = details.filter(({ detail }) => detail.fields && !detail.row.told.reason);
  const dead = details.filter(({ detail }) => detail.row.told.reason).map(({ detail: { row } }) => h("p", {},
    `Dead letter ${positionOf(row)}: ${row.told.reason} (${row.told.detail || "no detail"}), set aside at ${row.told.stage}, ${number(row.told.attempts)} attempts, ${timeOf(row.told.at)}.`));
  if (versions.length < 2) return dead;
  const names = [...new Set(versions.flatMap(({ detail }) => Object.keys(detail.fields)))];
  const shown = table("Before and after", ["Field", ...versions.map(({ detail: { row } }) => `${kindOf(row).split(";")[0]} ${positionOf(row)}`)], "");
  shown.element.classList.add("compared");
  shown.fill(names.map((name) => [name, ...versions.map(({ detail }, at) => {
    const value = detail.fields[name] ?? "";
    return at > 0 && value !== (versions[at - 1].detail.fields[name] ?? "")
      ? { value, changed: true, make: () => h("span", { class: "changed" }, h("span", { class: "unseen" }, "changed: "), value || "(not there)") } : value;
  })]));
  return [...dead, h("h3", {}, "Before and after"), shown.element];
}

// How far each topic has been searched.
class Trail {
  constructor(topic, isForward) {
    this.topic = topic;
    this.isForward = isForward;
    this.positions = "";
    this.messages = 0;
    this.bytes = 0;
    this.oldest = null;
    this.state = "not yet looked at";
    this.isDone = false;
  }

  take({ older, newer, messages, bytes, oldest_at: oldest, is_done: isDone }) {
    Object.assign(this, { positions: this.isForward ? newer : older, messages: this.messages + messages, bytes: this.bytes + bytes, isDone });
    if (oldest !== null && (this.oldest === null || oldest < this.oldest)) this.oldest = oldest;
    const all = this.isForward ? "all since that message's time" : "all of it";
    this.state = isDone ? all : "in part";
  }

  get cells() {
    return [this.topic.name, number(this.messages), (this.bytes / 1e6).toFixed(1), this.oldest === null ? "" : timeOf(this.oldest), this.positions.replaceAll(",", ", "), this.state];
  }
}

export async function open(root, parameters, signal) {
  const { topics, fields, note } = await ask("api/topics", { signal });
  const by = h("select", { name: "by" }, [...fields, POSITION].map((name) => h("option", { value: name, selected: name === parameters.get("by") }, name === POSITION ? "position: topic/partition/offset" : name)));
  const value = h("input", { name: "value", type: "search", required: true, maxlength: "500", value: parameters.get("value") ?? "" });
  const at = h("input", { name: "at", type: "datetime-local", step: "1", value: parameters.get("at") ?? "" });
  const said = h("p", { role: "status", id: "searched" });
  const far = table("How far it was searched", ["Topic", { title: "Messages", number: true }, { title: "MB", number: true }, "Back to", "Next offsets", "Searched"], "Nothing was searched yet.");
  const stop = h("button", { type: "button", disabled: true, onclick: () => stopping.abort() }, "Stop");
  const further = h("button", { type: "button", disabled: true, onclick: () => press() }, "Go on");
  const results = h("div", { id: "stories" });
  const stories = new Map();
  let trails = [];
  let asked = null;
  let stopping = new AbortController();

  root.append(
    h("h2", {}, "What happened to a message"),
    h("form", { class: "asked", onsubmit: (event) => {
      event.preventDefault();
      const next = tabHref("search", { by: by.value, value: value.value.trim(), at: at.value });
      if (window.location.hash === next) begin();
      else window.location.hash = next;
    } }, h("label", {}, "Search by", by), h("label", { class: "wide" }, "Value", value),
      h("label", {}, "Up to this time (empty: now)", at), h("button", { type: "submit" }, "Search")),
    h("div", { class: "buttons" }, stop, further), said,
    note ? h("p", { class: "quiet" }, note) : "", results, h("h2", {}, "How far it was searched"), far.element,
  );
  far.fill([]);
  signal.addEventListener("abort", () => stopping.abort());
  const count = () => [...stories.values()].reduce((sum, story) => sum + story.rows.size, 0);
  const tell = () => far.fill(trails.map((trail) => trail.cells));

  function add(row) {
    const origin = originOf(row) ?? row;
    const key = positionOf(origin);
    if (!stories.has(key)) {
      const story = new Story({ topic: origin.topic, partition: origin.partition, offset: origin.offset }, signal);
      stories.set(key, story);
      results.append(story.element);
    }
    stories.get(key).add(row);
    if (stories.get(key).element.open) stories.get(key).show();
  }

  async function addInput(origin) {
    try {
      add((await readMessage(origin, signal)).detail.row);
    } catch (failed) {
      if (failed.status !== 404) throw failed; // it has left its topic: its outputs are there
    }
  }

  // A position is that of an input message, or of what was made of one: the others are found by their origin.
  async function begin() {
    stopping.abort();
    stories.clear();
    results.replaceChildren();
    trails = [];
    tell();
    try {
      asked = { by: by.value, value: value.value.trim(), at: at.value ? instant(at.value).toISOString() : "" };
      let searched = topics;
      if (asked.by === POSITION) {
        const { detail } = await readMessage(readPosition(asked.value), signal);
        add(detail.row);
        const origin = originOf(detail.row);
        if (origin === null) throw new Error("this message does not say which input message it came from");
        asked = { by: "origin", value: positionOf(origin) };
        searched = topics.filter(({ role }) => role !== "input");
        if (detail.row.role !== "input") await addInput(origin);
      }
      trails = searched.map((topic) => new Trail(topic, asked.by === "origin"));
    } catch (failed) {
      if (!signal.aborted) write(said, `It cannot be searched for: ${failed.message}`);
      return;
    }
    await press();
  }

  async function press() {
    stopping = new AbortController();
    const end = Date.now() + PRESS_MS;
    stop.disabled = false;
    further.disabled = true;
    let why = "";
    try {
      while (Date.now() < end && count() < MOST_FOUND && trails.some((trail) => !trail.isDone)) {
        for (const trail of trails.filter(({ isDone }) => !isDone)) {
          write(said, `Searching ${trail.topic.name}; ${number(count())} messages found so far`);
          await step(trail, end);
          tell();
        }
      }
    } catch (failed) {
      if (signal.aborted) return;
      why = stopping.signal.aborted ? "Stopped. " : `The search has ended: ${failed.message}. `;
    }
    stop.disabled = true;
    const isAll = trails.every((trail) => trail.isDone);
    further.disabled = isAll;
    const left = asked.by === "origin" ? "What was published later was not searched yet." : "Older messages were not searched yet.";
    write(said, `${why}${number(count())} messages found. ${isAll ? "All that can hold more was searched." : left}`);
    if (stories.size === 1) [...stories.values()][0].element.open = true;
  }

  async function step(trail, end) {
    try {
      const found = await ask(`api/search?${query({ topic: trail.topic.name, ...asked, positions: trail.positions })}`, { signal: stopping.signal });
      trail.take(found);
      found.rows.forEach(add);
    } catch (failed) {
      if (failed.status === 404) Object.assign(trail, { isDone: true, state: failed.message });
      else if (failed.status === 429 && Date.now() < end) {
        write(said, failed.message);
        await new Promise((wake) => setTimeout(wake, WAIT_MS));
      } else throw failed;
    }
  }

  if (value.value) await begin();
}
