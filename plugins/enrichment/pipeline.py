"""The centre on one page: the stages of a batch in order, each streaming chunk by chunk from staged files to staged
files.

claim -> drain (read, decode) -> geo and user side by side -> business -> publish (route, produce, commit) -> record. A
stage holds one chunk in memory, whatever the batch. Every stage may run twice: it replaces what it staged, and publish
looks first.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any, NamedTuple
from uuid import uuid4

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa

from enrichment.ahead import one_ahead
from enrichment.caches.base import LookupCounts
from enrichment.caches.entries import Answers
from enrichment.columns import MESSAGE_FIELDS, Chunk, without
from enrichment.cornering import shares_of
from enrichment.decode import Decoded, decode, refuse_headers, set_aside
from enrichment.enrichers.base import JSON, STATUS, Added, Enricher
from enrichment.errors import BatchUnbalanced, OffsetsMoved, RunRefused
from enrichment.group.lanes import check_claim
from enrichment.group.progress import anchor, find_progress
from enrichment.kafka.clients import Clients
from enrichment.kafka.offsets import look_back, plan_ranges
from enrichment.kafka.refusals import Refusals, publish_around
from enrichment.kafka.retention import OldMessages, claim_warnings, now_in_milliseconds
from enrichment.kafka.sink import LanePublisher, Standing, Transaction
from enrichment.kafka.source import RangeReader
from enrichment.markers import RedrivePublisher
from enrichment.messages import KEY_COLUMNS, LIVE, REDRIVE, REPLAY, Batch, Context, Place, Profile, Risk, Source
from enrichment.outages import Outage, without_down
from enrichment.provenance import Addition, Counts
from enrichment.replay.group import WindowPublisher
from enrichment.rollup.histogram import Histogram
from enrichment.route import Routed, Router
from enrichment.selection import selection
from enrichment.settings import PipelineSettings, Settings
from enrichment.store.jobs import Job, Ledger, Outcome
from enrichment.store.staging import ChunkWriter, Staging
from enrichment.structs import arrow_types

EVENTS, KEYS, REFUSED = "events", "keys", "refused"
# Messages that are read and decoded, and later put together, at once: their bytes fit into a processor's cache, those
# of a chunk do not.
SLICE = 2_000
# Message timestamps, all of a batch at once: eight bytes each, since their age is known only when all are visible.
Milliseconds = np.ndarray[Any, np.dtype[np.int64]]
DRY_RUN_MESSAGES = 1_000  # that a dry run looks back over, where nothing waits and nobody says how many
PUBLISH_ORDER = (Source.GEO, Source.USER, Source.BUSINESS)
# By the purpose's kind, where progress is something else than in live draining.
PUBLISHERS: dict[str, type[LanePublisher]] = {REPLAY: WindowPublisher, REDRIVE: RedrivePublisher}

EVENT_SCHEMA = pa.schema([*MESSAGE_FIELDS, ("fast", pa.bool_())])
REFUSED_SCHEMA = pa.schema([*MESSAGE_FIELDS, ("reason", pa.string()), ("detail", pa.string())])
KEY_SCHEMA = pa.schema([(name, pa.string()) for name in KEY_COLUMNS])
CODE_SCHEMA = pa.schema([("code", pa.int32())])
_FIELDS = {name: kind for words in (Place, Profile, Context, Risk) for name, kind in arrow_types(words).items()}


class Drained(msgspec.Struct, frozen=True):
    """What drain staged: the batch with the ranges that were read, and how much that was."""

    batch: Batch
    messages: int
    refused: int
    value_bytes: int

    def to_manifest(self) -> dict[str, Any]:
        """As plain JSON types, for XCom."""
        manifest: dict[str, Any] = msgspec.to_builtins(self)
        return manifest


class Published(msgspec.Struct, frozen=True):
    """What became of a batch. `produced` is false when the group's offsets said that it had been published before.

    `freshness` is the time from each enriched message's timestamp to its publication; of one that had been published
    before, to when that was found out. Nothing where nothing became visible, or had no timestamp. `warnings` are for
    the ledger: what somebody should look at, although the batch is published.
    """

    counts: Counts
    produced: bool
    freshness: Histogram = Histogram()
    warnings: tuple[str, ...] = ()


def claim(
    clients: Clients, ledger: Ledger, settings: Settings, *, dag_id: str, run_id: str,
    max_messages: int | None = None, partitions: Sequence[int] | None = None, dry_run: bool = False,
) -> list[Batch]:  # fmt: skip
    """Fix the offset ranges of a run's batches and write them to the ledger; a run that claimed before gets the same
    ones.

    Where batches failed by what they hold, the next ones over these offsets are smaller, and a message that fails alone
    is set aside as a dead letter: what breaks the pipeline is cornered, the other partitions go on in between. A dry
    run that finds less waiting than `max_messages` takes the last messages before it, too, which are published. Raises
    `OffsetsLost` by the declared policy, `OffsetsMoved` when the group is not where it has published to,
    `SettingsError` when its lanes are others, `RunRefused` for a parameter that makes no sense.
    """
    claimed = ledger.find_run(dag_id, run_id)
    if claimed:
        return claimed
    if max_messages is not None and max_messages < 1:
        raise RunRefused(f"max_messages={max_messages}: at least one, or none for KAFKA_BATCH_SIZE")
    kafka = clients.settings
    clients.check_options()
    check_claim(clients, ledger.lanes, dry_run=dry_run)
    unrecorded = ledger.lanes.open_batches(kafka.consumer_group)
    backlog, topic_id = find_progress(
        clients, ledger.positions, partitions or None, dry_run=dry_run, unrecorded=unrecorded
    )
    size = min(max_messages or kafka.batch_size, kafka.batch_size)
    if dry_run:
        # Whoever tries something has no time to lose to the minute's own run, which takes whatever waits.
        waits = any(b.span for b in backlog)
        backlog = look_back(backlog, min(max_messages or (0 if waits else DRY_RUN_MESSAGES), size))
    plan = plan_ranges(backlog, kafka.lanes, size, kafka.batches_per_run)
    shares = shares_of(plan, backlog, ledger, kafka, size)
    batches = [
        Batch(
            batch_id=f"{dag_id}/{run_id}/{lane}",
            topic=kafka.input_topic,
            group_id=kafka.consumer_group,
            lane=lane,
            ranges=share.ranges,
            dry_run=dry_run,
            max_bytes=kafka.batch_bytes,
            set_aside=share.set_aside,
            topic_id=topic_id,
            lanes=kafka.lanes,
        )
        for lane, share in shares.items()
    ]
    ends = {r.partition: r.end for batch in batches for r in batch.ranges}
    lag = {b.partition: max(0, b.high - ends.get(b.partition, b.start)) for b in backlog}
    if not dry_run:
        anchor(clients, batches, backlog)
    warnings = claim_warnings(clients, batches, now_in_milliseconds())
    for batch in batches:
        ledger.claim(batch, dag_id, run_id, settings.fingerprint, lag, warnings.get(batch.batch_id, ()))
    return batches


def settle(batch: Batch, job: Job | None) -> Batch:
    """The batch with the ranges that its first drain ended with: a drain that runs again reads the same messages."""
    if job is None or job.drained_at is None:
        return batch
    return msgspec.structs.replace(batch, ranges=job.ranges, max_bytes=None)


def drain(clients: Clients, staging: Staging, batch: Batch) -> Drained:
    """Read the batch's ranges, select what the batch's purpose asks for, decode, and stage events, their keys, and what
    was refused.

    Events are staged slice by slice as they come; keys, which all later stages work on, in chunks of many slices.
    """
    clients = clients.for_batch(batch)
    settings = clients.settings
    decoder = set_aside if batch.set_aside else decode
    select = selection(clients, batch)
    messages = refusals = 0
    drain_id = uuid4().hex
    slice_size = min(SLICE, settings.chunk_size)
    limits = slice_size, settings.chunk_bytes, settings.request_timeout_sec
    with (
        quiet_gc(),
        clients.drain_reader() as consumer,
        RangeReader(consumer, batch, *limits) as reader,
        staging.write(batch.batch_id, EVENTS, drain_id) as events,
        staging.write(batch.batch_id, KEYS, drain_id) as keys,
        staging.write(batch.batch_id, REFUSED, drain_id) as refused,
    ):
        chosen = reader.chunks() if select is None else filter(len, map(select, reader.chunks()))
        slices = _write_events(map(partial(stage, decoder=decoder), chosen), events)
        for chunk in _chunks(slices, settings.chunk_size - slice_size, settings.chunk_bytes):
            keys.write(pa.concat_batches([part.keys for part in chunk]))
            refused.write(pa.concat_batches([part.refused for part in chunk]))
            messages += sum(part.messages for part in chunk)
            refusals += sum(part.refused.num_rows for part in chunk)
            chunk.clear()  # before the next one is read: one chunk in memory, not two
        read = msgspec.structs.replace(batch, ranges=reader.ranges, tails=reader.tails)
        return Drained(read, messages, refusals, reader.value_bytes)


class Staged(NamedTuple):
    """Messages as they are staged: each is an event with its keys, or it was refused."""

    events: pa.RecordBatch
    keys: pa.RecordBatch
    refused: pa.RecordBatch

    @property
    def messages(self) -> int:
        """How many there are of both."""
        return int(self.keys.num_rows + self.refused.num_rows)


def _write_events(slices: Iterable[Staged], file: ChunkWriter) -> Iterator[Staged]:
    """Write the events of each slice, and go on with the rest of it."""
    for part in slices:
        if part.events.num_rows:
            file.write(part.events)
        yield part._replace(events=part.events.slice(0, 0))


def _chunks(slices: Iterable[Staged], messages: int, size: int) -> Iterator[list[Staged]]:
    """Put slices together until a chunk has more than so many messages, or `size` bytes."""
    chunk: list[Staged] = []
    held_messages = held_bytes = 0
    for part in slices:
        chunk.append(part)
        held_messages += part.messages
        held_bytes += part.keys.nbytes + part.refused.nbytes
        if held_messages > messages or held_bytes >= size:
            yield chunk
            chunk, held_messages, held_bytes = [], 0, 0
    if chunk:
        yield chunk


def stage(read: Chunk, decoder: Callable[[pa.Array], Decoded]) -> Staged:
    """Decode what was read: each message becomes an event with its keys, or is refused."""
    decoded = decoder(read.columns["value"])
    frame = read.columns
    refusals = refuse_headers(frame["headers"]) | decoded.refused
    events = pa.record_batch([*frame.columns, pa.array(decoded.fast)], schema=EVENT_SCHEMA)
    keys = pa.record_batch([decoded.keys[name] for name in KEY_COLUMNS], schema=KEY_SCHEMA)
    rows = sorted(refusals)
    reasons = pa.array([refusals[row].reason for row in rows], pa.string())
    details = pa.array([refusals[row].detail for row in rows], pa.string())
    dead = frame.take(pa.array(rows, pa.int64()))
    return Staged(
        without(events, rows),
        without(keys, rows),
        pa.record_batch([*dead.columns, reasons, details], schema=REFUSED_SCHEMA),
    )


def enrich(
    staging: Staging, batch: Batch, enricher: Enricher, after: Sequence[Source] = (),
    on_chunk: Callable[[pd.DataFrame, Added], None] | None = None,
) -> LookupCounts:  # fmt: skip
    """Run one enricher over the staged keys, after those enrichers whose columns it reads, and stage what it adds.

    The keys of the next chunk are looked up in a thread meanwhile. `on_chunk` sees each chunk's keys and what was added
    to it.
    """
    source = Source(enricher.name)
    schema = pa.schema(
        [*((name, _FIELDS[name]) for name in enricher.writes), (STATUS, pa.string()), (JSON, pa.binary())]
    )
    wanted = [name for name in enricher.reads if name in KEY_COLUMNS]
    drain_id = staging.drain_of(batch.batch_id, KEYS)
    counts = LookupCounts()
    with (
        quiet_gc(),
        staging.write(batch.batch_id, _codes(source), drain_id) as codes,
        staging.write(batch.batch_id, _values(source), drain_id) as values,
        closing(one_ahead(_look_up(enricher, staging.read(batch.batch_id, KEYS, wanted, drain_id)))) as chunks,
    ):
        earlier = {name: _staged(staging, batch, name, drain_id) for name in after}
        for events, answers in chunks:
            added = enricher.enrich(events, answers, {name: next(before) for name, before in earlier.items()})
            codes.write(pa.record_batch([pa.array(added.codes, pa.int32())], schema=CODE_SCHEMA))
            values.write(pa.RecordBatch.from_pandas(added.values, schema=schema, preserve_index=False))
            counts = counts + added.counts
            if on_chunk is not None:
                on_chunk(events, added)
    return counts


def _look_up(enricher: Enricher, chunks: Iterator[pa.RecordBatch]) -> Iterator[tuple[pd.DataFrame, Answers]]:
    """Each chunk's keys, and the answers for them."""
    for keys in chunks:
        events = pd.DataFrame({name: keys[name].dictionary_encode().to_pandas() for name in keys.schema.names})
        yield events, enricher.look_up(events)


