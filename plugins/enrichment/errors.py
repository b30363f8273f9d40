"""The exceptions: what went wrong with a whole batch, in sentences that an operator can act on.

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
    """A broker did not create one of the pipeline's topics; the message has its name and the broker's error."""


class RunRefused(EnrichmentError, ValueError):
    """A parameter of the run is invalid, or unknown to its DAG; nothing was done."""


class LanesChanged(EnrichmentError):
    """The group's number of lanes differs from the batch's, or is being changed; nothing was published."""


class ChangeRefused(EnrichmentError):
    """The requested change of the group is not possible; nothing was changed, and the message says why."""


class OffsetsMoved(EnrichmentError):
    """Somebody else moved the group, or Kafka forgot it; nothing was published, and the message says what to do."""


class OffsetsLost(EnrichmentError):
    """Messages that were never read have left the log: retention is shorter than the pipeline's delay."""


class TransactionOpen(EnrichmentError):
    """An open transaction hides messages published after its start; the next try looks again."""


class WindowLost(EnrichmentError):
    """Messages of the window to be replayed have left the log; replay a later window, or allow what is left."""


class ReplayRefused(EnrichmentError):
    """The replay cannot be made as requested; the message says what to change."""


class RedriveRefused(EnrichmentError):
    """The dead letters cannot be sent in again as things are; the message says what to change first."""


class BatchUnbalanced(EnrichmentError):
    """Read does not equal enriched + partial + dead, or too much is dead; nothing was committed, suspect the code.

    `partitions` are those of the source that may hold the cause; empty if unknown.
    """

    def __init__(self, text: str, partitions: Iterable[int] = ()) -> None:
        super().__init__(text)
        self.partitions = tuple(sorted(partitions))


class StagingMissing(EnrichmentError):
    """A file staged by an earlier task is gone; clear the batch's `drain` task together with those after it."""


class StagingUnavailable(EnrichmentError):
    """The staging area could not write or read a file: unreachable, full or too slow; the next try may succeed."""


class ServiceLevelMissed(EnrichmentError):
    """An hour missed its service levels; another try would not help, look at its breaches."""


class PublishRefused(EnrichmentError):
    """The broker refused the transaction; nothing of it is visible, and the next try publishes it again."""


class BatchRefused(PublishRefused):
    """A broker refuses messages of the batch for their own fault; the next batch over them is smaller.

    `blamed` are the messages known to be at fault, by topic and packed headers, with the broker's error. `partitions`
    are those of the source that may hold one; empty if unknown.
    """

    def __init__(
        self, text: str, blamed: Mapping[tuple[str, bytes], str] | None = None, partitions: Iterable[int] = ()
    ) -> None:
        super().__init__(text)
        self.blamed = dict(blamed or {})
        self.partitions = tuple(sorted(partitions))


class RefreshFailed(EnrichmentError):
    """A newer geo database could not be fetched or written; the one in use is kept, and the next try starts again."""


class DatabaseRefused(EnrichmentError):
    """The offered file is not a usable geo database; the one in use is kept. Ask the maker of the file."""


class MetadataNotCleaned(EnrichmentError):
    """`airflow db clean` failed; its output is in the log, and the next try goes on from where it stopped."""


class SourceUnavailable(EnrichmentError):
    """A lookup's source did not answer; `reason` goes into `enrichment_errors`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class OutageHeld(EnrichmentError):
    """A source is down for a whole batch, which waits for it: nothing to do until the configured deadline."""


class RepairIncomplete(EnrichmentError):
    """Partial messages stay as they are: they left the log before their source was back, or every attempt failed."""


class LayerUnavailable(EnrichmentError):
    """A cache tier did not answer; the lookup goes on without it."""
