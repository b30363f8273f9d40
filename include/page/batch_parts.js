// What the tabs of batches share: their states, offsets and links into Airflow's UI.
import { airflowLink, ask, h, openInAirflow, runApi, runPath, tabLink } from "./dom.js";

const TASKS = 200;

export const stateText = (state) => ({ key: state, make: () => h("span", { class: `state ${state}` }, state) });

// `p0 120-1119`: the last offset is included, as in the names of Airflow's squares.
export const offsetsOf = (ranges) => ranges.filter((one) => one.end > one.start).map((one) => `p${one.partition} ${one.start}-${one.end - 1}`);

export const batchLink = (id, text = id) => ({ key: [id, text], make: () => tabLink("batch", { id }, text) });

export const runLink = (batch, text = batch.run_id) => ({ key: [batch.run_id, text], make: () => airflowLink(runPath(batch.dag_id, batch.run_id), text) });

// A square bears the name of its batch up to the first range's end: a drain may have ended the range sooner since.
export const isNamed = (square, label) => square.split("-")[0] === label.split("-")[0];

// The task of a run that has a batch's log: of its own squares the one that failed, or else the last to start; where it has
// none, the claim did it all.
function taskOf(label, tasks) {
  const own = tasks.filter((task) => task.start_date && task.rendered_map_index && isNamed(task.rendered_map_index, label));
  const failed = own.find((task) => ["failed", "up_for_retry"].includes(task.state));
  const inOrder = own.filter((task) => !task.task_id.endsWith("clean")).sort((one, other) => one.start_date.localeCompare(other.start_date));
  return failed ?? inOrder.at(-1) ?? tasks.find((task) => ["claim", "plan"].includes(task.task_id));
}

// Where Airflow shows the log of a batch; the run itself where it does not say which task that is.
async function logPath({ dag_id: dagId, run_id: runId }, label) {
  const run = runPath(dagId, runId);
  const { task_instances: tasks } = await ask(`${runApi(dagId, runId)}/taskInstances?limit=${TASKS}`);
  const task = taskOf(label, tasks);
  if (!task) return run;
  return `${run}/tasks/${encodeURIComponent(task.task_id)}${task.map_index >= 0 ? `/mapped/${task.map_index}` : ""}`;
}

// A link to the log of a batch. Which task has it, Airflow is asked when the link is followed.
export const logLink = (batch, label) => ({
  key: [batch.run_id, label],
  make: () => h("a", {
    href: `../${runPath(batch.dag_id, batch.run_id)}`,
    onclick: async (event) => {
      const link = event.currentTarget;
      event.preventDefault();
      try {
        openInAirflow(await logPath(batch, label));
      } catch (failed) {
        link.replaceWith(`no log: ${failed.message}`);
      }
    },
  }, "log"),
});

// The name of a mapped task's square.
export async function squareName(dagId, runId, taskId, mapIndex, signal) {
  const task = await ask(`${runApi(dagId, runId)}/taskInstances/${encodeURIComponent(taskId)}/${mapIndex}`, { signal });
  return task.rendered_map_index ?? "";
}
