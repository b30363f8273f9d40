// The frame of the page: its tabs, the address behind the #, and the theme. A tab is a module that exports
// `open(root, parameters, signal)`: it fills `root`, and stops whatever it does when the signal is aborted.
import { h, tabHref } from "./dom.js";

const TABS = {
  now: { title: "Now", load: () => import("./now.js") },
  history: { title: "History", load: () => import("./history.js") },
  content: { title: "Content", load: () => import("./content.js") },
  batches: { title: "Batches", load: () => import("./batches.js") },
  batch: { load: () => import("./batch.js") },
  "dead-letters": { title: "Dead letters", load: () => import("./dead_letters.js") },
  partials: { title: "Partials", load: () => import("./partials.js") },
  messages: { title: "Messages", load: () => import("./messages.js") },
  search: { title: "Search", load: () => import("./search.js") },
  preview: { title: "Preview", load: () => import("./preview.js") },
};
const FIRST = "now";

let leaving = new AbortController();

// Airflow's tabs of a run and of a task open the page with their names in its query: it shows their batches.
function place() {
  if (!window.location.hash && window.location.search) {
    return { name: "batches", parameters: new URLSearchParams(`${window.location.search}&from=airflow`) };
  }
  const [name, query] = window.location.hash.slice(1).split("?");
  return { name: name in TABS ? name : FIRST, parameters: new URLSearchParams(query ?? "") };
}

function showTabs(current) {
  document.getElementById("tabs").replaceChildren(
    ...Object.entries(TABS).filter(([, tab]) => tab.title).map(([name, { title }]) =>
      h("li", {}, h("a", { href: tabHref(name), "aria-current": name === current ? "page" : null }, title))),
  );
}

async function show() {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const { name, parameters } = place();
  showTabs(name);
  const root = h("div", { class: `tab ${name}` });
  try {
    const tab = await TABS[name].load();
    if (signal.aborted) return;
    document.getElementById("tab").replaceChildren(root);
    await tab.open(root, parameters, signal);
  } catch (failed) {
    if (signal.aborted) return;
    document.getElementById("tab").replaceChildren(root);
    root.append(h("p", { role: "alert", class: "verdict down" }, `This cannot be shown: ${failed.message}`));
  }
}

// As Airflow is: its document has the class `dark`, also when the setting follows the system.
function followTheme() {
  const host = window.parent.document.documentElement;
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const apply = () => document.documentElement.classList.toggle("dark", window.parent === window ? system.matches : host.classList.contains("dark"));
  new MutationObserver(apply).observe(host, { attributes: true, attributeFilter: ["class"] });
  system.addEventListener("change", apply);
  apply();
}

followTheme();
document.querySelector("[data-skip]").addEventListener("click", (event) => {
  event.preventDefault();
  document.getElementById("tab").focus();
});
window.addEventListener("hashchange", show);
show();
