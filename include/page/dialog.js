// A dialog in which a person has Airflow do something, with the rights of that person, and what all of these have in common.
import { airflowLink, ask, dagApi, h, runApi, runPath, write } from "./dom.js";

let opened = 0;

// Opens a dialog. `fill` gives its content, or throws what the person is told instead (`ask` does, with a status).
export async function openDialog(title, fill) {
  opened += 1;
  const id = `dialog-${opened}`;
  const content = h("div", {}, h("p", { class: "quiet" }, "Asking Airflow"));
  const dialog = h("dialog", { id, "aria-labelledby": `${id}-title`, onclose: () => dialog.remove() }, h("h2", { id: `${id}-title` }, title), content);
  const close = () => h("button", { type: "button", onclick: () => dialog.close() }, "Close");
  document.body.append(dialog);
  dialog.showModal();
  try {
    content.replaceChildren(await fill({ id, close }));
  } catch (failed) {
    content.replaceChildren(h("p", { role: "alert" }, failed.status === 403 ? "You may not do this: ask somebody whose role allows it." : `Airflow cannot be asked: ${failed.message}`), close());
  }
}

export const opener = (text, open) => h("button", { type: "button", "aria-haspopup": "dialog", onclick: open }, `${text}…`);

const send = (path, method, body) => ask(path, { method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
export const detailsOf = (dagId) => ask(`${dagApi(dagId)}/details`);
export const startRun = (dagId, conf) => send(`${dagApi(dagId)}/dagRuns`, "POST", { logical_date: null, conf });

// What a person is told who was refused `what`, such as "start runs of it".
export const refusal = (dagId, what, failed) => (failed.status === 403
  ? `You may not ${what} ${dagId}: ask somebody whose role allows it.`
  : `It was not done: ${failed.message}`);

// A button that has something done, once. Who is refused is told so in `said`, and may press it again.
function doing(text, said, dagId, what, work) {
  const button = h("button", {
    type: "button",
    onclick: async () => {
      button.disabled = true;
      try {
        await work(button);
      } catch (failed) {
        write(said, refusal(dagId, what, failed));
        button.disabled = false;
      }
    },
  }, text);
  return button;
}

// That a DAG is paused, with the button that unpauses it.
export function pausedNote(dagId, text) {
  const said = h("span", { role: "status" });
  const unpausing = doing(`Unpause ${dagId}`, said, dagId, "unpause", async (button) => {
    await send(`${dagApi(dagId)}?update_mask=is_paused`, "PATCH", { is_paused: false });
    button.remove();
    write(said, `${dagId} is unpaused: what waits is taken now.`);
  });
  return [text, " ", unpausing, " ", said];
}

// The squares of a run: all of them run again when it is cleared.
const squareText = ({ task_id: id, rendered_map_index: name, map_index: index, state }) =>
  `${id}${index >= 0 ? ` (${name ?? index})` : ""}: ${state ?? "not run"}`;

async function clearForm(dagId, runId, close) {
  const run = await ask(runApi(dagId, runId));
  if (!["success", "failed"].includes(run.state)) return h("div", {}, h("p", {}, `The run is still under way (${run.state}): wait for its end.`), close());
  const path = `${dagApi(dagId)}/clearTaskInstances`;
  const wanted = { dag_run_id: runId, only_failed: false, prevent_running_task: true };
  const { task_instances: squares } = await send(path, "POST", { ...wanted, dry_run: true });
  const said = h("p", { role: "status" });
  const clearing = doing(`Clear ${squares.length} tasks`, said, dagId, "clear runs of", async () => {
    await send(path, "POST", { ...wanted, dry_run: false });
    said.replaceChildren("Cleared: ", airflowLink(runPath(dagId, runId), runId));
  });
  return h("div", {},
    h("p", {}, "These run again, all of the run: what a failed batch had staged is gone. What is published is recognised, and is not published twice."),
    h("ul", { class: "squares" }, squares.map((square) => h("li", {}, squareText(square)))), said, h("div", { class: "buttons" }, clearing, " ", close()));
}

// A button, as a cell of a table, that opens a dialog which names the tasks of a run and clears them.
export const clearButton = (dagId, runId) => ({
  key: [dagId, runId],
  make: () => opener("Clear its run", () => openDialog(`Clear ${runId}`, ({ close }) => clearForm(dagId, runId, close))),
});
