// What became of a dead letter: whether a redrive has sent it in again, or is about to.
import { batchLink } from "./batch_parts.js";
import { ask, h, moment, number, tabLink } from "./dom.js";
import { positionOf, timeOf } from "./message.js";

const MOST_STEPS = 10; // of two seconds

async function look({ topic, partition, offset }, signal) {
  let found = { next: "" };
  for (let step = 0; step < MOST_STEPS; step += 1) {
    found = await ask(`api/redriven?${new URLSearchParams({ topic, partition, offset, positions: found.next })}`, { signal });
    if (found.marker || !found.next) break;
  }
  return found;
}

const isOf = (row, letter) => row.told.letter && positionOf(row.told.letter) === positionOf(letter);

function parts(letter, rows, { marker, batches, next }) {
  const attempt = `as attempt ${number(letter.told.attempts + 1)}`;
  if (marker) {
    const outcome = rows.some((row) => isOf(row, letter)) ? "" : " What came of that was not found: it has left its topic, or was not searched for.";
    const by = batches.length ? batchLink(marker.batch_id).make() : `${marker.batch_id}, which the ledger no longer has`;
    return [` was sent in again ${timeOf(marker.at)}, ${attempt}, by batch `, by, `.${outcome}`];
  }
  if (batches.length) {
    return batches.flatMap((batch, place) => [
      place ? ", " : ` is in a redrive that is not published, ${attempt}: batch `, batchLink(batch.batch_id).make(), ` (${batch.state}, claimed ${moment(batch.claimed_at)})`,
    ]);
  }
  if (next) return [" has no marker of a redrive among those that were looked at."];
  return [" was not sent in again: ", tabLink("dead-letters", {}, "Dead letters"), " has its redrive."];
}

// A sentence about a dead letter of the topic; `rows` are the other messages that were found of its input message.
export async function redriveOf(letter, rows, signal) {
  const said = h("p", { class: "redriven" }, `Dead letter ${positionOf(letter)}`);
  try {
    said.append(...parts(letter, rows, await look(letter, signal)));
  } catch (failed) {
    if (signal.aborted) throw failed;
    said.append(`: its redrive cannot be looked up: ${failed.message}`);
  }
  return said;
}
