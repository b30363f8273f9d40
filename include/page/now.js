// How enrichment is at this moment. It asks every few seconds and changes only the texts that have changed.
import { logLink, runLink } from "./batch_parts.js";
import { pausedNote } from "./dialog.js";
import { airflowLink, ask, day, h, keepFresh, moment, number, replace, runPath, seconds, share, table, write } from "./dom.js";
import { mendButton } from "./trigger.js";

const EVERY_MS = 5_000;
const DAG = "stacklens_enrichment";
const RENEWED_BY = { geo: "stacklens_geoip_refresh" };
// What Airflow has, and not the server of this page: whether its DAG is paused, and how its last runs have ended.
const ENDED = `../api/v2/dags/${DAG}/dagRuns?order_by=-run_after&limit=10&state=success&state=failed`;
const WITHIN_MS = 3_600_000; // of all runs that there ever were Airflow would count how many they are
const RUNS_EVERY_MS = 15_000; // this costs Airflow more than all the rest
const SEVERITY = ["healthy", "degraded", "down"];

const remedyOf = ({ text, dag_id: dagId, conf, tab }) => h("li", {}, text,
  tab ? [" ", h("a", { href: `#${tab}` }, "See them")] : null, dagId ? [" ", mendButton(dagId, conf, `Start ${dagId}`).make()] : null);

function finding(found) {
  if (found.isPaused) return pausedItem();
  if (found.failedRun) return h("li", {}, found.text, " (", runLink(found.failedRun, "its run").make(), ")");
  const { text, remedies, tab, dag_id: dagId, run_id: runId, label } = found;
  const batch = { dag_id: dagId, run_id: runId };
  const where = runId ? [" (", h("a", { href: `#${tab}` }, "batch"), ", ", runLink(batch, "its run").make(), ", ", logLink(batch, label).make(), ")"] : null;
  return h("li", {}, text, where, remedies.length ? h("ul", { class: "remedies" }, remedies.map(remedyOf)) : null);
}

const pausedItem = () => h("li", {}, pausedNote(DAG, `${DAG} is paused: nothing is enriched until somebody unpauses it.`), " (", airflowLink(runPath(DAG), DAG), ")");

function figure([name, value, path, renewedBy]) {
  const renewing = renewedBy ? [" ", mendButton(renewedBy, {}, "Refresh").make()] : null;
  return h("div", {}, h("dt", {}, name), h("dd", {}, path ? airflowLink(path, value) : value, renewing));
}

function figuresOf({ recent, last }) {
  const shown = [
    ["Messages/s", number(recent.messages_per_second)],
    ["Fully enriched", share(recent.fully_enriched)],
    ["With an error or dead", share(recent.error_rate)],
    ["Dead letters", share(recent.dead_letter_rate)],
    ["Answered by caches", share(recent.hit_rate)],
    ["Published within, half of them", seconds(recent.freshness.p50)],
    ["Published within, 95 % of them", seconds(recent.freshness.p95)],
    ["Batches", number(recent.batches)],
  ];
  if (last === null) return [...shown, ["Last published", "nothing yet"]];
  const builds = Object.entries(last.source_builds).map(([name, build]) => [`Build of ${name}`, dated(build), null, RENEWED_BY[name]]);
  return [...shown, ["Last published", moment(last.published_at), runPath(last.dag_id, last.run_id)], ...builds];
}

// The build of a MaxMind database ends with the time at which it was made, in seconds since the epoch.
function dated(build) {
  const found = /^(.*)-(\d{9,10})$/.exec(build);
  return found ? `${found[1]}, ${day(new Date(1000 * Number(found[2])))}` : build;
}

function cacheRows(hitRates) {
  return Object.entries(hitRates).map(([name, tiers]) => [
    name, share(tiers.memory), share(tiers.postgres), share(Math.max(0, 1 - tiers.all)),
  ]);
}

