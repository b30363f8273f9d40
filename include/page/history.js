// What the live stream did in a range of time, from rollups: plots that share one axis, and the service levels missed.
import { loadBokeh, TimePlots } from "./charts.js";
import { airflowLink, ask, h, keepFresh, moment, number, table, write } from "./dom.js";
import { rangeLinks, rangeOf } from "./ranges.js";

const EVERY_MS = 30_000;

const scaled = (columns, factor) =>
  Object.fromEntries(Object.entries(columns).map(([name, column]) => [name, column.map((value) => (value === null ? null : value * factor))]));

// `lines` takes the columns of a plot from the answer; `level` names the service level that it is judged by.
const PLOTS = [
  { name: "throughput", title: "Throughput", unit: "messages/s", decimals: 1, lines: (d) => ({ "messages/s": d.messages_per_second }) },
  { name: "freshness", title: "Freshness", said: "From a message's time to its publication.", unit: "s", decimals: 2, lines: (d) => d.freshness, level: "freshness" },
  { name: "latency", title: "Latency", said: "From claim to publication, by message.", unit: "s", decimals: 2, lines: (d) => d.latency },
  { name: "hit-rates", title: "Hit rates", said: "Messages whose answer no source was asked for, by cache.", unit: "%", decimals: 1, lines: (d) => scaled(d.hit_rates, 100), level: "hit-rate", scale: 100 },
  { name: "errors", title: "Errors by reason", said: "Of messages that are partial or dead; one may have several.", unit: "% of messages", decimals: 2, lines: (d) => scaled(d.error_rates, 100), level: "error-rate", scale: 100 },
  { name: "lag", title: "Lag", said: "The most messages that a claim left waiting.", unit: "messages", lines: (d) => ({ lag: d.lag }), level: "lag" },
  { name: "batch-size", title: "Batch size", unit: "messages", lines: (d) => ({ mean: d.mean_batch, largest: d.largest_batch }) },
  { name: "memory", title: "Memory", said: "The peak of each stage's process, until its end.", unit: "MB", lines: (d) => scaled(d.peak_rss_bytes, 1e-6) },
];

const limits = new Intl.NumberFormat(undefined, { maximumFractionDigits: 2 });

function shownOf(plot, { history, levels }) {
  const wanted = plot.level === undefined ? undefined : levels[plot.level] * (plot.scale ?? 1);
  const breaches = plot.level === undefined ? [] : history.breaches.filter((breach) => breach.level === plot.level);
  return {
    at: history.at,
    lines: plot.lines(history),
    breaches: breaches.map((breach) => Date.parse(breach.starts_at)),
    level: wanted === undefined ? undefined : { value: wanted, text: `${plot.level === "hit-rate" ? "at least" : "at most"} ${limits.format(wanted)} ${plot.unit}` },
  };
}

function make(root, chosen) {
  const made = {
    summary: h("p", { class: "quiet", "aria-live": "polite", id: "summary" }, "Loading"),
    plots: h("div", { class: "plots" }),
    missed: table("Service levels missed", ["Hour", "What was missed"], "None in this range."),
    more: h("p", { class: "quiet", hidden: true }, "Only the latest are shown: a shorter range has all of them."),
  };
  const button = (id, text, act) => h("button", { type: "button", id, onclick: () => made.all && act(made.all) }, text);
  root.append(
    h("h2", { class: "unseen" }, "History"),
    rangeLinks("history", chosen),
    made.summary,
    h("div", { class: "choices", role: "group", "aria-label": "Zoom of all plots" },
      button("zoom-in", "Zoom in", (all) => all.zoom(0.5)),
      button("zoom-out", "Zoom out", (all) => all.zoom(2)),
      button("whole", "Whole range", (all) => all.reset())),
    made.plots,
    h("section", { id: "missed" }, h("h2", {}, "Service levels missed"), made.missed.element, made.more,
      h("p", { class: "quiet" }, "Each full hour is judged by ", airflowLink("dags/stacklens_metrics_rollup", "stacklens_metrics_rollup"), ".")),
  );
  return made;
}

export async function open(root, parameters, signal) {
  const chosen = rangeOf(parameters);
  const made = make(root, chosen);
  const library = loadBokeh();
  library.catch(() => {}); // told of when it is waited for
  const refresh = async () => {
    try {
      const shown = await ask(`api/history?range=${chosen}`, { signal });
      const { history } = shown;
      const from = `${moment(history.starts_at)} to ${moment(history.ends_at)}`;
      made.missed.fill(history.breaches.map((breach) => [moment(breach.starts_at), breach.text]));
      made.more.hidden = !history.more_breaches;
      const bokeh = await library;
      if (signal.aborted) return;
      made.all ??= new TimePlots(bokeh, made.plots, signal);
      made.all.cover(Date.parse(history.starts_at), Date.parse(history.ends_at));
      for (const plot of PLOTS) made.all.draw(plot, shownOf(plot, shown));
      write(made.summary, history.batches
        ? `${number(history.messages)} messages in ${number(history.batches)} batches, ${from}. Drag over a plot to zoom all of them.`
        : `Nothing was published from ${from}: the plots fill as soon as something is.`);
    } catch (failed) {
      if (!signal.aborted) write(made.summary, `The figures cannot be read: ${failed.message}.`);
    }
  };
  await refresh();
  await keepFresh(refresh, EVERY_MS, signal);
}
