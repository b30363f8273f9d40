// What messages held in a range of time, counted: a map, tables with bars, and the most frequent values over time.
import { loadBokeh, onTheme, theme, TimePlots } from "./charts.js";
import { ask, h, keepFresh, moment, number, share, table, tabLink, write } from "./dom.js";
import { rangeLinks, rangeOf } from "./ranges.js";

const EVERY_MS = 60_000;
const ROWS = 15;
const DEAD_LETTERS = "dead letters";

const regions = new Intl.DisplayNames(undefined, { type: "region", fallback: "code" });

function nameOf(code) {
  try {
    return `${regions.of(code)} (${code})`;
  } catch {
    return code; // not a code of a country
  }
}

// The projection "Equal Earth", in which areas compare.
function project(longitude, latitude) {
  const angle = Math.asin((Math.sqrt(3) / 2) * Math.sin((latitude * Math.PI) / 180));
  const [square, six] = [angle ** 2, angle ** 6];
  const x = (2 * Math.sqrt(3) * ((longitude * Math.PI) / 180) * Math.cos(angle)) / (3 * (1.340264 - 3 * 0.081106 * square + six * (7 * 0.000893 + 9 * 0.003796 * square)));
  const y = angle * (1.340264 - 0.081106 * square + six * (0.000893 + 0.003796 * square));
  return `${(100 * x).toFixed(1)},${(-100 * y).toFixed(1)}`;
}

// Elements of SVG have a name space of their own, which an empty one tells.
const blank = h("template");
blank.innerHTML = "<svg></svg>";
const NAMESPACE = blank.content.firstChild.namespaceURI;

