// The messages of the topics, newest first, a page at a time.
import { ask, h, instant, number, tabHref, write } from "./dom.js";
import { messageRow, timeOf } from "./message.js";

const BYTES = new Intl.NumberFormat(undefined, { maximumFractionDigits: 1 });

function field(label, input, wide = false) {
  return h("label", { class: wide ? "wide" : null }, label, input);
}

function form(topics, parameters, submit) {
  const chosen = parameters.get("topic") ?? topics[0].name;
  const made = {
    topic: h("select", { name: "topic" }, topics.map(({ name, role }) => h("option", { value: name, selected: name === chosen }, `${name} (${role})`))),
    partition: h("input", { name: "partition", inputmode: "numeric", pattern: "[0-9]{1,10}", size: "5", value: parameters.get("partition") ?? "" }),
    offset: h("input", { name: "offset", inputmode: "numeric", pattern: "[0-9]{1,19}", size: "10", value: parameters.get("offset") ?? "" }),
    at: h("input", { name: "at", type: "datetime-local", step: "1", value: parameters.get("at") ?? "" }),
    text: h("input", { name: "text", type: "search", maxlength: "500", value: parameters.get("text") ?? "" }),
  };
  return h("form", { class: "asked", onsubmit: (event) => { event.preventDefault(); submit(Object.fromEntries(Object.entries(made).map(([name, input]) => [name, input.value.trim()]))); } },
    field("Topic", made.topic), field("Partition (empty: all)", made.partition), field("Up to offset", made.offset), field("Up to this time", made.at),
    field("With this text, or name=value", made.text, true), h("button", { type: "submit" }, "Show"));
}

function looked({ rows, messages, bytes, oldest_at: oldest, is_done: isDone }, hasFilter) {
  if (messages === 0 && rows.length === 0) return isDone ? "There are no messages here." : "No message so far.";
  const back = oldest === null ? "" : `, the oldest of ${timeOf(oldest)}`;
  const fit = hasFilter ? `${number(rows.length)} fit` : `${number(rows.length)} shown`;
  const end = isDone ? " The topic has no more on this side." : hasFilter && rows.length < 50 ? " That is as far as one look goes: older and newer go on from there." : "";
  return `${fit}; looked at ${number(messages)} messages (${BYTES.format(bytes / 1e6)} MB)${back}.${end}`;
}

export async function open(root, parameters, signal) {
  const { topics, note } = await ask("api/topics", { signal });
  const said = h("p", { class: "quiet", role: "status", id: "looked" }, "Reading");
  const list = h("div", { id: "messages" });
  const turn = (text, go) => h("button", { type: "button", onclick: go }, text);
  let shown = null;
  const newest = turn("Newest", () => show({}));
  const newer = turn("Newer", () => show({ positions: shown.newer, newer: true }));
  const older = turn("Older", () => show({ positions: shown.older }));
  root.append(
    h("h2", {}, "Messages"),
    form(topics, parameters, (asked) => {
      const next = tabHref("messages", asked);
      if (window.location.hash === next) show({});
      else window.location.hash = next;
    }),
    note ? h("p", { class: "quiet" }, note) : "", said, list, h("p", { class: "buttons" }, newest, newer, older),
  );
  const text = parameters.get("text") ?? "";

  async function show(turned) {
    const asked = { topic: parameters.get("topic") ?? topics[0].name, text, ...turned };
    if (!turned.positions) {
      for (const name of ["partition", "offset"]) if (parameters.get(name)) asked[name] = parameters.get(name);
      if (parameters.get("at")) asked.at = instant(parameters.get("at")).toISOString();
    }
    for (const button of [newest, newer, older]) button.disabled = true;
    write(said, "Reading");
    try {
      const found = await ask(`api/messages?${new URLSearchParams(asked)}`, { signal });
      // Nothing newer yet: what is shown stays, and is continued from where the topic ends now.
      if (turned.newer && found.rows.length === 0 && shown) shown = { ...shown, newer: found.newer };
      else {
        shown = found;
        list.replaceChildren(...found.rows.map((row) => messageRow(row, signal)));
      }
      write(said, turned.newer && found.rows.length === 0 && found.is_done ? "There is nothing newer." : looked(found, text !== ""));
      older.disabled = !turned.newer && found.is_done;
      newest.disabled = false;
      newer.disabled = false;
    } catch (failed) {
      if (signal.aborted) return;
      list.replaceChildren();
      write(said, `The messages cannot be read: ${failed.message}`);
      newest.disabled = false;
    }
  }
  await show({});
}