def _staged(staging: Staging, batch: Batch, source: Source, drain_id: str) -> Iterator[Added]:
    codes = staging.read(batch.batch_id, _codes(source), drain=drain_id)
    values = staging.read(batch.batch_id, _values(source), drain=drain_id)
    for code, value in zip(codes, values, strict=True):
        values = value.to_pandas(types_mapper=pd.ArrowDtype)
        yield Added(code["code"].to_numpy(), values, np.zeros(len(values), dtype=bool), LookupCounts())


def utc_now() -> datetime:
    """The processing time."""
    return datetime.now(UTC)


def publish(
    clients: Clients, staging: Staging, drained: Drained, settings: Settings, now: Callable[[], datetime] = utc_now,
    outages: Sequence[Outage] = (), noted: AbstractContextManager[None] | None = None,
) -> Published:  # fmt: skip
    """Publish a batch once, whoever else tries: produce and commit, or only count when the group is past its end.

    A source that is down (`outages`) is missed by no message, even if it is required; `noted` is entered before the
    transaction and left after it. Messages that a broker refuses become dead letters. Raises `OffsetsMoved`,
    `PublishRefused`, `StagingMissing`, and `BatchUnbalanced` before anything is committed.
    """
    batch = drained.batch
    clients = clients.for_batch(batch)
    required = without_down(settings.pipeline.required_sources, outages)
    with quiet_gc(), ExitStack() as around:
        # Once, however often what brokers refuse has it begin anew.
        note = cache(lambda: around.enter_context(noted or nullcontext()))

        def attempt(refusals: Refusals) -> Published:
            with PUBLISHERS.get(batch.purpose.kind, LanePublisher)(clients, batch, refusals) as publisher:
                produce = not batch.dry_run and publisher.standing() is Standing.AT_START
                old = OldMessages(publisher.kept, now_in_milliseconds(), clients.settings.retention_bytes)
                note()
                with publisher.transaction() if produce else nullcontext() as transaction:
                    counts, times, dead = _send(clients, staging, drained, publisher, transaction, required, now, old)
                    check_balance(drained, counts)
                    check_dead_letters(drained, counts, settings.pipeline, dead)
            freshness = Histogram() if batch.dry_run else ages(times, now())
            # What a replay or a redrive reads is more than what it takes: their claims have looked at that.
            least = drained.value_bytes // max(1, len(batch.ranges)) if batch.purpose.kind == LIVE.kind else 0
            return Published(counts, produce, freshness, old.warnings(least))

        return publish_around(attempt, clients.settings.transaction_timeout_sec)


