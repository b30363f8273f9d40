"""The exception family: what went wrong with a whole batch, said so that an operator can act on it.

A bad message is never one of these: it becomes a dead letter or a partially enriched message
(`enrichment.messages.Reason`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping


class EnrichmentError(Exception):
    """Something about a whole batch or the configuration is wrong; the task fails and Airflow retries it."""


class SettingsError(EnrichmentError):
    """An environment variable is missing or has an unusable value; the message names it and what it takes."""


class SchemaError(EnrichmentError):
    """Migrations or declared caches do not fit the database; nothing was changed, and the message says what to do."""


class TopicRefused(EnrichmentError):
    """A broker did not create one of the pipeline's topics; the message names it and has what the broker said."""


class RunRefused(EnrichmentError, ValueError):
    """A parameter of the run makes no sense, or its DAG has none of that name; nothing was done."""


class LanesChanged(EnrichmentError):
    """The group's number of lanes is another one than the batch's, or is being changed; nothing was published."""


class ChangeRefused(EnrichmentError):
    """The group cannot be changed as it was asked for; it is as it was, and the message says what is in the way."""


class OffsetsMoved(EnrichmentError):
    """Somebody else moved the group, or Kafka forgot it; nothing was published, and the message says what to do."""


class OffsetsLost(EnrichmentError):
    """Messages that were never read have left the log: retention is shorter than the pipeline's delay."""


class TransactionOpen(EnrichmentError):
    """Somebody's open transaction hides what is published behind it; the next try looks again."""


class WindowLost(EnrichmentError):
    """Messages of the window to be replayed have left the log; replay a later window, or allow what is left."""


class ReplayRefused(EnrichmentError):
    """The replay cannot be made as it was asked for; the message says what to change."""


class RedriveRefused(EnrichmentError):
    """The letters cannot be sent in again as things are; the message says what to change first."""


class BatchUnbalanced(EnrichmentError):
    """Read does not equal enriched + partial + dead, or too much is dead; nothing was committed, suspect the code.

    `partitions` are those of the source that may hold what did it: none, when nobody can tell.
    """

    def __init__(self, text: str, partitions: Iterable[int] = ()) -> None:
        super().__init__(text)
        self.partitions = tuple(sorted(partitions))


class StagingMissing(EnrichmentError):
    """A file staged by an earlier task is gone; clear the batch's `drain` task together with those after it."""


class StagingUnavailable(EnrichmentError):
    """The staging area did not take or give a file: it cannot be reached, is full or too slow; the next try may do."""


class ServiceLevelMissed(EnrichmentError):
    """An hour missed what is promised; nothing is broken that another try would mend, look at its breaches."""


class PublishRefused(EnrichmentError):
    """The broker refused the transaction; nothing of it is visible, and the next try publishes it again."""


class BatchRefused(PublishRefused):
    """A broker refuses messages of the batch for what they are; the next batch over them is smaller.

    `blamed` are those that are known to be at fault, by topic and packed headers, with the broker's words. `partitions`
    are those of the source that may hold one: none, when nobody can tell.
    """

    def __init__(
        self, text: str, blamed: Mapping[tuple[str, bytes], str] | None = None, partitions: Iterable[int] = ()
    ) -> None:
        super().__init__(text)
        self.blamed = dict(blamed or {})
        self.partitions = tuple(sorted(partitions))


class RefreshFailed(EnrichmentError):
    """A newer geo database could not be fetched or written; the one in use is kept, and the next try starts anew."""


class DatabaseRefused(EnrichmentError):
    """What was offered as a geo database is none that we can use; the one in use is kept. Ask whoever made the file."""


class MetadataNotCleaned(EnrichmentError):
    """`airflow db clean` failed; its output is in the log, and the next try goes on from where it stopped."""


class SourceUnavailable(EnrichmentError):
    """A lookup's source did not answer; `reason` is the word that goes into `enrichment_errors`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class OutageHeld(EnrichmentError):
    """A source is down for a whole batch, which waits for it: nothing to do until the declared deadline."""


class RepairIncomplete(EnrichmentError):
    """Partial messages stay as they are: they left the log before their source was back, or every attempt failed."""


class LayerUnavailable(EnrichmentError):
    """A cache tier did not answer; the lookup goes on without it."""
