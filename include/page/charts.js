// Plots over time, drawn by BokehJS, which is loaded when the first one is shown: all share one range of time, follow the
// theme, and have their figures in a table, too. And the colours of whatever else is drawn.
import { ask, h, local, moment, table, zoneName } from "./dom.js";

// Told apart on the ground of each theme, and from each other also without colours: by the pattern of their lines.
const THEMES = {
  light: {
    ground: "#ffffff", text: "#1a202c", grid: "#e2e8f0", line: "#718096", breach: "#a61b1b", least: "#dbe7f5", most: "#123a75", none: "#edf2f7",
    series: ["#1f5fa8", "#b35900", "#1c7a4a", "#a3268c", "#7a6000", "#5b4db8", "#0b7a86", "#a61b1b", "#4a5568"],
  },
  dark: {
    ground: "#111418", text: "#e2e8f0", grid: "#2a323d", line: "#718096", breach: "#ff8f8f", least: "#1d3350", most: "#a9ccff", none: "#20262f",
    series: ["#7cb4ff", "#ffb066", "#6fd699", "#f08ad8", "#e6cf5c", "#b3a6ff", "#5fd3de", "#ff8f8f", "#a0aec0"],
  },
};
const PATTERNS = ["solid", "dashed", "dotted"];
const HEIGHT = 260;
const HOUR_MS = 3_600_000;

export const theme = () => THEMES[document.documentElement.classList.contains("dark") ? "dark" : "light"];

// Calls back whenever the theme changes, until the signal is aborted.
export function onTheme(change, signal) {
  const observer = new MutationObserver(change);
  observer.observe(document.documentElement, { attributes: true, attributeFilter: ["class"] });
  signal.addEventListener("abort", () => observer.disconnect());
}

let loading = null;

// BokehJS, loaded once.
export function loadBokeh() {
  const load = async () => {
    for (const src of await ask("api/charts")) {
      await new Promise((resolve, reject) => {
        const fail = () => reject(new Error("the plots' library cannot be loaded"));
        document.head.append(h("script", { src, onload: resolve, onerror: fail }));
      });
    }
    window.Bokeh.set_log_level("error");
    return window.Bokeh;
  };
  loading ??= load().catch((failed) => {
    loading = null;
    throw failed;
  });
  return loading;
}

const colour = (number) => theme().series[number % THEMES.light.series.length];
const pattern = (number) => PATTERNS[number % PATTERNS.length];

function legendItem([name, number]) {
  const style = `border-top: 3px ${pattern(number)} ${colour(number)}`;
  return h("li", {}, h("span", { class: "swatch", style, "aria-hidden": "true" }), name);
}

// A set of plots over one range of time: zooming into one zooms all. `signal` ends them.
export class TimePlots {
  #bokeh; #root; #plots = new Map(); #whole = [0, 1]; #shown = [0, 1];

