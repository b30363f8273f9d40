"""Replay: a past window in, the batches that publish its messages again out, and at the end how the outputs differ.

`plan` counts the window, freezes its bounds, cuts it into batches and records all of it; planning the same window of
the same replay again returns the same batches. Each window has a consumer group of its own, set to the start of its
first batches, so that publishing a batch is the same compare-and-set as in live draining: once, and in order. `report`
runs when all batches are published.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import zip_longest

import msgspec

from enrichment.batch import REPLAY, Batch, OffsetRange, Purpose, ReplayWindow
from enrichment.enrichers.registry import REGISTRY
from enrichment.errors import ReplayRefused, WindowLost
from enrichment.kafka.asking import with_retries
from enrichment.kafka.clients import Clients
from enrichment.kafka.retention import Load, check_kept, now_in_milliseconds, retentions
from enrichment.kafka.settled import await_stable, require_stable
from enrichment.kafka.source import read_ranges
from enrichment.kafka.times import Bound, find_bounds, find_losses, to_text
from enrichment.kafka.topics import DEAD_LETTER_BYTES, MESSAGE_BYTES
from enrichment.messages import HEADER_REPLAY
from enrichment.replay.cuts import Cuts
from enrichment.replay.limits import check_times
from enrichment.replay.table import CLAIMED, COUNTED, FINISHED, Replay, Replays
from enrichment.replay.turns import begin
from enrichment.replay.window import in_window, make_picker, window_of
from enrichment.settings import Settings
from enrichment.store.jobs import Ledger

log = logging.getLogger(__name__)


def purpose_of(settings: Settings, window: ReplayWindow, output_topic: str | None) -> Purpose:
    """The purpose of a window's batches."""
    return Purpose(
        kind=REPLAY,
        output_topic=output_topic or settings.replay.output_topic,
        dlq_topic=settings.replay.dlq_topic,
        headers=((HEADER_REPLAY, window.replay_id),),
        window=window,
    )


def reasons_of(names: Sequence[str]) -> tuple[str, ...]:
    """The reasons of the stored error list that these name: reasons as they are, and all reasons of a source."""
    sources = {source: tuple(declaration.reasons) for source, declaration in REGISTRY.by_source.items()}
    return tuple(sorted({reason for name in names for reason in sources.get(name, (name,))}))


def plan(
    clients: Clients, ledger: Ledger, replays: Replays, settings: Settings, purpose: Purpose,
    *, dag_id: str, run_id: str, max_messages: int | None = None, dry_run: bool = False, allow_lost: bool = False,
) -> tuple[Replay, list[Batch]]:  # fmt: skip
    """The window as recorded, and its batches in the order in which they are to be published.

    A dry run only counts. A finished window has no batches left. Raises `WindowLost` when messages of the window may
    have left the log, unless that is allowed, `ReplayRefused` when a topic is missing or when the replay of that name
    has taken the window, or a part of it, in another way.
    """
    window, topic = window_of(purpose), clients.settings.input_topic
    known = replays.get(topic, window)
    if known is not None and known.state != COUNTED and not dry_run:
        _refuse_other(known, purpose)
    else:
        _refuse_overlap(replays, topic, window)
        check_topics(clients, purpose)
        refusal = None if dry_run else ReplayRefused
        check_times(clients, purpose, window, refusal)
        counted, load = count(clients, purpose, max_messages, allow_lost=allow_lost, dry_run=dry_run)
        outputs_go_to = purpose.output_topic, purpose.dlq_topic
        check_kept(clients, load, outputs_go_to, now_in_milliseconds(), refusal)
        written = replays.put(topic, window, counted, dag_id, run_id)
        log.info(
            "replay.counted replay_id=%s start=%s end=%s messages=%d selected=%d batches=%d lost=%s",
            window.replay_id, to_text(window.start), to_text(window.end), counted.messages, counted.selected,
            len(counted.batches), counted.lost,
        )  # fmt: skip
        if dry_run:
            return counted, []
        known = written
    if known.state == FINISHED:
        return known, []
    with replays.locked(known.group_id):
        begin(clients, ledger, known)
    return known, [ledger.claim(batch, dag_id, run_id, settings.fingerprint) for batch in known.batches]


def _refuse_other(known: Replay, purpose: Purpose) -> None:
    window = window_of(purpose)
    as_asked = msgspec.structs.replace(
        known.purpose,
        window=msgspec.structs.replace(
            window_of(known.purpose), published=window.published, published_topic=window.published_topic
        ),
    )
    if as_asked != purpose:
        raise ReplayRefused(
            f"replay {window.replay_id} has taken this window with other parameters (topics or filters): "
            f"{msgspec.json.encode(known.purpose).decode()}. Repeat those, or give the replay another id."
        )


def _refuse_overlap(replays: Replays, topic: str, window: ReplayWindow) -> None:
    others = replays.overlapping(topic, window)
    if others:
        raise ReplayRefused(
            f"replay {window.replay_id} has windows that overlap this one without being it ({', '.join(others)}): "
            "messages would be published twice. Give the replay another id."
        )