function svg(tag, attributes, ...children) {
  const made = document.createElementNS(NAMESPACE, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function outline(rings) {
  return rings.map((ring) => {
    const corners = [];
    for (let at = 0; at < ring.length; at += 2) corners.push(project(ring[at], ring[at + 1]));
    return `M${corners.join("L")}Z`;
  }).join("");
}

// Between two colours, by the logarithm of the count: one country has most of the messages more often than not.
function shade(count, most) {
  const part = most > 1 ? Math.log(count) / Math.log(most) : 1;
  const of = (colour) => [1, 3, 5].map((at) => Number.parseInt(colour.slice(at, at + 2), 16));
  const [least, largest] = [of(theme().least), of(theme().most)];
  return `rgb(${least.map((value, at) => Math.round(value + (largest[at] - value) * part)).join(",")})`;
}

async function makeMap(signal) {
  const { countries } = await ask("world.json", { signal });
  const shapes = countries.map(([code, name, rings]) => {
    const title = svg("title", {});
    return { code, name, title, path: svg("path", { d: outline(rings), "data-code": code }, title) };
  });
  const element = svg("svg", { viewBox: "-272 -135 544 240", class: "map", role: "img", "aria-label": "Map of the world: darker or brighter countries have more messages. The table has the same figures." }, ...shapes.map(({ path }) => path));
  let shown = new Map();
  const paint = () => {
    const most = Math.max(1, ...shown.values());
    for (const { code, name, title, path } of shapes) {
      const count = shown.get(code) ?? 0;
      path.setAttribute("fill", count ? shade(count, most) : theme().none);
      path.setAttribute("stroke", theme().line);
      write(title, `${name}: ${number(count)} messages`);
    }
  };
  onTheme(paint, signal);
  return {
    element,
    fill(counts) {
      shown = new Map(counts.map(({ values: [code], messages }) => [code, messages]));
      paint();
    },
  };
}

const bar = (part) => ({ key: part, make: () => h("span", { class: "bar", style: `width: ${(100 * part).toFixed(1)}%` }) });

// One column: each value with its messages, and its share of all that are counted.
function listing(counted) {
  const isLetter = counted.name === DEAD_LETTERS;
  const heads = isLetter ? ["Reason", "Detail, without what differs"] : [counted.is_country ? "Country" : "Value"];
  const made = table(counted.title, [...heads, ...["Messages", "Share"].map((title) => ({ title, number: true })), "As a bar"], "None in this range.");
  return {
    element: made.element,
    fill({ counts, others }, all) {
      const total = counts.reduce((sum, { messages }) => sum + messages, others);
      const cells = (values) => (isLetter ? values : [counted.is_country ? nameOf(values[0]) : values[0]]);
      const row = (texts, messages) => [...texts, number(messages), share(messages / total), bar(messages / total)];
      const first = all ? counts : counts.slice(0, ROWS);
      const rest = total - first.reduce((sum, { messages }) => sum + messages, 0);
      const rows = first.map(({ values, messages }) => row(cells(values), messages));
      made.fill(rest ? [...rows, row(isLetter ? ["all others", ""] : ["all others"], rest)] : rows);
      return counts.length;
    },
  };
}

// Two columns: a row for each value of the first, a column for each of the second, the most frequent ones first.
function crossing(counted) {
  const place = h("div");
  let levels = null;
  let made = null;
  return {
    element: place,
    fill({ counts, others }, all) {
      const totals = { rows: new Map(), columns: new Map() };
      const cells = new Map();
      for (const { values: [row, column], messages } of counts) {
        totals.rows.set(row, (totals.rows.get(row) ?? 0) + messages);
        totals.columns.set(column, (totals.columns.get(column) ?? 0) + messages);
        cells.set(JSON.stringify([row, column]), messages);
      }
      const ordered = (map) => [...map.entries()].sort((one, other) => other[1] - one[1]).map(([value]) => value);
      const columns = ordered(totals.columns);
      if (JSON.stringify(columns) !== levels) {
        levels = JSON.stringify(columns);
        made = table(counted.title, [counted.columns[0].replaceAll("_", " "), ...[...columns, "Messages"].map((title) => ({ title, number: true }))], "None in this range.");
        place.replaceChildren(made.element);
      }
      const rows = ordered(totals.rows);
      const shown = (all ? rows : rows.slice(0, ROWS)).map((row) => [
        row, ...columns.map((column) => share((cells.get(JSON.stringify([row, column])) ?? 0) / totals.rows.get(row))), number(totals.rows.get(row)),
      ]);
      made.fill(others ? [...shown, ["rarer combinations", ...columns.map(() => ""), number(others)]] : shown);
      return rows.length;
    },
  };
}

class Section {
  #shown = null;

  constructor(counted, map) {
    const isPair = counted.columns.length === 2 && counted.name !== DEAD_LETTERS;
    this.map = map;
    this.list = isPair ? crossing(counted) : listing(counted);
    this.all = h("input", { type: "checkbox", onchange: () => this.show(this.#shown) });
    this.choice = h("label", { hidden: true }, this.all, " all of them");
    this.plots = h("div", { class: "plots" });
    const more = counted.name === DEAD_LETTERS ? h("p", { class: "quiet" }, tabLink("dead-letters", {}, "The dead letters themselves")) : null;
    this.element = h("section", { class: "counted", "data-name": counted.name }, h("h2", {}, counted.title), map?.element,
      h("div", { class: counted.name === DEAD_LETTERS ? null : "beside" }, h("div", {}, this.list.element, this.choice, more), this.plots));
  }

  show(counted) {
    this.#shown = counted;
    this.map?.fill(counted.counts);
    this.choice.hidden = this.list.fill(counted, this.all.checked) <= ROWS;
  }
}

function make(root, chosen) {
  const made = {
    summary: h("p", { class: "quiet", "aria-live": "polite", id: "summary" }, "Loading"),
    sections: h("div"),
    byName: new Map(),
  };
  root.append(
    h("h2", { class: "unseen" }, "Content"),
    rangeLinks("content", chosen),
    made.summary, made.sections);
  return made;
}

async function sectionOf(made, counted, signal) {
  let section = made.byName.get(counted.name);
  if (!section) {
    section = new Section(counted, counted.is_country ? await makeMap(signal) : null);
    made.byName.set(counted.name, section);
    made.sections.append(section.element);
  }
  return section;
}

// The most frequent values over time.
function draw(section, bokeh, counted, held, signal) {
  if (!counted.counts.length) return;
  section.time ??= new TimePlots(bokeh, section.plots, signal);
  section.time.cover(Date.parse(held.starts_at), Date.parse(held.ends_at));
  section.time.draw(
    { name: `content-${counted.columns.join("-")}`, title: `${counted.title}, over time`, axis: "messages/s", unit: "messages/s", decimals: 2, least: 0.1 },
    { at: held.at, lines: counted.lines, breaches: [] },
  );
}

export async function open(root, parameters, signal) {
  const chosen = rangeOf(parameters);
  const made = make(root, chosen);
  const refresh = async () => {
    try {
      const held = await ask(`api/content?range=${chosen}`, { signal });
      for (const counted of held.counted) (await sectionOf(made, counted, signal)).show(counted);
      const from = `${moment(held.starts_at)} to ${moment(held.ends_at)}`;
      write(made.summary, held.batches
        ? `${number(held.messages)} messages, ${from}.`
        : `Nothing was published from ${from}: what messages hold is counted as soon as something is.`);
      if (!held.batches) return;
      const bokeh = await loadBokeh();
      if (signal.aborted) return;
      for (const counted of held.counted) draw(made.byName.get(counted.name), bokeh, counted, held, signal);
    } catch (failed) {
      if (!signal.aborted) write(made.summary, `The figures cannot be read: ${failed.message}.`);
    }
  };
  await refresh();
  await keepFresh(refresh, EVERY_MS, signal);
}