function make(root) {
  const made = {
    at: h("p", { class: "quiet", id: "at" }, "Loading"),
    health: h("strong", { id: "health" }),
    summary: h("span", { id: "summary" }),
    findings: h("ul", { id: "findings" }),
    minutes: h("span", {}, "5"),
    figures: h("dl", { class: "figures", id: "figures" }),
    lag: table("What waits", ["Partition", { title: "Messages", number: true }, "The oldest is of"], "Nothing waits."),
    caches: table("Who answered", ["Enrichment", ...["Memory", "Table", "Source"].map((title) => ({ title, number: true }))], "No look-ups in these minutes."),
    errors: table("Errors by reason", ["Reason", { title: "Messages", number: true }], "None in these minutes."),
  };
  made.verdict = h("section", { class: "verdict", id: "verdict", "aria-live": "polite", "aria-atomic": "true" }, made.health, " ", made.summary);
  made.matter = h("section", { hidden: true }, h("h2", {}, "What is the matter"), made.findings);
  root.append(
    made.at, made.verdict, made.matter,
    h("section", {}, h("h2", {}, "The last ", made.minutes, " minutes"), made.figures),
    h("section", { id: "lag" }, h("h2", {}, "What waits"), made.lag.element),
    h("section", { id: "caches" }, h("h2", {}, "Who answered"), made.caches.element),
    h("section", { id: "errors" }, h("h2", {}, "Errors by reason"), made.errors.element),
  );
  return made;
}

// Runs that fail before there is a batch leave nothing in the ledger. Where a batch is at fault, its finding says more.
function foundByAirflow(dag, runs, isOfBatch) {
  if (dag.is_paused) return [{ health: "down", text: `${DAG} is paused`, isPaused: true }];
  const well = runs.findIndex((run) => run.state !== "failed");
  const failed = well < 0 ? runs.length : well;
  if (failed === 0 || isOfBatch) return [];
  const text = failed === 1 ? `the last run of ${DAG} failed` : `the last ${number(failed)} runs of ${DAG} failed, one after the other`;
  const failedRun = { dag_id: DAG, run_id: runs[0].dag_run_id };
  return [{ health: failed === 1 ? "degraded" : "down", text: `${text}: the log of its first task says why`, failedRun }];
}

function show(made, verdict, now, dag, runs) {
  const own = foundByAirflow(dag, runs, verdict.findings.some((found) => found.run_id));
  const isWorse = own.length > 0 && SEVERITY.indexOf(own[0].health) > SEVERITY.indexOf(verdict.health);
  const isSaid = own.length > 0 && (isWorse || dag.is_paused);
  const health = isWorse ? own[0].health : verdict.health;
  const findings = [...own, ...verdict.findings];
  made.verdict.className = `verdict ${health}`;
  write(made.health, health);
  write(made.summary, isSaid ? own[0].text : verdict.summary);
  made.matter.hidden = findings.length === 0;
  replace(made.findings, findings, finding);
  if (now === null) return;
  write(made.at, `As of ${moment(now.at)}`);
  write(made.minutes, number(now.recent.minutes));
  replace(made.figures, figuresOf(now), figure);
  made.lag.fill(
    now.backlog.filter((one) => one.waiting > 0).map((one) => [String(one.partition), number(one.waiting), moment(one.oldest_at)]),
    now.kafka_error ? "The brokers do not say." : `Nothing waits in ${now.backlog.length} partitions.`,
  );
  made.caches.fill(cacheRows(now.recent.hit_rates));
  const errors = Object.entries(now.recent.errors_by_reason).sort((one, other) => other[1] - one[1]);
  made.errors.fill(errors.map(([reason, count]) => [reason, number(count)]));
}

export async function open(root, parameters, signal) {
  const made = make(root);
  let runs = [], runsAskedAt = 0;
  const refresh = async () => {
    try {
      const [shown, dag] = await Promise.all([ask("api/now", { signal }), ask(`../api/v2/dags/${DAG}`, { signal })]);
      show(made, shown.verdict, shown.now, dag, runs);
      if (Date.now() - runsAskedAt > RUNS_EVERY_MS) {
        runsAskedAt = Date.now();
        const since = new Date(runsAskedAt - WITHIN_MS).toISOString();
        const ended = await ask(`${ENDED}&run_after_gte=${since}`, { signal }).catch((failed) => {
          if (failed.status === 403) return { dag_runs: [] }; // who may see the DAG need not see its runs
          throw failed;
        });
        runs = ended.dag_runs;
        show(made, shown.verdict, shown.now, dag, runs);
      }
    } catch (failed) {
      if (signal.aborted) return;
      made.verdict.className = "verdict";
      write(made.health, "unknown");
      write(made.summary, `the figures cannot be read: ${failed.message}`);
    }
  };
  await refresh();
  await keepFresh(refresh, EVERY_MS, signal);
}
