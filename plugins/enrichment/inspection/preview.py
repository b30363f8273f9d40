"""A message in; what a batch with today's settings would make of it out. Nothing is published, cached or counted.

The stages are the pipeline's own: decode, look up, compute, route. What differs is what they are opened with
(`enrichment.inspection.untouched`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial

import msgspec
import pandas as pd
import pyarrow as pa
from confluent_kafka import KafkaException

from enrichment.batch import Batch, OffsetRange
from enrichment.batches.drain import stage
from enrichment.batches.outages import Outage, OutageDetector, without_down
from enrichment.batches.provenance import StagedEnrichment
from enrichment.batches.route import Router
from enrichment.caches.base import LookupSource, State, Tier
from enrichment.caches.entries import Answers
from enrichment.codec.decode import decode
from enrichment.codec.records import Chunk
from enrichment.enrichers.base import JSON, Enrichment, ExplainedDerivation, Explanation, events_of
from enrichment.enrichers.declare import LookupEnricher
from enrichment.enrichers.registry import REGISTRY
from enrichment.enrichers.wiring import Enrichers
from enrichment.errors import EnrichmentError
from enrichment.inspection.answers import SourceAnswer
from enrichment.inspection.scan import FoundMessage
from enrichment.inspection.shown import MessageDetail, detail_of
from enrichment.inspection.topics import ShownTopic, TopicRole, patient_clients
from enrichment.inspection.untouched import BoundedSource, Untouched
from enrichment.kafka.asking import text_of
from enrichment.kafka.limits import topic_limits
from enrichment.kafka.topic_limits import TopicLimits
from enrichment.resources import Resources

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
CAME_FROM = {
    Tier.MEMORY: "known without asking",
    Tier.POSTGRES: "the cache table",
    Tier.SOURCE: "the source, asked now",
}


class PreviewedAnswer(SourceAnswer, frozen=True):
    """What an enrichment's source says for a message now, and from where that came. `detail` says why a source failed,
    `why` explains the computed columns, if there are any."""

    came_from: str
    detail: str
    why: Explanation | None


class Previewed(msgspec.Struct, frozen=True):
    """What a message would become: an enriched message or a dead letter. `notes` say in what a batch may differ."""

    given: MessageDetail
    outcome: MessageDetail
    answers: list[PreviewedAnswer]
    notes: list[str]


def preview(r: Resources, given: FoundMessage, clock: Callable[[], datetime]) -> Previewed:
    """What a message would become now. Sources that do not answer within seconds count as down.

    Raises `SettingsError` where a setting would fail every batch.
    """
    notes: list[str] = []
    kafka = r.settings.kafka
    staged = stage(_chunk(given), partial(decode, keys=REGISTRY.keys))
    events = events_of({name: staged.keys[name] for name in REGISTRY.keys})
    added: dict[str, Enrichment] = {}
    answers: list[PreviewedAnswer] = []
    outages: list[Outage] = []
    with Untouched(r) as site:
        enrichers = Enrichers(site, r.settings.enrichers, r.settings.cache, lambda: clock().timestamp())
        for declaration in REGISTRY.enrichers:
            added[declaration.name], answer = _look_up(site, enrichers, declaration, events, added)
            detector = OutageDetector()
            detector(events, added[declaration.name])
            outage = Outage.of(declaration.source, detector.asked, r.settings.pipeline.outage_share)
            outages += [] if outage is None else [outage]
            answers.append(answer)
    output, letters = _limits(r, notes)
    if r.settings.pipeline.outage_policy == "hold" and any(outage.down for outage in outages):
        notes.append("a batch would wait for the source that is down (ENRICHMENT_OUTAGE_POLICY=hold)")
    batch = Batch(
        batch_id="preview",
        topic=kafka.input_topic,
        group_id=kafka.consumer_group,
        lane=given.partition % kafka.lanes,
        ranges=(OffsetRange(given.partition, given.offset, given.offset + 1),),
    )
    moment = clock().isoformat(timespec="milliseconds").replace("+00:00", "Z")
    required = without_down(r.settings.pipeline.required_sources, outages)
    router = Router(batch, moment, output, letters, required)
    additions = [StagedEnrichment.of(REGISTRY.by_name[name].source, one) for name, one in added.items()]
    routed = list(router.route(iter([staged.events]), additions, staged.refused))
    [outcome] = [
        detail_of(message, topic)
        for part in routed
        for topic, chunk in (
            (ShownTopic(kafka.output_topic, TopicRole.OUTPUT), part.analytics),
            (ShownTopic(kafka.dlq_topic, TopicRole.DEAD_LETTERS), part.dead_letters),
        )
        for message in _messages(topic.name, chunk)
    ]
    shown = detail_of(given, ShownTopic(given.topic, TopicRole.INPUT))
    return Previewed(shown, outcome, answers if events.shape[0] else [], notes)


def _chunk(given: FoundMessage) -> Chunk:
    return Chunk.of(
        [given.partition], [given.offset], [given.timestamp], [given.key],
        [given.headers] if given.headers is not None else [None],  # type: ignore[list-item]  # null: unread
        [given.value],
    )  # fmt: skip


def _messages(topic: str, chunk: Chunk) -> list[FoundMessage]:
    parts = zip(chunk.partitions, chunk.offsets, chunk.timestamps, chunk.keys, chunk.headers, chunk.values, strict=True)
    return [FoundMessage(topic, *part) for part in parts]


def _look_up(
    site: Untouched, enrichers: Enrichers, declaration: LookupEnricher, events: pd.DataFrame,
    added: Mapping[str, Enrichment],
) -> tuple[Enrichment, PreviewedAnswer]:  # fmt: skip
    """What an enrichment adds, and how its source has answered."""
    guarded: list[BoundedSource] = []

    def guard(source: LookupSource) -> LookupSource:
        guarded.append(BoundedSource(source, declaration, site))
        return guarded[-1]

    enricher, derivation = enrichers.open_unkept(declaration, guard)
    answers = enricher.look_up(events)
    earlier = {e.name: added[e.name] for e in REGISTRY.earlier(declaration)}
    enrichment = enricher.enrich(events, answers, earlier)
    why = None
    if isinstance(derivation, ExplainedDerivation) and len(events):
        why = derivation.explain(enricher.join(events, answers), earlier, 0)
    return enrichment, _answer(declaration, events, answers, enrichment, guarded[-1].detail, why)


def _answer(
    declaration: LookupEnricher, events: pd.DataFrame, answers: Answers, enrichment: Enrichment, detail: str,
    why: Explanation | None,
) -> PreviewedAnswer:  # fmt: skip
    keys = events[declaration.key].tolist()
    key = keys[0] if keys and not pd.isna(keys[0]) else None
    status, is_stale, came_from, columns = "not asked", False, "", b""
    if key is not None:
        entry, tier = answers[0].entry, answers[0].tier
        status = "answered" if entry.state is State.FOUND else entry.reason or ""
        is_stale = entry.stale
        came_from = f"{CAME_FROM[Tier.POSTGRES]}, as the source failed" if entry.stale else CAME_FROM[tier]
    if keys:
        columns = pa.array(enrichment.values[JSON].array)[int(enrichment.codes[0])].as_py() or b""
    return PreviewedAnswer(
        name=declaration.name,
        source=declaration.source,
        title=declaration.title,
        field=declaration.key,
        key=key,
        status=status,
        is_stale=is_stale,
        columns=_decode_fields(b"{" + columns + b"}"),
        came_from=came_from,
        detail=detail,
        why=why,
    )


def _limits(r: Resources, notes: list[str]) -> tuple[TopicLimits, TopicLimits]:
    """What the two topics take; where the brokers do not say, the settings' size."""
    kafka = r.settings.kafka
    try:
        output, letters = topic_limits(patient_clients(r), kafka.output_topic, kafka.dlq_topic)
        return output, letters
    except (KafkaException, EnrichmentError) as failed:
        notes.append(
            f"the brokers do not say what their topics take ({text_of(failed)}): only KAFKA_MAX_MESSAGE_BYTES counts "
            "here"
        )
        most = kafka.max_message_bytes
        return TopicLimits(kafka.output_topic, most), TopicLimits(kafka.dlq_topic, most)
