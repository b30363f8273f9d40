// What the tabs of batches share: their states, offsets and links into Airflow's UI.
import { airflowLink, ask, h, number, openInAirflow, runPath, tabLink } from "./dom.js";

export const LIVE_DAG = "stacklens_enrichment";
const LOOKED_AT = 200;

export const stateText = (batch) => h("span", { class: `state ${batch.state}` }, batch.state);

// `p0 120-1119`: the last offset is included, as in the names of Airflow's squares.
export const offsetsOf = (ranges) => ranges.filter((one) => one.end > one.start).map((one) => `p${one.partition} ${one.start}-${one.end - 1}`);

export const spanOf = (ranges) => ranges.reduce((sum, one) => sum + one.end - one.start, 0);

export const batchLink = (id, text = id) => tabLink("batch", { id }, text);

export const runLink = (batch, text = batch.run_id) => airflowLink(runPath(batch.dag_id, batch.run_id), text);

// Which task of its run has a batch's log: of its own squares the one that failed or came last; without any, the claim did
// it all. A square is known by its name up to the first range's start: a drain may have ended the range sooner.
export function taskOf(label, tasks) {
  const name = (text) => text.split("-")[0];
  const own = tasks.filter((task) => task.rendered_map_index && name(task.rendered_map_index) === name(label) && task.state !== "skipped");
  const failed = own.find((task) => ["failed", "up_for_retry"].includes(task.state));
  const started = own.filter((task) => task.start_date && !task.task_id.endsWith("clean")).sort((one, other) => one.start_date.localeCompare(other.start_date));
  return failed ?? started.at(-1) ?? tasks.find((task) => ["claim", "plan"].includes(task.task_id));
}

export const taskPath = (dagId, runId, task) => {
  const mapped = task.map_index >= 0 ? `/mapped/${task.map_index}` : "";
  return `${runPath(dagId, runId)}/tasks/${encodeURIComponent(task.task_id)}${mapped}`;
};

// A link to the log of a batch's task. Which that is, Airflow is asked when it is followed; if it does not say, the run is shown.
export function logLink(batch, label) {
  const run = runPath(batch.dag_id, batch.run_id);
  const link = airflowLink(run, "log");
  link.addEventListener("click", async (event) => {
    event.preventDefault();
    event.stopImmediatePropagation();
    try {
      const path = `../api/v2/dags/${encodeURIComponent(batch.dag_id)}/dagRuns/${encodeURIComponent(batch.run_id)}/taskInstances?limit=${LOOKED_AT}`;
      const task = taskOf(label, (await ask(path)).task_instances);
      openInAirflow(task ? taskPath(batch.dag_id, batch.run_id, task) : run);
    } catch {
      openInAirflow(run);
    }
  }, { capture: true });
  return link;
}

export const counts = (batch) => (batch.messages_read === null ? "" : number(batch.messages_read));