def _send(
    clients: Clients, staging: Staging, drained: Drained, publisher: LanePublisher, transaction: Transaction | None,
    required: frozenset[Source], now: Callable[[], datetime], old: OldMessages,
) -> tuple[Counts, list[Milliseconds], Counter[int]]:  # fmt: skip
    """Route the batch and send it, if there is a transaction; what became of its messages, the times of those that are
    enriched, and how many are dead in each partition. `old` sees the times of all."""
    kafka, counts = clients.settings, Counts()
    times: list[Milliseconds] = []
    dead: Counter[int] = Counter()
    for routed in route(staging, drained.batch, publisher, required, now):
        counts = counts + routed.counts
        # A copy: a view of the column would keep all of the slice in memory.
        times.append(routed.analytics.columns["timestamp"].to_numpy().copy())
        old.see(kafka.output_topic, times[-1])
        old.see(kafka.dlq_topic, routed.dead_letters.columns["timestamp"].to_numpy())
        dead.update(routed.dead_letters.partitions)
        if transaction is not None:
            transaction.send(kafka.output_topic, routed.analytics)
            transaction.send(kafka.dlq_topic, routed.dead_letters)
    return counts, times, dead


def ages(times: Sequence[Milliseconds], moment: datetime) -> Histogram:
    """How long before `moment` these times were, in milliseconds since the epoch. 0 and less is no time."""
    known = np.concatenate([*times, np.empty(0, dtype=np.int64)])
    return Histogram.of(moment.timestamp() - known[known > 0] / 1000)