def check_topics(clients: Clients, purpose: Purpose) -> None:
    """Raise `ReplayRefused` when a topic of the replay is missing, or when the replay would read or mix its outputs."""
    settings = clients.settings
    others = {
        "its input, KAFKA_INPUT_TOPIC": settings.input_topic,
        "the dead letters, KAFKA_DLQ_TOPIC": settings.dlq_topic,
        "the markers of redriven dead letters": settings.redriven_topic,
        "its own dead letters, REPLAY_DLQ_TOPIC": purpose.dlq_topic,
    }
    for what, topic in others.items():
        if topic == purpose.output_topic:
            raise ReplayRefused(f"the output of a replay may not go to {what} ({topic}): name another topic")
    with clients.offsets_reader() as reader:
        topics = with_retries(lambda seconds: reader.list_topics(timeout=seconds), settings.request_timeout_sec).topics
    missing = sorted({purpose.output_topic, purpose.dlq_topic} - {n for n, t in topics.items() if t.error is None})
    if missing:
        partitions = len(topics[settings.input_topic].partitions)
        raise ReplayRefused(
            f"there is no topic {' and no topic '.join(missing)}. Create it as the live ones are: "
            f"kafka-topics.sh --create --topic {missing[0]} --partitions {partitions} "
            f"--config retention.ms=-1 --config retention.bytes={settings.retention_bytes} "
            f"--config max.message.bytes={MESSAGE_BYTES} ({DEAD_LETTER_BYTES} for dead letters)"
        )


def count(
    clients: Clients, purpose: Purpose, max_messages: int | None = None, *, allow_lost: bool, dry_run: bool
) -> tuple[Replay, Load]:
    """Read the window once, from the first message at or after its start to the present end of the log, and cut its
    messages into batches; returns their size and age, too."""
    window, topic = window_of(purpose), clients.settings.input_topic
    bounds, marks = freeze(clients, purpose)
    lost = _lost(clients, bounds, window, allow_lost=allow_lost)
    published_topic = clients.settings.output_topic if window.errors else ""
    window = msgspec.structs.replace(
        window, published_topic=published_topic, published=marks[published_topic] if published_topic else ()
    )
    messages, load = 0, Load()
    kafka = clients.settings
    size = min(max_messages or kafka.batch_size, kafka.batch_size)
    cuts = Cuts([b.partition for b in bounds if b.range.span], kafka.lanes, size, kafka.batch_bytes)
    pick = make_picker(clients, topic, window)
    for chunk in read_ranges(clients, topic, [b.range for b in bounds]):
        messages += len(in_window(chunk, window))
        for row in pick(chunk).tolist():
            partition, size = chunk.partitions[row], len(chunk.values[row] or b"")
            cuts.add(partition, chunk.offsets[row], size)
            load.add(partition, size, chunk.timestamps[row])
    group_id = group_of(clients.settings.consumer_group, window)
    purpose = msgspec.structs.replace(purpose, window=window)
    batches = () if dry_run else tuple(_batches(cuts, topic, group_id, window, purpose))
    counted = Replay(
        state=COUNTED if dry_run else CLAIMED, purpose=purpose, group_id=group_id, batches=batches, marks=marks,
        messages=messages, selected=cuts.selected, lost=lost,
    )  # fmt: skip
    return counted, load


def freeze(clients: Clients, purpose: Purpose) -> tuple[list[Bound], dict[str, tuple[OffsetRange, ...]]]:
    """Where messages of the window can be in the input, and in each topic to which their outputs were or will be
    published.

    Input messages hidden by an open transaction do not count yet, as in live draining. Hidden outputs would be missed
    later: raises `TransactionOpen`.
    """
    settings, start = clients.settings, window_of(purpose).start
    topics = sorted({settings.output_topic, settings.dlq_topic, purpose.output_topic, purpose.dlq_topic})
    await_stable(clients, settings.input_topic)
    require_stable(clients, *topics)
    with clients.offsets_reader() as reader:
        bounds = find_bounds(reader, settings.input_topic, start, settings.request_timeout_sec)
        # A topic with the broker's times says nothing of the window's: any message of it can be of the window.
        starts = {kept.topic: 0 if kept.append_time else start for kept in retentions(clients, *topics)}
        marks = {
            topic: tuple(b.range for b in find_bounds(reader, topic, starts[topic], settings.request_timeout_sec))
            for topic in topics
        }
    return bounds, marks


def _lost(clients: Clients, bounds: list[Bound], window: ReplayWindow, *, allow_lost: bool) -> str | None:
    losses = list(find_losses(clients, clients.settings.input_topic, bounds, window))
    if not losses:
        return None
    how_much = "older than the log" if all(loss.whole for loss in losses) else "older than the log in part"
    text = (
        f"the window {to_text(window.start)} to {to_text(window.end)} is {how_much}: of "
        f"{clients.settings.input_topic}, {', '.join(map(str, losses))}"
    )
    if allow_lost:
        return text
    raise WindowLost(f"{text}. Replay a later window, or set `allow_lost` to replay what is left of this one.")


def _batches(cuts: Cuts, topic: str, group_id: str, window: ReplayWindow, purpose: Purpose) -> Iterator[Batch]:
    """The batches in the order in which they are run: the first of each lane, the second of each, and so on."""
    sequences = dict(cuts.sequences())
    for number, ranges_by_lane in enumerate(zip_longest(*sequences.values())):
        for lane, ranges in zip(sequences, ranges_by_lane, strict=True):
            if ranges is not None:
                yield Batch(
                    batch_id=f"{REPLAY}/{window.replay_id}/{_compact(window.start)}-{_compact(window.end)}/{lane}/{number}",
                    topic=topic, group_id=group_id, lane=lane, ranges=ranges, purpose=purpose,
                )  # fmt: skip


def group_of(consumer_group: str, window: ReplayWindow) -> str:
    """The consumer group that keeps a window's progress."""
    return f"{consumer_group}.{REPLAY}.{window.replay_id}.{_compact(window.start)}-{_compact(window.end)}"


def _compact(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
