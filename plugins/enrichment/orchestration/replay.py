"""The tasks of `stacklens_replay` around its batches: when it may run, what it replays, and the result."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator, Param, get_current_context, task, task_group
from airflow.sdk.exceptions import AirflowTimetableInvalid

from enrichment.dead_letters.reasons import all_reasons
from enrichment.enrichers.registry import REGISTRY
from enrichment.errors import SettingsError
from enrichment.orchestration.batches import BATCH_LABEL, batch_of, enrich_batch
from enrichment.orchestration.common import (
    ANALYTICS,
    DEAD_LETTERS,
    DEFAULT_ARGS,
    ENRICHED,
    REPLAYED,
    REPLAYED_DEAD,
    Manifest,
    resources,
    run_params,
)
from enrichment.orchestration.timetable import ReplayTimetable
from enrichment.settings import ReplaySettings, load_room

if TYPE_CHECKING:
    from enrichment.batch import Purpose
    from enrichment.settings import Settings

SETTINGS = load_room(ReplaySettings)
WINDOW = "window"  # the task group around each batch
PUBLISH = f"{WINDOW}.batch.publish"
# A batch takes longer through its tasks.
LOOK_AGAIN = timedelta(seconds=4)
# A scheduler that hears of the end of one look only when it has already queued the next takes that for a task that was
# killed: a loaded machine would use up the tries of a task that waits. What waiting cannot mend fails at once.
TURN_RETRIES = 1000
REPLAY_ARGS: dict[str, Any] = {**DEFAULT_ARGS, "pool": SETTINGS.pool}
# Counting and comparing read the log from the window to its end.
READING_TIMEOUT = timedelta(hours=1)


def by_window() -> ReplayTimetable:
    """A run for each window of the past, when a backfill asks for it.

    Raises `SettingsError` for an invalid expression: it is the import error of this DAG alone.
    """
    timetable = ReplayTimetable(SETTINGS.window_cron, timezone="UTC")
    try:
        timetable.validate()
    except AirflowTimetableInvalid as invalid:
        raise SettingsError(f"REPLAY_WINDOW_CRON={SETTINGS.window_cron!r}: {invalid}") from None
    return timetable


def _list_param(title: str, description: str, **items: Any) -> Param:
    return Param(
        None,
        type=["null", "array"],
        items={"type": "string", "minLength": 1, **items},
        title=title,
        description_md=description,
    )


REPLAY_PARAMS = {
    "dry_run": Param(
        True,
        type="boolean",
        title="Dry run",
        description_md="Only count what each window holds; the counts are in the XCom of `report`. Off: publish. (The "
        "form of a backfill sends these fields only with a tick at *Override parameters on existing runs*.)",
    ),
    "replay_id": Param(
        "replay-1",
        type="string",
        pattern="^[a-z0-9][a-z0-9_-]{0,39}$",
        title="Replay id",
        description_md="The name of this replay, in the header `stacklens-replay-id` of each message. A window is "
        "published once under a name, however often it is run; take another name to publish it again.",
    ),
    "output_topic": Param(
        None,
        type=["null", "string"],
        pattern="^[a-zA-Z0-9._-]{0,249}$",
        title="Output topic",
        description_md="Takes the enriched messages; it must exist. Empty: the setting `REPLAY_OUTPUT_TOPIC`. Dead "
        "letters go to `REPLAY_DLQ_TOPIC`.",
    ),
    "services": _list_param("Services", "Only messages of these services. Empty: all."),
    "levels": _list_param("Levels", "Only messages of these levels. Empty: all."),
    "errors": _list_param(
        "Stored errors",
        "Only messages whose published `enrichment_errors` name one of these: reasons, or sources for all of theirs "
        f"({', '.join(f'`{source}`' for source in REGISTRY.by_source)}). Empty: all messages.",
        enum=[*REGISTRY.by_source, *all_reasons()],
    ),
    "max_messages": Param(
        None,
        type=["null", "integer"],
        minimum=1,
        title="Messages at most",
        description_md="In each batch of a window. Empty: the setting `KAFKA_BATCH_SIZE`.",
    ),
    "allow_lost": Param(
        False,
        type="boolean",
        title="Allow lost messages",
        description_md="Replay what is left of a window whose messages have left the log in part, instead of failing.",
    ),
}


@task(inlets=[ENRICHED], execution_timeout=READING_TIMEOUT)
def plan() -> list[dict[str, Any]]:
    """Count the window, freeze its bounds, and write its batches to the ledger, in the order in which they are run.

    A run that is cleared, or another one of the same replay and window, gets the same batches; a dry run gets none.
    """
    from enrichment.replay import replay

    context = get_current_context()
    params = run_params(context["params"], REPLAY_PARAMS)
    with resources() as r:
        _, batches = replay.plan(
            r.clients, r.ledger, r.replays, r.settings, purpose_of(r.settings),
            dag_id=context["dag"].dag_id, run_id=context["run_id"],
            max_messages=params["max_messages"], dry_run=params["dry_run"], allow_lost=params["allow_lost"],
        )  # fmt: skip
    return [batch.to_manifest() for batch in batches]


def purpose_of(settings: Settings) -> Purpose:
    """The purpose of this run, from its data interval and parameters."""
    from enrichment.batch import ReplayWindow
    from enrichment.errors import ReplayRefused
    from enrichment.replay import replay

    context = get_current_context()
    params = context["params"]
    start, end = context.get("data_interval_start"), context.get("data_interval_end")
    if start is None or end is None:
        raise ReplayRefused("this run covers no window: give it a logical date, or create a backfill")
    window = ReplayWindow(
        replay_id=params["replay_id"],
        start=round(start.timestamp() * 1000),
        end=round(end.timestamp() * 1000),
        services=tuple(params["services"] or ()),
        levels=tuple(params["levels"] or ()),
        errors=replay.reasons_of(params["errors"] or ()),
    )
    return replay.purpose_of(settings, window, params["output_topic"])


class Turn(BaseSensorOperator):
    """Wait until the batches before this one in its lane are published, so that messages keep their order.

    It holds no slot while it waits, and fails when a batch before it has failed.
    """

    template_fields = ("batch",)

    def __init__(self, *, batch: Manifest, **kwargs: Any) -> None:
        super().__init__(mode="reschedule", timeout=12 * 3600, **kwargs)
        self.batch = batch

    def poke(self, context: Any) -> bool:
        """Check whether the window's group has reached this batch and, if not, whether an earlier one still runs.

        Looks again the later the more batches are before it: each look costs the start of a task.
        """
        from enrichment.errors import ReplayRefused
        from enrichment.replay import turns

        claimed = batch_of(self.batch)
        with resources() as r:
            if turns.is_next(r.clients, r.ledger, claimed):
                return True
        ti, run_id = context["ti"], context["run_id"]
        states = ti.get_task_states(dag_id=self.dag_id, task_ids=[PUBLISH], run_ids=[run_id]).get(run_id, {})
        before = [states.get(f"{PUBLISH}_{index}") for index in range(ti.map_index)]
        if {"failed", "upstream_failed"} & set(before):
            raise ReplayRefused("a batch before this one failed: fix that, then clear this run")
        waiting = sum(state != "success" for state in before)
        self.poke_interval = LOOK_AGAIN.total_seconds() * min(max(waiting, 1), 60)
        return False


@task_group(group_id=WINDOW)
def replay_batch(batch: Manifest) -> None:
    """One batch, in its turn: the same tasks as in live draining."""
    turn = Turn(task_id="turn", batch=batch, map_index_template=BATCH_LABEL, doc_md=Turn.__doc__, retries=TURN_RETRIES)
    turn >> enrich_batch(batch)


@task(
    inlets=[ANALYTICS, DEAD_LETTERS, REPLAYED, REPLAYED_DEAD],
    multiple_outputs=False, execution_timeout=READING_TIMEOUT, trigger_rule="none_failed",
)  # fmt: skip
def report() -> dict[str, Any]:
    """Report the result of the window, and how its output differs from what was published before."""
    from enrichment.replay import report

    with resources() as r:
        return report.report(r.clients, r.ledger, r.replays, purpose_of(r.settings))