def route(
    staging: Staging, batch: Batch, limits: LanePublisher, required: frozenset[Source], now: Callable[[], datetime]
) -> Iterator[Routed]:
    """The batch's chunks as the two topics get them."""
    drain_id = staging.drain_of(batch.batch_id, REFUSED)
    additions = {source: _additions(staging, batch, source, drain_id) for source in PUBLISH_ORDER}
    events = staging.read(batch.batch_id, EVENTS, drain=drain_id)
    for refusals in staging.read(batch.batch_id, REFUSED, drain=drain_id):
        moment = now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
        router = Router(batch, moment, limits.output, limits.dead_letters, required)
        yield from router.route(events, [next(additions[source]) for source in PUBLISH_ORDER], refusals)


def _additions(staging: Staging, batch: Batch, source: Source, drain_id: str) -> Iterator[Addition]:
    codes = staging.read(batch.batch_id, _codes(source), drain=drain_id)
    values = staging.read(batch.batch_id, _values(source), [STATUS, JSON], drain_id)
    for code, value in zip(codes, values, strict=True):
        yield Addition(source, code["code"].to_numpy(), value[STATUS], value[JSON])


def record(ledger: Ledger, drained: Drained, published: Published, **details: Any) -> None:
    """Complete the batch's row in the ledger; `details` are those of `Outcome` beside the counts.

    A publish that died between its commit and this leaves the row to its next try, which finds the batch published.
    Raises `OffsetsMoved` when the group is past the batch because somebody moved it there.
    """
    counts, batch = published.counts, drained.batch
    if not published.produced and not batch.dry_run and ledger.positions.passed_over(batch.batch_id):
        raise OffsetsMoved(
            f"group {batch.group_id} is past batch {batch.batch_id} because somebody moved it there "
            "(enrichment_group_moves), so its messages were left out. It is not recorded as published; leave it"
        )
    ledger.published(
        batch.batch_id,
        Outcome(
            read=drained.messages,
            enriched=counts.enriched,
            partial=counts.partial,
            dead=counts.dead,
            errors_by_reason=counts.by_reason,
            warnings=published.warnings,
            **details,
        ),
    )