  constructor(bokeh, root, signal) {
    this.#bokeh = bokeh;
    this.#root = root;
    onTheme(() => this.#plots.forEach((plot) => plot.redraw()), signal);
    signal.addEventListener("abort", () => this.#plots.forEach((plot) => plot.remove()));
  }

  // The whole range of time, in milliseconds; a part of it that is zoomed into stays.
  cover(start, end) {
    const isZoomed = String(this.#shown) !== String(this.#whole);
    this.#whole = [local(start), local(end)];
    if (!isZoomed) this.reset();
  }

  reset() {
    this.#see(...this.#whole);
  }

  // Shows `share` of what is shown now: less than 1 is closer, more is further away.
  zoom(share) {
    const [start, end] = this.#shown;
    const [first, last] = this.#whole;
    const half = Math.min((end - start) * share, last - first) / 2;
    const middle = Math.min(Math.max((start + end) / 2, first + half), last - half);
    this.#see(middle - half, middle + half);
  }

  // Each plot is a document of Bokeh's, which shares no range with another: they are kept the same.
  #see(start, end) {
    this.#shown = [start, end];
    this.#plots.forEach((plot) => plot.see(this.#shown, this.#whole));
  }

  // Draws a plot, or brings it up to date. `shown` has `lines`, a column of numbers by name; `at`, their times in
  // milliseconds; `breaches`, hours to be marked by their starts; and perhaps `level`, what is wanted.
  draw(plot, shown) {
    let drawn = this.#plots.get(plot.name);
    if (!drawn) {
      drawn = new Plot(this.#bokeh, plot, (start, end) => this.#see(start, end));
      drawn.see(this.#shown, this.#whole);
      this.#plots.set(plot.name, drawn);
      this.#root.append(drawn.element);
    }
    drawn.show(shown);
  }
}

class Plot {
  #bokeh; #plot; #zoomed; #range; #seen; #isSeeing = false; #target; #legend; #details; #figures; #source; #figure; #view; #shown; #made = "";

  // `zoomed` is told of what somebody has zoomed to.
  constructor(bokeh, plot, zoomed) {
    this.#bokeh = bokeh;
    this.#plot = plot;
    this.#zoomed = zoomed;
    this.#target = h("div", { class: "drawing", role: "img", "aria-label": `${plot.title}, in ${plot.unit}, over time. The same figures are in the table below.` });
    this.#legend = h("ul", { class: "legend" });
    this.#figures = h("div");
    this.#details = h("details", { ontoggle: () => this.#list() }, h("summary", {}, `Figures of ${plot.title}`), this.#figures);
    this.element = h("section", { class: "plot", id: `plot-${plot.name}` }, h("h2", {}, plot.title), plot.said && h("p", { class: "quiet" }, plot.said), this.#target, this.#legend, this.#details);
  }

  see([start, end], [first, last]) {
    this.#seen = { start, end, reset_start: first, reset_end: last };
    this.#isSeeing = true;
    this.#range?.setv(this.#seen);
    this.#isSeeing = false;
  }

  show(shown) {
    this.#shown = shown;
    const made = JSON.stringify([Object.keys(shown.lines), shown.breaches, shown.level]);
    if (made !== this.#made) {
      this.#made = made;
      this.redraw();
    } else {
      this.#source.data = this.#data();
    }
    this.#list();
  }

  // Bokeh's own names of columns are x, when and y0, y1 …: a name of ours may be anything.
  #data() {
    const { at, lines } = this.#shown;
    const columns = Object.values(lines).map((column, number) => [`y${number}`, column.map((value) => value ?? NaN)]);
    return { x: at.map(local), when: at.map((ms) => moment(new Date(ms))), ...Object.fromEntries(columns) };
  }

  redraw() {
    this.remove();
    const bokeh = this.#bokeh, plot = this.#plot;
    const { lines, breaches, level } = this.#shown;
    const names = Object.keys(lines);
    this.#source = new bokeh.ColumnDataSource({ name: plot.name, data: this.#data() });
    const range = this.#range = new bokeh.Range1d(this.#seen);
    range.change.connect(() => {
      if (!this.#isSeeing && range === this.#range) this.#zoomed(range.start, range.end);
    });
    this.#figure = bokeh.Plotting.figure({
      name: plot.name, height: HEIGHT, sizing_mode: "stretch_width", x_axis_type: "datetime", x_range: range,
      y_range: new bokeh.DataRange1d({ start: 0, min_interval: plot.least ?? 1, only_visible: true }),
      x_axis_label: `Time, ${zoneName}`, y_axis_label: plot.axis ?? `${plot.title}, ${plot.unit}`, tools: [], toolbar_location: "above",
      output_backend: "canvas",
    });
    this.#figure.toolbar.logo = null;
    for (const start of breaches) {
      this.#figure.add_layout(new bokeh.BoxAnnotation({
        left: local(start), right: local(start + HOUR_MS), fill_color: theme().breach, fill_alpha: 0.18, line_color: theme().breach, line_alpha: 0.6,
      }));
    }
    if (level) {
      this.#figure.add_layout(new bokeh.Span({ location: level.value, dimension: "width", line_color: theme().breach, line_dash: "dashed", line_width: 1.5 }));
    }
    const drawn = names.map((name, number) => this.#figure.line({ field: "x" }, { field: `y${number}` }, {
      source: this.#source, line_color: colour(number), line_dash: pattern(number), line_width: 2,
    }));
    // A value between two that are not known is a point: a line would not show it.
    names.forEach((name, number) => this.#figure.scatter({ field: "x" }, { field: `y${number}` }, { source: this.#source, size: 3, fill_color: colour(number), line_color: null }));
    const { BoxZoomTool, PanTool, ResetTool, HoverTool } = bokeh;
    const box = new BoxZoomTool({ dimensions: "width" });
    const hover = new HoverTool({
      mode: "vline", renderers: drawn.slice(0, 1),
      tooltips: [["", "@when"], ...names.map((name, number) => [name, `@y${number}{0,0.${"0".repeat(plot.decimals ?? 0)}} ${plot.unit}`])],
    });
    this.#figure.add_tools(box, new PanTool({ dimensions: "width" }), new ResetTool(), hover);
    // A finger scrolls the page.
    this.#figure.toolbar.active_drag = window.matchMedia("(pointer: coarse)").matches ? null : box;
    this.#paint();
    const figure = this.#figure;
    bokeh.Plotting.show(figure, this.#target).then((view) => {
      if (figure === this.#figure) this.#view = view;
      else view.remove(); // it took so long that there is another one by now, or nobody looks any more
    });
    const levels = level ? [h("li", {}, h("span", { class: "swatch wanted", "aria-hidden": "true" }), `wanted: ${level.text}`)] : [];
    const missed = breaches.length ? [h("li", {}, h("span", { class: "swatch missed", "aria-hidden": "true" }), "hours that missed it")] : [];
    this.#legend.replaceChildren(...names.map((name, number) => legendItem([name, number])), ...levels, ...missed);
  }

  #paint() {
    const { ground, text, grid, line } = theme();
    const figure = this.#figure;
    figure.setv({ background_fill_color: ground, border_fill_color: ground, outline_line_color: line });
    const [times] = figure.below;
    times.formatter = new this.#bokeh.DatetimeTickFormatter({ minutes: "%H:%M", hourmin: "%H:%M", hours: "%H:%M", days: "%d %b", months: "%b %Y" });
    for (const axis of [...figure.below, ...figure.left]) {
      axis.setv?.({ axis_label_text_color: text, major_label_text_color: text, axis_line_color: line, major_tick_line_color: line, minor_tick_line_color: null });
    }
    for (const one of figure.center) if ("grid_line_color" in one) one.grid_line_color = grid;
  }

  #list() {
    if (!this.#details.open) return;
    const { at, lines } = this.#shown;
    const names = Object.keys(lines);
    if (this.#figures.dataset.names !== JSON.stringify(names)) {
      this.#figures.dataset.names = JSON.stringify(names);
      this.table = table(`Figures of ${this.#plot.title}, in ${this.#plot.unit}`, ["Time", ...names.map((title) => ({ title, number: true }))], "None.");
      this.#figures.replaceChildren(this.table.element);
    }
    const format = new Intl.NumberFormat(undefined, { maximumFractionDigits: this.#plot.decimals ?? 0 });
    const rows = at.map((ms, row) => [moment(new Date(ms)), ...Object.values(lines).map((column) => (column[row] === null ? "" : format.format(column[row])))]);
    this.table.fill(rows.reverse());
  }

  remove() {
    this.#view?.remove();
    this.#view = undefined;
    this.#target.replaceChildren();
    // Bokeh keeps every document that it has made.
    const { documents } = this.#bokeh;
    const place = documents.indexOf(this.#figure?.document);
    if (place >= 0) documents.splice(place, 1);
    this.#figure = undefined;
  }
}
