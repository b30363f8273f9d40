// The ranges of time of which the server has rollups, and the links between them.
import { h, tabHref } from "./dom.js";

const RANGES = { "1h": "1 hour", "6h": "6 hours", "24h": "24 hours", "7d": "7 days", "30d": "30 days" };
const FIRST = "24h";

export const rangeOf = (parameters) => (parameters.get("range") in RANGES ? parameters.get("range") : FIRST);

export const rangeLinks = (tab, chosen) => h("nav", { class: "choices", "aria-label": "Range of time" },
  Object.entries(RANGES).map(([name, title]) =>
    h("a", { href: tabHref(tab, { range: name }), "aria-current": name === chosen ? "true" : null }, title)));
