// A dialog that starts a run of a DAG, made from the DAG's own parameters and filled in. It asks Airflow, with the rights of
// the person who presses the button: Airflow's own form cannot be filled in by a link.
import { detailsOf, openDialog, opener, pausedNote, refusal, startRun } from "./dialog.js";
import { airflowLink, h, runPath, write } from "./dom.js";

const typesOf = (schema) => [schema.type ?? []].flat();
const isNullable = (schema) => typesOf(schema).includes("null") || (schema.enum ?? []).includes(null);
const choicesOf = (schema) => schema.items?.enum ?? schema.examples ?? null;

// Markdown's code, and nothing else of it: descriptions have no more.
const prose = (text) => text.split("`").map((part, place) => (place % 2 ? h("code", {}, part) : part));

// Each control gives its value as the run's configuration has it, or throws an `Error` that says what is wrong with it.
function boolean(id, schema, value) {
  const box = h("input", { type: "checkbox", id, checked: Boolean(value) });
  return { element: box, read: () => box.checked };
}

function choice(id, schema, value) {
  const wanted = schema.enum.indexOf(value);
  const list = h("select", { id }, schema.enum.map((one, place) => h("option", { value: place, selected: place === wanted }, one === null ? "any" : String(one))));
  return { element: list, read: () => schema.enum[Number(list.value)] };
}

function several(id, schema, value) {
  const boxes = choicesOf(schema).map((one, place) => [one, h("input", { type: "checkbox", id: `${id}-${place}`, checked: (value ?? []).includes(one) })]);
  const element = h("div", { class: "ticks", id }, boxes.map(([one, box]) => h("label", { for: box.id }, box, ` ${one}`)));
  return {
    element,
    isGroup: true,
    read: () => {
      const chosen = boxes.filter(([, box]) => box.checked).map(([one]) => one);
      if (chosen.length < (schema.minItems ?? 0)) throw new Error("choose one at least");
      return chosen.length === 0 && isNullable(schema) ? null : chosen;
    },
  };
}

function numeric(id, schema, value) {
  const box = h("input", { type: "number", id, min: schema.minimum, max: schema.maximum, value, step: typesOf(schema).includes("integer") ? "1" : "any", required: !isNullable(schema) });
  return { element: box, read: () => (box.value === "" ? null : Number(box.value)) };
}

function lines(id, schema, value) {
  const box = h("textarea", { id, rows: 3 }, (value ?? []).join("\n"));
  const convert = schema.items?.type === "integer" ? Number : String;
  return {
    element: box,
    read: () => {
      const given = box.value.split("\n").map((line) => line.trim()).filter(Boolean).map(convert);
      if (given.some(Number.isNaN)) throw new Error("one number a line is wanted");
      return given.length === 0 && isNullable(schema) ? null : given;
    },
  };
}

function words(id, schema, value) {
  const placeholder = schema.format === "date-time" ? "2024-01-15T10:00:00Z" : null;
  const box = h("input", { type: "text", id, value, placeholder, maxlength: schema.maxLength, required: !isNullable(schema) });
  return {
    element: box,
    read: () => {
      const given = box.value.trim();
      if (given === "" && isNullable(schema)) return null;
      if (schema.pattern && !new RegExp(schema.pattern).test(given)) throw new Error(placeholder ? `a time like ${placeholder} is wanted` : `it has to be like ${schema.pattern}`);
      return given;
    },
  };
}

function controlOf(id, schema, value) {
  const types = typesOf(schema);
  if (types.includes("boolean")) return boolean(id, schema, value);
  if (schema.enum) return choice(id, schema, value);
  if (types.includes("array")) return (choicesOf(schema) ? several : lines)(id, schema, value);
  if (types.includes("integer") || types.includes("number")) return numeric(id, schema, value);
  return words(id, schema, value);
}

function fieldOf(prefix, name, { value, schema, description }, given) {
  const id = `${prefix}-${name}`;
  const filled = name in given;
  const control = controlOf(id, schema, filled ? given[name] : value);
  const about = h("p", { class: "quiet", id: `${id}-about` }, prose(schema.description_md ?? description ?? ""));
  const wrong = h("p", { class: "wrong", role: "alert" });
  control.element.setAttribute("aria-describedby", about.id);
  const title = schema.title ?? name;
  const parts = control.isGroup ? [h("legend", {}, title), control.element] : [h("label", { for: id }, title), " ", control.element];
  return {
    name,
    element: h(control.isGroup ? "fieldset" : "div", { class: filled ? "field filled" : "field" }, ...parts, about, wrong),
    read: () => {
      try {
        write(wrong, "");
        return control.read();
      } catch (failed) {
        write(wrong, failed.message);
        throw failed;
      }
    },
  };
}

function formOf(id, close, dagId, details, given) {
  const fields = Object.entries(details.params).map(([name, param]) => fieldOf(id, name, param, given));
  const result = h("p", { role: "status" });
  const submit = h("button", { type: "submit" });
  const nameIt = () => write(submit, form.querySelector(`#${id}-dry_run`)?.checked ? "Start a dry run" : "Start the run");
  const form = h("form", {
    onchange: nameIt,
    onsubmit: async (event) => {
      event.preventDefault();
      submit.disabled = true;
      try {
        const conf = Object.fromEntries(fields.map(({ name, read }) => [name, read()]));
        const run = await startRun(dagId, conf);
        result.replaceChildren("Started: ", airflowLink(runPath(dagId, run.dag_run_id), run.dag_run_id));
      } catch (failed) {
        write(result, refusal(dagId, "start runs of", failed));
        submit.disabled = false;
      }
    },
  },
  details.is_paused ? h("p", { class: "verdict degraded" }, pausedNote(dagId, `${dagId} is paused: the run waits until somebody unpauses it.`)) : null,
  fields.map(({ element }) => element), result,
  h("div", { class: "buttons" }, submit, " ", close()));
  nameIt();
  return form;
}

// A button, as a cell of a table, that opens the dialog filled in with `given`; all else is as the DAG presets it.
export const mendButton = (dagId, given, text) => ({
  key: [dagId, given, text],
  make: () => opener(text, () => openDialog(`Start ${dagId}`, async ({ id, close }) => formOf(id, close, dagId, await detailsOf(dagId), given))),
});
