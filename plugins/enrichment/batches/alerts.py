"""A published batch in, what a person should know of it out: hardly a message has a key, most are partial or dead.

None of this fails a batch, so its run would be green without a warning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from enrichment.batch import Batch
from enrichment.batches.staged import EVENTS, Drained, Published
from enrichment.caches.base import LookupCounts
from enrichment.codec.json_text import NotJson, TooDeep, parse
from enrichment.enrichers.registry import REGISTRY
from enrichment.messages import event_type
from enrichment.settings import Settings
from enrichment.store.staging import Staging
from enrichment.variables import variable

REASONS_SHOWN = 3
FIELDS_SHOWN = 10


def alerts_of(
    drained: Drained, published: Published, lookups: Mapping[str, LookupCounts], settings: Settings,
    strange: Callable[[], Sequence[str]],
) -> Iterator[str]:  # fmt: skip
    """What is odd about the batch, in sentences, each with what to do. `lookups` are by enrichment; `strange` names
    fields of its messages that the contract does not have, and is asked only when keys are missing."""
    counts, events = published.counts, drained.messages - drained.refused
    if events >= settings.pipeline.warn_from:
        keyless = {name: 1 - found.messages / events for name, found in lookups.items()}
        lacking = [name for name, most in settings.max_keyless_shares.items() if keyless.get(name, 0) > most]
        if lacking:
            keys = ", ".join(f"`{REGISTRY.by_name[name].key}` ({keyless[name]:.1%} go without it)" for name in lacking)
            fields = ", ".join(f"`{field}`" for field in strange())
            yield (
                f"hardly one of {events:,} messages has {keys}, so nothing is looked up by that. "
                + (f"The first has {fields}: are they the same under other names? " if fields else "")
                + f"Where it is as it should be: {', '.join(f'{setting_of(name)}=1' for name in lacking)}"
            )
    if counts.total < settings.pipeline.warn_from:
        return
    if counts.partial > settings.pipeline.warn_share * counts.total:
        errors = Counter(counts.by_reason) - Counter(counts.dead_by_reason)
        yield f"{counts.partial:,} of {counts.total:,} messages were published partial: {said_of(errors)}"
    if counts.dead > settings.pipeline.warn_share * counts.total:
        yield (
            f"{counts.dead:,} of {counts.total:,} messages became dead letters: {said_of(counts.dead_by_reason)}. A "
            "dry run of stacklens_dlq_redrive counts them by what was wrong with them"
        )


def setting_of(name: str) -> str:
    """The variable that says how many messages may lack the key of an enrichment."""
    return variable(REGISTRY.by_name[name].settings, "max_keyless_share")


def said_of(errors: Mapping[str, int]) -> str:
    """The most frequent errors, how often, and what they mean: `user-not-found 12 (the user service knows ...)`."""
    most = sorted(errors.items(), key=lambda error: (-error[1], error[0]))[:REASONS_SHOWN]
    meanings = {reason: f" ({meaning})" for reason, meaning in REGISTRY.reasons.items()}
    return ", ".join(f"{reason} {count:,}{meanings.get(reason, '')}" for reason, count in most)


def strange_fields(staging: Staging, batch: Batch) -> list[str]:
    """Fields of a batch's first message that the contract does not have: perhaps the known ones under other names."""
    for chunk in staging.read(batch.batch_id, EVENTS, ["value"]):
        if chunk.num_rows:
            try:
                first = parse(chunk["value"][0].as_py())
            except (NotJson, TooDeep, UnicodeDecodeError):  # not of what is staged as an event
                return []
            contract = event_type(REGISTRY.keys).__struct_fields__
            return [str(name) for name in first if name not in contract][:FIELDS_SHOWN]
    return []
