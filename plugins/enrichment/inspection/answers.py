"""An enriched message in; what each enrichment's source had said for it out, as far as the message tells."""

from __future__ import annotations

from typing import Any

import msgspec

from enrichment.caches.base import State
from enrichment.enrichers.declare import LookupEnricher
from enrichment.enrichers.registry import REGISTRY
from enrichment.repair.corrections import PublishedMessage

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class SourceAnswer(msgspec.Struct, frozen=True):
    """What an enrichment has added to a message.

    `key` is what its source was asked for, None without one. `status` is `answered`, `not asked` or the reason why its
    columns are null; `is_stale` says that the answer had expired. `columns` are those of the message, as JSON.
    """

    name: str
    source: str
    title: str
    field: str
    key: str | None
    status: str
    is_stale: bool
    columns: dict[str, msgspec.Raw]


def answers_in(value: bytes | None) -> list[SourceAnswer]:
    """The answers of all sources; empty for what is not an enriched message."""
    try:
        message, fields = PublishedMessage(value), _decode_fields(value or b"")
        if "enrichment_sources" not in fields:
            return []
        return [_answer(message, fields, declaration) for declaration in REGISTRY.enrichers]
    except _UNREADABLE:
        return []


def _answer(message: PublishedMessage, fields: dict[str, Any], declaration: LookupEnricher) -> SourceAnswer:
    entry = message.answer(declaration)
    status = "not asked" if entry is None else "answered" if entry.state is State.FOUND else entry.reason or ""
    return SourceAnswer(
        name=declaration.name,
        source=declaration.source,
        title=declaration.title,
        field=declaration.key,
        key=message.key(declaration),
        status=status,
        is_stale=entry is not None and entry.stale,
        columns={name: fields[name] for name in declaration.output_columns if name in fields},
    )