def check_balance(drained: Drained, counts: Counts) -> None:
    """Nothing lost, nothing doubled; raises `BatchUnbalanced`."""
    if counts.total != drained.messages:
        raise BatchUnbalanced(
            f"batch {drained.batch.batch_id}: read {drained.messages}, but {counts.enriched} enriched "
            f"+ {counts.partial} partial + {counts.dead} dead = {counts.total}; nothing was committed"
        )


def check_dead_letters(
    drained: Drained, counts: Counts, settings: PipelineSettings, dead_by_partition: Counter[int]
) -> None:
    """Not suspiciously much dead of one cause; raises `BatchUnbalanced`.

    The next claim over these offsets, in the partitions where it was so much, is smaller, until it is too small to be
    suspected: a flood of junk is let through slowly and in view of whoever looks after failed runs, and stops nothing.
    Only live draining claims again: what a replay or a redrive finds dead has been suspected before.
    """
    batch, suspected = drained.batch, max(counts.dead_by_reason.items(), key=lambda item: item[1], default=("", 0))
    if batch.set_aside or batch.purpose.kind != LIVE.kind or drained.messages < settings.dead_letter_share_from:
        return
    reason, dead = suspected
    share = settings.max_dead_letter_share
    if dead > share * drained.messages:
        raise BatchUnbalanced(
            f"batch {batch.batch_id}: {dead} of {drained.messages} messages would be dead letters with {reason}, more "
            f"than ENRICHMENT_MAX_DEAD_LETTER_SHARE={share:g}; nothing was "
            "committed, suspect the code or the source",
            # A message that stands alone is set aside, where even that is suspected.
            {r.partition for r in batch.ranges if batch.span > 1 and dead_by_partition[r.partition] > share * r.span},
        )


@contextmanager
def quiet_gc() -> Iterator[None]:
    """No garbage collection within: the hot loops make many objects and no cycles."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _codes(source: Source) -> str:
    return f"{source}.codes"


def _values(source: Source) -> str:
    return f"{source}.values"
